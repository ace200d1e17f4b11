"""A candidate's entry in choice.json, computed from its measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paredown.benchmarks.cost import Cost, Prices, payback
from paredown.benchmarks.intervals import Statistic, as_wide, by_process, carried, factors, half_width, ratio
from paredown.benchmarks.latency import OFFLINE, SINGLE, Measurement, Timing, joules_a_row, server_rate
from paredown.benchmarks.report_text import int8_products
from paredown.benchmarks.selection import Row
from paredown.benchmarks.statistics import (
    by_key,
    drop_upper,
    flip_share,
    macro_f1,
    macro_f1_upper_bounds,
    mcnemar_p,
    metric_interval,
    negative_flips,
    paired_drop,
    upper_bounds,
)
from paredown.compress.config import Timed
from paredown.export.runtimes.registry import RUNTIMES
from paredown.tasks.perturbations import MEASURED
from paredown.tasks.scores import points

from ..recipe.schema import BASELINE

GROUPED = ("label", "group")  # groups of rows whose worst drop can be limited
LEAST_SHARE = 0.1  # of the validation rows that the first model of a cascade has to answer


def promise_of(entry: dict, entries: dict[str, dict], noisy: bool = False) -> dict | None:
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
    measured = carried(1 / slower, 1 / hi, 1 / lo, noisy)
    return {
        "promised": float(np.prod(promised)),
        "measured": measured,
        "measured_ci": [1 / hi, 1 / lo],
        "noisy": noisy,
    }


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


@dataclass(frozen=True)
class Opponents:
    """What every candidate is held against: the original checkpoint in PyTorch, and in plain INT8 where that ran."""

    base: dict  # entry of measurements.json
    base_cost: Cost
    base_costs: np.ndarray  # (processes,) money per million requests
    plain_int8: dict | None
    control: list[float] | None  # the ends of the A/A control's interval
    noisy: bool  # the A/A control failed: ratios are stated as ranges


def opponents_of(measurements: dict, prices: Prices) -> Opponents:
    """The baseline, and the cheapest INT8 of the checkpoint itself in a CPU runtime: what others give in minutes."""
    entries = measurements["candidates"]
    base = next(entry for entry in entries if entry["name"] == measurements["baseline"])
    plain = [
        entry
        for entry in entries
        if entry["model"] == BASELINE
        and entry["precision"].startswith("int8")
        and not RUNTIMES[entry["runtime"]].SPEC.gpu
        and entry.get("timing")
    ]
    costs = {entry["name"]: _cost_of(entry, prices, measurements)[0].total for entry in plain}
    base_cost, base_costs, *_ = _cost_of(base, prices, measurements, compressed=False)
    best = min(plain, key=lambda entry: costs[entry["name"]], default=None)
    seen = measurements["conditions"]
    return Opponents(base, base_cost, base_costs, best, (seen["control"] or {}).get("ratio_ci"), seen["noisy"])


def row_of(entry: dict, against: Opponents, prices: Prices, measurements: dict, promise: dict | None) -> Row:
    """A candidate's row: its figures but for the bounds of its drop, which hold for all candidates together."""
    base = against.base
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
    timing = Timing(**entry["timing"])
    single, offline = timing.summary(SINGLE), timing.summary(OFFLINE)
    cost, costs, scenario, batch, throughput = _cost_of(entry, prices, measurements)
    samples = np.concatenate(timing.turns[SINGLE])
    figures |= {
        "metric_validation": entry["metric_validation"],
        "metric_validation_ci": metric_interval(correct),
        "metric_test": None,  # sealed: `certified` opens them for what was selected
        "metric_test_ci": None,
        "drop_validation": paired_drop(base_correct, correct)[0],
        "drop_test": None,
        "certificate": None,
        "mcnemar_p": mcnemar_p(base_correct, correct),
        "negative_flips": negative_flips(base_correct, correct),
        "latency_ms": {"p50": single.p50, "p95": single.p95, "p99": single.p99, "mean": single.mean, "n": single.n}
        | {"p50_ci": [single.lo, single.hi]},
        "latency_batch_ms": {"p50": offline.p50, "p95": offline.p95, "p99": offline.p99, "n": offline.n},
        **_speedups(entry, against),
        "promised_speedup": promise,
        "profile": entry.get("profile"),
        "sweep": entry.get("sweep"),
        "throughput_per_s": throughput,
        "throughput_scenario": {"name": scenario, "batch_size": batch},
        "serving": {"instances": 1, "threads": measurements["latency"]["threads"] or measurements["machine"]["cores"]}
        | {"batch_size": batch},
        "server_per_s": server_rate(samples, prices.server_p99_ms) if prices.server_p99_ms else None,
        "size_mb": entry["size_mb"],
        "memory_mb": timing.memory_mb,
        "gpu_memory_mb": timing.gpu_memory_mb,
        "load_s": timing.load_s,
        "first_call_ms": timing.first_call_ms,
        "cold_start_s": timing.cold_start_s,
        "energy_j": joules_a_row(timing),
        "cost_per_million": cost.total,
        "cost_vs_baseline": _cost_ratio(costs, against),
        "cost_parts": cost.to_json(),
        **payback(cost, against.base_cost, prices),
        **{key: entry[key] for key in ("new_tokens_per_s",) if entry.get(key) is not None},
        **_quality(entry, base, measurements),
        "cascade": _cascade(entry),
        "int8_products": int8_products(entry.get("details")),
        "steps": entry["steps"],
        "why_slower": entry.get("why_slower"),
        "why_worse": why_worse(entry),
    }
    return Row(figures, steps, correct, costs, cost.unhurried, _cannot(entry, cost.total, prices, measurements))


