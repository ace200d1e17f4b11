"""Candidates of a choice, made from nothing but numbers."""

from __future__ import annotations

import numpy as np

from paredown.benchmarks.selection.selection import ChooseSettings, Row
from paredown.benchmarks.statistics.metric_intervals import drop_upper_95, paired_drop
from paredown.benchmarks.statistics.time_intervals import by_process

ROWS, PROCESSES = 1000, 6
BASE = np.arange(ROWS) < 850


def row(name: str, cost: float, right: int, *, steps: int = 1, noise: float = 0.001, **figures) -> Row:
    """A candidate that is right on the first `right` rows, so that every difference is one-sided.

    `noise`: standard deviation of its cost from process to process, as a share; every name has processes of its own.
    """
    correct = np.arange(ROWS) < right
    luck = np.random.default_rng(sum(name.encode())).normal(0, 1, PROCESSES)
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
        cost * np.exp(noise * (luck - luck.mean()) / luck.std()),
    )


def settings(**values) -> ChooseSettings:
    return ChooseSettings.model_validate(values)


def autocorrelated(random: np.random.Generator, steps: int, correlation: float, spread: float) -> np.ndarray:
    """A stationary AR(1) process of this many steps, standard deviation `spread`."""
    found = [random.normal(0, spread)]
    for _ in range(steps - 1):
        found.append(correlation * found[-1] + random.normal(0, spread * np.sqrt(1 - correlation**2)))
    return np.array(found)


def timed(
    random: np.random.Generator,
    machine: np.ndarray,
    *,
    speed: float = 1.0,
    process_effect: float = 0.0,
    correlation: float = 0.0,
    turn_noise: float = 0.05,
) -> tuple[list[list[float]], list[int]]:
    """Milliseconds of an artefact's calls by turn, and the process of each turn.

    `machine`: (processes, turns) how slow the machine was, common to all artefacts; `process_effect`: standard
    deviation of what each process has for itself, as a share; `correlation`: of the noise of one turn with the next in
    the same process.
    """
    turns: list[list[float]] = []
    for row in machine:
        luck = random.normal(0, process_effect)
        own = autocorrelated(random, len(row), correlation, turn_noise)
        turns += [
            (m * speed * np.exp(luck + o) * random.lognormal(0, 0.1, 20)).tolist()
            for m, o in zip(row, own, strict=True)
        ]
    return turns, [process for process, row in enumerate(machine) for _ in row]


def simulated(
    name: str, random: np.random.Generator, machine: np.ndarray, speed: float, steps: int = 1, **noise: float
) -> Row:
    """A candidate whose calls take `speed` times as long, on a machine that is now slower and now faster.

    `machine` and `noise` as in `timed`.
    """
    turns, processes = timed(random, machine, speed=speed, **noise)
    costs = by_process(turns, processes, "mean")
    figures = row(name, float(np.concatenate(turns).mean()), 840, steps=steps).figures
    return Row(figures, steps, np.arange(ROWS) < 840, costs)
