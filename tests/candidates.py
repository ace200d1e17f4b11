"""Candidates of a choice, made from nothing but numbers."""

from __future__ import annotations

import numpy as np

from paredown.benchmarks.measurements import CandidateMeasurement, Measurements
from paredown.benchmarks.measuring.latency import OFFLINE, SINGLE
from paredown.benchmarks.selection.choice import CandidateResult, CheapestArrays, Choice, FrontierArrays, Latency
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
    fields = {
        "metric_validation": right / ROWS * 100,
        "drop_validation": paired_drop(BASE, correct)[0],
        "drop_upper_95": drop_upper_95(BASE, correct),
        "cost_per_million": cost,
        "latency_ms": Latency(p50=1.0, p95=2.0, p99=3.0, mean=1.1, n=100, p50_ci=(0.9, 1.1)),
        "size_mb": 10.0,
        "memory_mb": 100.0,
        **figures,
    }
    return Row(result(name, **fields), steps, correct, cost * np.exp(noise * (luck - luck.mean()) / luck.std()))


def result(name: str = "a/onnxruntime/fp32", **fields) -> CandidateResult:
    """A candidate's entry in choice.json; what is not given is null."""
    return CandidateResult.model_validate(
        {"name": name, "runtime": "onnxruntime", "precision": "fp32", "metric": "accuracy", **fields}
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
    found = row(name, float(np.concatenate(turns).mean()), 840, steps=steps).result
    return Row(found, steps, np.arange(ROWS) < 840, costs)


JUDGED = 400  # validation rows, and test rows, of `candidate`


def candidate(
    name: str, ms: float, lost: int = 0, test_lost: int = 0, steps: list | None = None, **changes
) -> CandidateMeasurement:
    """An entry of measurements.json: `ms` a call, wrong on `lost` validation rows that the baseline has right."""
    model, runtime, precision = name.split("/")
    random = np.random.default_rng(sum(name.encode()))
    turns = [(ms * np.exp(random.normal(0, 0.01, 20))).tolist() for _ in range(PROCESSES)]
    right = lambda wrong: "0" * (wrong + 60) + "1" * (JUDGED - wrong - 60)  # noqa: E731
    stages = [{"stage": "prune", "heads": 0.5}] if steps is None and model != "teacher" else steps or []
    fields = {
        "name": name, "model": model, "runtime": runtime, "precision": precision, "steps": stages, "size_mb": 10.0,
        "artifact": f"steps/{name.replace('/', '-')}-0", "details": {}, "compression_s": 10.0, "parameters": 1,
        "timing": {"turns": {SINGLE: turns, OFFLINE: turns}, "processes": list(range(PROCESSES))},
        "metric_validation": 100 * (JUDGED - lost - 60) / JUDGED, "correct_validation": right(lost),
        "metric_test": 100 * (JUDGED - test_lost - 60) / JUDGED, "correct_test": right(test_lost),
    }  # fmt: skip
    return CandidateMeasurement.model_validate(fields | changes)


def measured(*candidates: CandidateMeasurement, noisy: bool = False, **changes) -> Measurements:
    """measurements.json of these candidates and the baseline."""
    conditions = {
        "control": None, "noisy": noisy, "noisy_because": "the control is wide" if noisy else None, "sittings": 6,
        "processes": 6, "busy_before": [], "busy_during": [], "steal_share": None, "load_before": None,
        "seconds": 9.0, "covers": "6 processes",
    }  # fmt: skip
    fields = {
        "schema": 3, "name": "tiny", "task": "text-classification", "metric": "accuracy", "labels": ["no", "yes"],
        "machine": {"cores": 2}, "rows": {"train": 9, "unlabeled": 0, "validation": JUDGED, "test": JUDGED},
        "certificate_split": "test", "golden_texts": [], "latency": {"batch_size": 1, "threads": 2}, "prices": {},
        "choose": {}, "gold_validation": None, "keys": {}, "test_digest": "a", "conditions": conditions,
        "tokenizer_ms": 0.1, "tokens_median": 9.0, "compression_s": 20.0, "control": None,
        "baseline": "teacher/pytorch/fp32", "checkpoint": "teacher",
        "candidates": [candidate("teacher/pytorch/fp32", 10.0), *candidates],
    }  # fmt: skip
    return Measurements.model_validate(fields | changes)


CERTIFICATE = {
    "split": "test", "rows": 400, "metric": 77.6, "metric_baseline": 78.2, "drop": 0.6, "drop_upper_95": 2.1,
    "certified_at": "2026-01-01T00:00:00+00:00", "looks": 1,
}  # fmt: skip


def choice_of(chosen: CandidateResult, baseline: CandidateResult, **changes) -> Choice:
    """choice.json where `chosen` was selected."""
    rule = {"rule": "cheapest", "max_drop": 1.0, "confidence": 0.8, "value_per_point": None, "gates": [], "budgets": {}}
    conditions = {
        "control": None, "noisy": False, "noisy_because": "the control is [0.25, 3.65]", "processes": 6, "sittings": 6,
        "busy_before": [], "busy_during": [], "steal_share": None, "load_before": None, "seconds": 9.0, "covers": "all",
    }  # fmt: skip
    frontier, cheapest = (dict.fromkeys(arrays.model_fields, ()) for arrays in (FrontierArrays, CheapestArrays))
    price = {"now": 0.1, "lower": None, "upper": None}
    fields = {
        "chosen": chosen, "baseline": baseline, "candidates": [chosen],
        "noisy": False, "plain_int8": "teacher/onnxruntime/int8-dynamic", "certificate": CERTIFICATE, "nearest": None,
        "rule": rule, "conditions": conditions, "control": None, "why": "the cheapest", "tied_with": [],
        "runner_up": None, "pareto": [], "pareto_clear": [], "notes": [],
        "card": {"lambda": [], "price_per_hour": price, "limits": [], "frontier": frontier, "cheapest": cheapest},
    }  # fmt: skip
    return Choice.model_validate(fields | changes)
