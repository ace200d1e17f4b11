"""One candidate's measurements as the figures that are compared: a row of the choice."""

from __future__ import annotations

import numpy as np

from ..benchmarks.choose import Row
from ..benchmarks.cost import Cost, Prices, payback
from ..benchmarks.intervals import ratio
from ..benchmarks.latency import OFFLINE, SINGLE, Measurement, Timing, joules_a_row, server_rate
from ..benchmarks.quality import (
    by_key,
    drop_upper_95,
    flip_share,
    macro_f1,
    macro_f1_drop,
    mcnemar_p,
    negative_flips,
    paired_drop,
    wilson,
)
from ..compress.noise import MEASURED
from ..compress.outputs import points
from ..compress.settings import Timed
from .recipe import BASELINE


def promise_of(entry: dict, entries: dict[str, dict]) -> dict | None:
    """What its cuts to a time promised together in this candidate's runtime and precision, and what was measured.

    Each round promises against the model that it was given. None where a step changed the speed and promised nothing.
    """
    promised = []
    for step, made in zip(entry["steps"], entry.get("made", {}).values(), strict=False):
        if step["stage"] == "distill" or (step["stage"] == "prune" and not made.get("promised_speedup")):
            return None
        if step["stage"] == "prune":
            target = Timed.model_validate(step.get("target", {}))
            if (entry["runtime"], entry["precision"], 1) != (target.runtime, target.precision, target.batch_size):
                return None
            promised.append(made["promised_speedup"])
    if not promised:
        return None
    uncut = entries.get(f"{BASELINE}/{entry['runtime']}/{entry['precision']}")
    if uncut is None or not uncut.get("timing") or not entry.get("timing"):
        return None
    ours, theirs = Timing(**entry["timing"]), Timing(**uncut["timing"])
    slower, lo, hi = ratio(ours.turns[SINGLE], theirs.turns[SINGLE], ours.processes)
    return {"promised": float(np.prod(promised)), "measured": 1 / slower, "measured_ci": [1 / hi, 1 / lo]}


def why_worse(entry: dict) -> str | None:
    """What rounding to INT8 did to the answers, where it lost points against the model's own checkpoint."""
    parity = entry.get("parity")
    if not entry["precision"].startswith("int8") or not parity or parity["metric_drop"] <= 0:
        return None
    moved = parity["mean_difference"]  # none of texts
    return (
        f"INT8 alone loses {parity['metric_drop']:.1f} of these points: it changes {1 - parity['agreement']:.1%} of "
        f"the answers{f' and moves a logit by {moved:.2f} in the mean' if moved else ''}"
    )


def row_of(entry: dict, base: dict, base_cost: Cost, prices: Prices, measurements: dict, promise: dict | None) -> Row:
    """A candidate's row; `base` is the checkpoint as it came, `base_cost` what serving it costs."""
    figures: dict = {
        "name": entry["name"],
        "runtime": entry["runtime"],
        "precision": entry["precision"],
        "metric": measurements["metric"],
    }
    steps = len(entry["steps"]) + (entry["precision"] != "fp32")
    if entry.get("failed"):
        figures |= {"size_mb": None, "steps": entry["steps"]}
        return Row(figures, steps, np.zeros(0, bool), np.zeros(0), cannot=entry["failed"])
    correct, base_correct = _bits(entry, "validation"), _bits(base, "validation")
    if entry.get("cannot_run") or correct is None or base_correct is None:
        figures |= {"size_mb": entry["size_mb"], "steps": entry["steps"]}
        reason = f"cannot run here: {entry.get('cannot_run')}"
        return Row(figures, steps, np.zeros(0, bool), np.zeros(0), cannot=reason)
    timing, base_timing = Timing(**entry["timing"]), Timing(**base["timing"])
    single, offline = timing.summary(SINGLE), timing.summary(OFFLINE)
    slower, lo, hi = ratio(timing.turns[SINGLE], base_timing.turns[SINGLE], timing.processes)
    scenario, batch, measured = _serving_scenario(single, offline, prices, measurements["latency"]["batch_size"])
    throughput = 1e3 * batch / measured.mean
    joules = joules_a_row(timing)
    cost = Cost.of(prices, throughput, entry["size_mb"], entry["compression_s"], joules)
    samples = np.concatenate(timing.turns[SINGLE])
    test, base_test = _bits(entry, "test"), _bits(base, "test")
    figures |= {
        "metric_validation": entry["metric_validation"],
        "metric_validation_ci": wilson(correct),
        "metric_test": entry.get("metric_test"),
        "metric_test_ci": wilson(test) if test is not None else None,
        "drop_validation": paired_drop(base_correct, correct)[0],
        "drop_test": paired_drop(base_test, test)[0] if test is not None and base_test is not None else None,
        "drop_upper_95": drop_upper_95(base_correct, correct),
        "mcnemar_p": mcnemar_p(base_correct, correct),
        "negative_flips": negative_flips(base_correct, correct),
        "latency_ms": {"p50": single.p50, "p95": single.p95, "p99": single.p99, "mean": single.mean, "n": single.n}
        | {"p50_ci": [single.lo, single.hi]},
        "latency_batch_ms": {"p50": offline.p50, "p95": offline.p95, "p99": offline.p99, "n": offline.n},
        "speedup_vs_baseline": 1 / slower,
        "speedup_ci": [1 / hi, 1 / lo],
        "speedup_mean": float(np.mean(np.concatenate(base_timing.turns[SINGLE]))) / single.mean,
        "promised_speedup": promise,
        "profile": entry.get("profile"),
        "sweep": entry.get("sweep"),
        "throughput_per_s": throughput,
        "throughput_scenario": {"name": scenario, "batch_size": batch},
        "server_per_s": server_rate(samples, prices.server_p99_ms) if prices.server_p99_ms else None,
        "size_mb": entry["size_mb"],
        "memory_mb": timing.memory_mb,
        "gpu_memory_mb": timing.gpu_memory_mb,
        "load_s": timing.load_s,
        "first_call_ms": timing.first_call_ms,
        "cold_start_s": timing.cold_start_s,
        "energy_j": joules,
        "cost_per_million": cost.total,
        "cost_parts": cost.to_json(),
        **payback(cost, base_cost, prices),
        **{key: entry[key] for key in ("new_tokens_per_s",) if entry.get(key) is not None},
        **_quality(entry, base, measurements),
        "steps": entry["steps"],
        "why_slower": entry.get("why_slower"),
        "why_worse": why_worse(entry),
    }
    cannot = "a bundle runs without torch; PyTorch is measured to compare" if entry["runtime"] == "pytorch" else None
    times = np.array([np.mean(turn) for turn in timing.turns[scenario]])
    return Row(figures, steps, correct, cost.total_at(times / times.mean()), cost.unhurried, cannot)