def _speedups(entry: dict, against: Opponents) -> dict:
    """How many times as fast as the checkpoint in PyTorch and in plain INT8, one row a call, with 95 % intervals.

    `speedup_vs_baseline` is of the median; of a cascade, whose rows differ widely, of the mean. In a noisy run each
    is the end of its interval nearest to 1.
    """
    timing, base = Timing(**entry["timing"]), Timing(**against.base["timing"])
    statistic = "mean" if _is_cascade(entry) else "median"

    def times(other: Timing, of: Statistic) -> tuple[float, list[float]]:
        slower, lo, hi = ratio(timing.turns[SINGLE], other.turns[SINGLE], timing.processes, of)
        lo, hi = as_wide(slower, lo, hi, against.control)
        return carried(1 / slower, 1 / hi, 1 / lo, against.noisy), [1 / hi, 1 / lo]

    point, interval = times(base, statistic)
    mean, mean_ci = times(base, "mean")
    p95, p95_ci = times(base, "p95")
    plain, plain_ci = None, None
    if against.plain_int8 is not None:
        plain, plain_ci = times(Timing(**against.plain_int8["timing"]), statistic)
    return {
        "speedup_vs_baseline": point,
        "speedup_ci": interval,
        "speedup_statistic": statistic,
        "speedup_mean": mean,
        "speedup_mean_ci": mean_ci,
        "speedup_p95": p95,
        "speedup_p95_ci": p95_ci,
        "speedup_vs_plain_int8": plain,
        "speedup_vs_plain_int8_ci": plain_ci,
    }


def _cost_of(
    entry: dict, prices: Prices, measurements: dict, compressed: bool = True
) -> tuple[Cost, np.ndarray, str, int, float]:
    """Cost, the cost as each process alone has it (processes,), scenario, its batch size and rows a second."""
    timing = Timing(**entry["timing"])
    scenario, batch, measured = _serving_scenario(
        timing.summary(SINGLE), timing.summary(OFFLINE), prices, measurements["latency"]["batch_size"]
    )
    throughput = 1e3 * batch / measured.mean
    spent = entry["compression_s"] if compressed else 0.0
    cost = Cost.of(prices, throughput, entry["size_mb"], spent, joules_a_row(timing))
    times = by_process(timing.turns[scenario], timing.processes, "mean")
    return cost, cost.total_at(times / times.mean()), scenario, batch, throughput


def _cost_ratio(costs: np.ndarray, against: Opponents) -> dict:
    """Cost against the checkpoint's in PyTorch, {ratio, ci}: process by process, Student's t on the log ratio."""
    logs = np.log(costs / against.base_costs)
    middle, ends = math.exp(logs.mean()), factors(float(half_width(logs)))
    lo, hi = (middle * end for end in ends)
    return {"ratio": carried(middle, lo, hi, against.noisy), "ci": [lo, hi]}


def _is_cascade(entry: dict) -> bool:
    return any(step["stage"] == "cascade" for step in entry["steps"])


def _cascade(entry: dict) -> dict | None:
    """Of a cascade {first, then, answered_by_first, first_metric}: share of the validation rows that its first model
    answers, 0..1, and the metric on those, points."""
    if not _is_cascade(entry):
        return None
    step, found = entry["steps"][0], (entry.get("details") or {}).get("cascade", {})
    return {
        "first": step["first"],
        "then": step["then"],
        "answered_by_first": found.get("answered_by_first"),
        "first_metric": found.get("first_metric"),
    }


def _cannot(entry: dict, cost: float, prices: Prices, measurements: dict) -> str | None:
    """Why a candidate that was measured can never be selected, whatever the rule."""
    if not RUNTIMES[entry["runtime"]].SPEC.in_bundles:
        return "a bundle runs without torch; PyTorch is measured for comparison"
    if entry.get("reference"):
        return "measured for comparison; add it to targets to let it be selected"
    cascade = _cascade(entry)
    if cascade is None:
        return None
    share = cascade["answered_by_first"]
    if share is not None and share < LEAST_SHARE:
        return f"its first model answers {share:.1%} of the validation rows; at least {LEAST_SHARE:.0%} are expected"
    name = f"{cascade['then']}/{entry['runtime']}/{entry['precision']}"
    second = next((e for e in measurements["candidates"] if e["name"] == name and e.get("timing")), None)
    if second is not None and cost >= _cost_of(second, prices, measurements)[0].total:
        return f"no cheaper than its second model alone ({name})"
    return None


