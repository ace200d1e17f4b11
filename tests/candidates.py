"""Candidates of a choice, made from nothing but numbers."""

from __future__ import annotations

import numpy as np
from paredown.benchmarks.choose import ChooseSettings, Row
from paredown.benchmarks.quality import drop_upper_95, paired_drop

ROWS, TURNS = 1000, 12
BASE = np.arange(ROWS) < 850


def row(name: str, cost: float, right: int, *, steps: int = 1, noise: float = 0.001, **figures) -> Row:
    """A candidate that is right on the first `right` rows, so that every difference is one-sided.

    `noise`: standard deviation of its cost from turn to turn, as a share; every name has turns of its own.
    """
    correct = np.arange(ROWS) < right
    turns = np.random.default_rng(sum(name.encode())).normal(0, 1, TURNS)
    return Row(
        {
            "name": name,
            "metric_validation": right / ROWS * 100,
            "drop_validation": paired_drop(BASE, correct)[0],
            "drop_upper_95": drop_upper_95(BASE, correct),
            "cost_per_million": cost,
            "latency_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0},
            "size_mb": 10.0,
            "memory_mb": 100.0,
            **figures,
        },
        steps,
        correct,
        cost * np.exp(noise * (turns - turns.mean()) / turns.std()),
    )


def settings(**values) -> ChooseSettings:
    return ChooseSettings.model_validate(values)


def simulated(name: str, random: np.random.Generator, machine: np.ndarray, speed: float, steps: int = 1) -> Row:
    """A candidate whose calls take `speed` times as long, on a machine that is now slower and now faster."""
    turns = [m * speed * random.lognormal(0, 0.05) * random.lognormal(0, 0.1, 30).mean() for m in machine]
    figures = row(name, float(np.mean(turns)), 840, steps=steps).figures
    return Row(figures, steps, np.arange(ROWS) < 840, np.array(turns))