def baseline_cost(base: dict, prices: Prices, measurements: dict) -> Cost:
    """What serving the checkpoint as it came costs."""
    timing = Timing(**base["timing"])
    _, batch, measured = _serving_scenario(
        timing.summary(SINGLE), timing.summary(OFFLINE), prices, measurements["latency"]["batch_size"]
    )
    return Cost.of(prices, 1e3 * batch / measured.mean, base["size_mb"], 0.0, joules_a_row(timing))


def _quality(entry: dict, base: dict, measurements: dict) -> dict:
    """Figures of quality beside the metric: groups of rows, changed texts; of whole texts: macro F1, calibration."""
    correct, base_correct = _bits(entry, "validation"), _bits(base, "validation")
    assert correct is not None
    assert base_correct is not None
    figures: dict = {
        **_of_labels(entry, base, measurements),
        "negative_flip_share": flip_share(base_correct, correct),
        "beside_validation": entry.get("beside_validation"),
        "beside_test": entry.get("beside_test"),
        "calibration_error": entry["calibration_error"],
        "attribution_agreement": _mean_agreement(entry),
        "slices": {kind: _parts(kind, base_correct, correct, keys) for kind, keys in measurements["keys"].items()},
    }
    for kind in ("label", "group"):
        found = figures["slices"].get(kind)
        figures[f"{kind}_drop"] = max(part["drop"] for part in found) if found else None
        figures[f"{kind}_drop_upper_95"] = max(part["drop_upper_95"] for part in found) if found else None
    for change in MEASURED:
        ours, theirs = (_bits(e.get("robustness", {}), change, "") for e in (entry, base))
        names = [f"{change}_{figure}" for figure in ("metric", "drop", "drop_upper_95")]
        found = (None, None, None)
        if ours is not None and theirs is not None:
            found = (points(ours), paired_drop(theirs, ours)[0], drop_upper_95(theirs, ours))
        figures |= dict(zip(names, found, strict=True))
    return figures


def _parts(kind: str, base: np.ndarray, correct: np.ndarray, keys: list[str]) -> list[dict]:
    """Groups of rows, the worst first; those by length as they grow."""
    parts = by_key(base, correct, keys)
    if kind == "length":
        parts.sort(key=lambda part: (part["name"].startswith("more"), not part["name"].startswith("up")))
    return parts


def _mean_agreement(entry: dict) -> float | None:
    """Mean of the rank correlations with the teacher's words, over the rows that have one."""
    found = [value for value in entry.get("attribution_agreement") or () if value is not None]
    return float(np.mean(found)) if found else None


def _of_labels(entry: dict, base: dict, measurements: dict) -> dict:
    """Macro F1 of whole texts; None of words, whose metric is an F1 already."""
    if entry["predicted_validation"] is None:
        return dict.fromkeys(("macro_f1", "macro_f1_drop", "macro_f1_drop_upper_95"))
    gold = np.array(measurements["gold_validation"])
    said, before = np.array(entry["predicted_validation"]), np.array(base["predicted_validation"])
    drop, upper = macro_f1_drop(before, said, gold)
    return {"macro_f1": float(macro_f1(said, gold)[0]), "macro_f1_drop": drop, "macro_f1_drop_upper_95": upper}


def _serving_scenario(
    single: Measurement, offline: Measurement, prices: Prices, batch: int
) -> tuple[str, int, Measurement]:
    """The one with more throughput among those whose p95 keeps the latency limit; single-stream when none does."""
    options = [(OFFLINE, batch, offline), (SINGLE, 1, single)]
    limit = prices.latency_limit_ms
    kept = [option for option in options if limit is None or option[2].p95 <= limit]
    return max(kept, key=lambda option: option[1] / option[2].mean) if kept else options[1]


def _bits(entry: dict, name: str, prefix: str = "correct_") -> np.ndarray | None:
    """(rows,) bool, or (rows, 2) float64 of points gained and possible: `Task.correct`."""
    bits = entry.get(prefix + name)
    if bits is None:
        return None
    if isinstance(bits, list):
        return np.array(bits, dtype=np.float64)
    return np.frombuffer(bits.encode(), dtype=np.uint8) == ord("1")