def _quality(entry: dict, base: dict, measurements: dict) -> dict:
    """Figures of quality beside the metric: groups of rows, changed texts; of whole texts: macro F1, calibration."""
    correct, base_correct = _bits(entry, "validation"), _bits(base, "validation")
    assert correct is not None
    assert base_correct is not None
    figures: dict = {
        **_of_labels(entry, base, measurements),
        "negative_flip_share": flip_share(base_correct, correct),
        "beside_validation": entry.get("beside_validation"),
        "beside_test": None,
        "calibration_error": entry["calibration_error"],
        "attribution_agreement": _mean_agreement(entry),
        "slices": {kind: _parts(kind, base_correct, correct, keys) for kind, keys in measurements["keys"].items()},
    }
    for kind in GROUPED:
        found = figures["slices"].get(kind)
        figures[f"{kind}_drop"] = max(part["drop"] for part in found) if found else None
    for change in MEASURED:
        ours, theirs = (_bits(e.get("robustness", {}), change, "") for e in (entry, base))
        figures |= {f"{change}_metric": None, f"{change}_drop": None}
        if ours is not None and theirs is not None:
            figures |= {f"{change}_metric": points(ours), f"{change}_drop": paired_drop(theirs, ours)[0]}
    return figures


def gate_bounds(measurements: dict) -> dict[str, dict[str, float | None]]:
    """For each candidate that was judged, by name, the 95 % upper bounds of its further drops, points.

    As those of the metric they are one-sided and simultaneous over the candidates; of labels and groups the worst.
    """
    entries = {
        e["name"]: e for e in measurements["candidates"] if e.get("timing") and _bits(e, "validation") is not None
    }
    base = entries[measurements["baseline"]]
    found: dict[str, dict[str, float | None]] = {name: {} for name in entries}

    def add(figure: str, bounds: Sequence[float | None] | np.ndarray) -> None:
        for name, bound in zip(entries, bounds, strict=True):
            found[name][f"{figure}_drop_upper_95"] = None if bound is None else float(bound)

    none = [None] * len(entries)
    correct = [_bits(entry, "validation") for entry in entries.values()]
    for kind in GROUPED:
        keys = np.array(measurements["keys"].get(kind, ()))
        parts = [keys == key for key in np.unique(keys)]
        theirs = _bits(base, "validation")
        bounds = [upper_bounds(theirs[part], [ours[part] for ours in correct], 0.95) for part in parts]  # type: ignore[index]
        add(kind, np.max(bounds, axis=0) if bounds else none)
    for change in MEASURED:
        theirs = _bits(base.get("robustness", {}), change, "")
        ours = [_bits(entry.get("robustness", {}), change, "") for entry in entries.values()]
        known = theirs is not None and all(one is not None for one in ours)
        add(change, upper_bounds(theirs, ours, 0.95) if known else none)  # type: ignore[arg-type]
    said = [entry["predicted_validation"] for entry in entries.values()]
    if any(one is None for one in said):
        add("macro_f1", none)
    else:
        gold, before = np.array(measurements["gold_validation"]), np.array(base["predicted_validation"])
        add("macro_f1", macro_f1_upper_bounds(before, [np.array(one) for one in said], gold, 0.95)[1])
    return found


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
        return dict.fromkeys(("macro_f1", "macro_f1_drop"))
    gold = np.array(measurements["gold_validation"])
    ours, theirs = (float(macro_f1(np.array(e["predicted_validation"]), gold)[0]) for e in (entry, base))
    return {"macro_f1": ours, "macro_f1_drop": theirs - ours}


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


def certified(measurements: dict, name: str, looks: int, at: str) -> dict:
    """What the test rows say of the candidate that was selected: the figures that stay sealed for all others.

    `looks`: how many candidates of this run were held against these rows, this one included. The bound is at
    95 % for all of them together (Bonferroni). {} where the run has no test rows.
    """
    entries = {entry["name"]: entry for entry in measurements["candidates"]}
    entry, base = entries[name], entries[measurements["baseline"]]
    ours, theirs = _bits(entry, "test"), _bits(base, "test")
    if ours is None or theirs is None:
        return {}
    drop = paired_drop(theirs, ours)[0]
    certificate = {
        "split": measurements["certificate_split"],
        "rows": len(ours),
        "metric": entry["metric_test"],
        "metric_baseline": base["metric_test"],
        "drop": drop,
        "drop_upper_95": drop_upper(theirs, ours, 1 - 0.05 / looks),
        "certified_at": at,
        "looks": looks,
    }
    return {
        "metric_test": entry["metric_test"],
        "metric_test_ci": metric_interval(ours),
        "drop_test": drop,
        "beside_test": entry.get("beside_test"),
        "certificate": certificate,
    }
