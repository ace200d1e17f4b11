"""A candidate's entry in choice.json, computed from its measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paredown.benchmarks.measurements import CandidateMeasurement, CascadeDetails, Measurements, correct_rows
from paredown.benchmarks.measuring.latency import (
    OFFLINE,
    SINGLE,
    Throughput,
    Timing,
    best_throughput,
    joules_a_row,
    server_rate,
)
from paredown.benchmarks.measuring.records import Interval
from paredown.benchmarks.report.text import int8_products
from paredown.benchmarks.selection.choice import (
    BatchLatency,
    CandidateResult,
    Cascade,
    Certificate,
    CostRatio,
    Latency,
    Promise,
    Serving,
    Slice,
    known,
)
from paredown.benchmarks.selection.cost import Cost, payback
from paredown.benchmarks.selection.selection import Row
from paredown.benchmarks.statistics.metric_intervals import (
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
from paredown.benchmarks.statistics.time_intervals import (
    Statistic,
    as_wide,
    by_process,
    carried,
    factors,
    half_width,
    ratio,
)
from paredown.compress.config import Timed
from paredown.export.runtimes.registry import RUNTIMES
from paredown.tasks.perturbations import MEASURED
from paredown.tasks.scores import points

from ..recipe.schema import BASELINE

GROUPED = ("label", "group")  # groups of rows whose worst drop can be limited
LEAST_SHARE = 0.1  # of the validation rows that the first model of a cascade has to answer


def promise_of(entry: CandidateMeasurement, measurements: Measurements) -> Promise | None:
    """What its pruning to a time promised together in this candidate's runtime and precision, and what was measured.

    Each round promises against the model that it was given. None where a step changed the speed and promised nothing.
    """
    promised = []
    for step, made in zip(entry.steps, entry.made.values(), strict=False):
        if step["stage"] in ("distill", "truncate") or (step["stage"] == "prune" and not made.promised_speedup):
            return None
        if step["stage"] == "prune":
            target = Timed.model_validate(step.get("target", {}))
            if (entry.runtime, entry.precision, 1) != (target.runtime, target.precision, target.batch_size):
                return None
            promised.append(made.promised_speedup)
    name = f"{BASELINE}/{entry.runtime}/{entry.precision}"
    theirs = next((e.timing for e in measurements.candidates if e.name == name), None)
    if not promised or theirs is None or entry.timing is None:
        return None
    slower, lo, hi = ratio(entry.timing.turns[SINGLE], theirs.turns[SINGLE], entry.timing.processes)
    noisy = measurements.conditions.noisy
    return Promise(
        promised=float(np.prod(promised)),
        measured=carried(1 / slower, 1 / hi, 1 / lo, noisy),
        measured_ci=(1 / hi, 1 / lo),
        noisy=noisy,
    )


def why_worse(entry: CandidateMeasurement) -> str | None:
    """What rounding to INT8 did to the answers, where it lost points against the model's own checkpoint."""
    parity = entry.parity
    if not entry.precision.startswith("int8") or not parity or parity.metric_drop <= 0:
        return None
    moved = parity.mean_difference  # none of texts
    return (
        f"INT8 alone loses {parity.metric_drop:.1f} of these points: it changes {1 - parity.agreement:.1%} of "
        f"the answers{f' and moves a logit by {moved:.2f} in the mean' if moved else ''}"
    )


@dataclass(frozen=True)
class Opponents:
    """What every candidate is compared with: the original checkpoint in PyTorch, and in plain INT8 where that ran."""

    base: CandidateMeasurement
    base_cost: Cost
    base_costs: np.ndarray  # (processes,) money per million requests
    plain_int8: CandidateMeasurement | None
    control: Interval | None  # of the A/A control
    noisy: bool  # the A/A control failed: ratios are stated as ranges


def opponents_of(measurements: Measurements) -> Opponents:
    """The baseline, and the cheapest INT8 of the checkpoint itself in a CPU runtime: what others give in minutes."""
    base = measurements.entry(measurements.baseline)
    plain = [
        entry
        for entry in measurements.candidates
        if entry.model == BASELINE
        and entry.precision.startswith("int8")
        and not RUNTIMES[entry.runtime].SPEC.gpu
        and entry.timing is not None
    ]
    costs = {entry.name: _cost_of(entry, measurements).cost.total for entry in plain}
    spent = _cost_of(base, measurements, compressed=False)
    best = min(plain, key=lambda entry: costs[entry.name], default=None)
    seen = measurements.conditions
    return Opponents(base, spent.cost, spent.costs, best, seen.control and seen.control.ratio_ci, seen.noisy)


def row_of(entry: CandidateMeasurement, against: Opponents, measurements: Measurements) -> Row:
    """A candidate's row: its figures but for the bounds of its drop, which hold for all candidates together."""
    common: dict[str, Any] = {
        "name": entry.name,
        "runtime": entry.runtime,
        "precision": entry.precision,
        "metric": measurements.metric,
        "size_mb": entry.size_mb,
        "steps": entry.steps,
    }
    steps = len(entry.steps) + (entry.precision != "fp32")
    correct, base_correct = correct_rows(entry.correct_validation), correct_rows(against.base.correct_validation)
    if entry.failed or entry.cannot_run or entry.timing is None or correct is None or base_correct is None:
        reason = entry.failed or f"cannot run here: {entry.cannot_run}"
        return Row(CandidateResult(**common), steps, np.zeros(0, bool), np.zeros(0), cannot=reason)
    prices, timing = measurements.prices, entry.timing
    spent = _cost_of(entry, measurements)
    requests, days = payback(spent.cost, against.base_cost, prices)
    samples = np.concatenate(timing.turns[SINGLE])
    result = CandidateResult(
        **common,
        metric_validation=entry.metric_validation,  # metric_test, drop_test: sealed, `certified` opens them
        metric_validation_ci=metric_interval(correct),
        drop_validation=paired_drop(base_correct, correct)[0],
        mcnemar_p=mcnemar_p(base_correct, correct),
        negative_flips=negative_flips(base_correct, correct),
        negative_flip_share=flip_share(base_correct, correct),
        **_latency(timing, measurements),
        **_speedups(entry, against),
        promised_speedup=promise_of(entry, measurements),
        profile=entry.profile,
        sweep=entry.sweep,
        throughput_per_s=spent.at.per_s,
        serving=_serving(spent.at, prices.latency_limit_ms),
        server_per_s=server_rate(samples, prices.server_p99_ms) if prices.server_p99_ms else None,
        new_tokens_per_s=entry.new_tokens_per_s,
        cost_per_million=spent.cost.total,
        cost_vs_baseline=_cost_ratio(spent.costs, against),
        cost_parts=spent.cost.parts(),
        payback_requests=requests,
        payback_days=days,
        **_quality(entry, against.base, measurements),
        cascade=_cascade(entry),
        int8_products=int8_products(entry.details),
        why_slower=entry.why_slower,
        why_worse=why_worse(entry),
    )
    return Row(
        result, steps, correct, spent.costs, spent.cost.unhurried, _cannot(entry, spent.cost.total, measurements)
    )


def _latency(timing: Timing, measurements: Measurements) -> dict[str, Any]:
    """The fields of `CandidateResult` that its samples give without an opponent."""
    single, offline = timing.summary(SINGLE), timing.summary(OFFLINE)
    return {
        "latency_ms": Latency(
            p50=single.p50,
            p95=single.p95,
            p99=single.p99,
            mean=single.mean,
            n=single.n,
            p50_ci=(single.lo, single.hi),
            threads=timing.threads or measurements.latency.threads,
        ),
        "latency_batch_ms": BatchLatency(p50=offline.p50, p95=offline.p95, p99=offline.p99, n=offline.n),
        "memory_mb": timing.memory_mb,
        "gpu_memory_mb": timing.gpu_memory_mb,
        "load_s": timing.load_s,
        "first_call_ms": timing.first_call_ms,
        "cold_start_s": timing.cold_start_s,
        "energy_j": joules_a_row(timing),
    }


def _speedups(entry: CandidateMeasurement, against: Opponents) -> dict[str, Any]:
    """How many times as fast as the checkpoint in PyTorch and in plain INT8, one row a call, with 95 % intervals.

    `speedup_vs_baseline` is of the median; of a cascade, whose rows differ widely, of the mean. In a noisy run each
    is the end of its interval nearest to 1.
    """
    timing, base = known(entry.timing), known(against.base.timing)
    statistic = "mean" if entry.is_cascade else "median"

    def times(other: Timing, of: Statistic) -> tuple[float, Interval]:
        slower, lo, hi = ratio(timing.turns[SINGLE], other.turns[SINGLE], timing.processes, of)
        lo, hi = as_wide(slower, lo, hi, against.control)
        return carried(1 / slower, 1 / hi, 1 / lo, against.noisy), (1 / hi, 1 / lo)

    point, interval = times(base, statistic)
    mean, mean_ci = times(base, "mean")
    p95, p95_ci = times(base, "p95")
    plain, plain_ci = None, None
    if against.plain_int8 is not None:
        plain, plain_ci = times(known(against.plain_int8.timing), statistic)
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


@dataclass(frozen=True)
class Spent:
    """What serving a candidate costs, at its best serving configuration."""

    cost: Cost
    costs: np.ndarray  # (processes,) as each process alone has it
    at: Throughput


def _serving(best: Throughput, limit_ms: float | None) -> Serving | None:
    """The serving configuration, as choice.json has it; None where none that was measured keeps the latency limit.
    Rows of a call are neighbours in the order of their lengths (`benchmarks.measuring.interleaved`)."""
    if limit_ms is not None and best.call.p95 > limit_ms:
        return None
    return Serving(
        instances=best.instances,
        threads=best.threads,
        batch_size=best.batch_size,
        sorted_by_length=best.batch_size > 1,
    )


def _cost_of(entry: CandidateMeasurement, measurements: Measurements, compressed: bool = True) -> Spent:
    """The cost of a candidate that was timed; `compressed`: with what it took to make it."""
    timing, prices = known(entry.timing), measurements.prices
    best = best_throughput(timing, measurements.latency, measurements.machine.cores, prices.latency_limit_ms)
    spent = entry.compression_s if compressed else 0.0
    cost = Cost.of(prices, best.per_s, known(entry.size_mb), spent, joules_a_row(timing))
    times = by_process(timing.turns[best.scenario], timing.processes, "mean")
    return Spent(cost, cost.total_at(times / times.mean()), best)


def _cost_ratio(costs: np.ndarray, against: Opponents) -> CostRatio:
    """Cost against the checkpoint's in PyTorch: process by process, Student's t on the log ratio."""
    logs = np.log(costs / against.base_costs)
    middle, ends = math.exp(logs.mean()), factors(float(half_width(logs)))
    lo, hi = (middle * end for end in ends)
    return CostRatio(ratio=carried(middle, lo, hi, against.noisy), ci=(lo, hi))


def _cascade(entry: CandidateMeasurement) -> Cascade | None:
    """Of a cascade its two models, and how much of the work the first one does; None of others."""
    if not entry.is_cascade:
        return None
    step = entry.steps[0]
    found = (entry.details and entry.details.cascade) or CascadeDetails()
    return Cascade(
        first=step["first"],
        then=step["then"],
        answered_by_first=found.answered_by_first,
        first_metric=found.first_metric,
    )


def _cannot(entry: CandidateMeasurement, cost: float, measurements: Measurements) -> str | None:
    """Why a candidate that was measured can never be selected, whatever the rule."""
    if not RUNTIMES[entry.runtime].SPEC.in_bundles:
        return "a bundle runs without torch; PyTorch is measured for comparison"
    if entry.reference:
        return "measured for comparison; add it to targets to let it be selected"
    cascade = _cascade(entry)
    if cascade is None:
        return None
    share = cascade.answered_by_first
    if share is not None and share < LEAST_SHARE:
        return f"its first model answers {share:.1%} of the validation rows; at least {LEAST_SHARE:.0%} are expected"
    name = f"{cascade.then}/{entry.runtime}/{entry.precision}"
    second = next((e for e in measurements.candidates if e.name == name and e.timing), None)
    if second is not None and cost >= _cost_of(second, measurements).cost.total:
        return f"no cheaper than its second model alone ({name})"
    return None


def _quality(entry: CandidateMeasurement, base: CandidateMeasurement, measurements: Measurements) -> dict[str, Any]:
    """The fields of quality beside the metric: groups of rows, changed texts; of whole texts: macro F1, calibration."""
    correct, base_correct = known(correct_rows(entry.correct_validation)), known(correct_rows(base.correct_validation))
    slices = {kind: _parts(kind, base_correct, correct, keys) for kind, keys in measurements.keys.items()}
    figures: dict[str, Any] = {
        "beside_validation": entry.beside_validation,
        "calibration_error": entry.calibration_error,
        "attribution_agreement": _mean_agreement(entry),
        "slices": slices,
    }
    if entry.predicted_validation is not None and base.predicted_validation is not None:  # one label a text
        gold = np.array(measurements.gold_validation)
        ours, theirs = (float(macro_f1(np.array(e.predicted_validation), gold)[0]) for e in (entry, base))
        figures |= {"macro_f1": ours, "macro_f1_drop": theirs - ours}
    for kind in GROUPED:
        if slices.get(kind):
            figures[f"{kind}_drop"] = max(part.drop for part in slices[kind])
    for change in MEASURED:
        ours, theirs = (correct_rows(e.robustness.get(change)) for e in (entry, base))
        if ours is not None and theirs is not None:
            figures |= {f"{change}_metric": points(ours), f"{change}_drop": paired_drop(theirs, ours)[0]}
    return figures


def gate_bounds(measurements: Measurements) -> dict[str, dict[str, float | None]]:
    """For each candidate that was judged, by name, the 95 % upper bounds of its further drops, points.

    As those of the metric they are one-sided and simultaneous over the candidates; of labels and groups the worst.
    """
    entries = [e for e in measurements.candidates if e.timing and e.correct_validation is not None]
    base = measurements.entry(measurements.baseline)
    found: dict[str, dict[str, float | None]] = {entry.name: {} for entry in entries}

    def add(figure: str, bounds: Sequence[float] | np.ndarray) -> None:
        for entry, bound in zip(entries, bounds, strict=True):
            found[entry.name][f"{figure}_drop_upper_95"] = float(bound)

    correct, theirs = (
        [known(correct_rows(entry.correct_validation)) for entry in entries],
        correct_rows(base.correct_validation),
    )
    for kind in GROUPED:
        keys = np.array(measurements.keys.get(kind, ()))
        parts = [keys == key for key in np.unique(keys)]
        if parts and theirs is not None:
            add(kind, np.max([upper_bounds(theirs[p], [ours[p] for ours in correct], 0.95) for p in parts], axis=0))
    for change in MEASURED:
        before = correct_rows(base.robustness.get(change))
        after = [correct_rows(entry.robustness.get(change)) for entry in entries]
        judged = [one for one in after if one is not None]
        if before is not None and len(judged) == len(entries):
            add(change, upper_bounds(before, judged, 0.95))
    said = [np.array(e.predicted_validation) for e in entries if e.predicted_validation is not None]
    if len(said) == len(entries):
        gold, before = np.array(measurements.gold_validation), np.array(base.predicted_validation)
        add("macro_f1", macro_f1_upper_bounds(before, said, gold, 0.95)[1])
    return found


def _parts(kind: str, base: np.ndarray, correct: np.ndarray, keys: list[str]) -> list[Slice]:
    """Groups of rows, the worst first; those by length as they grow."""
    parts = [Slice(**part) for part in by_key(base, correct, keys)]
    if kind == "length":
        parts.sort(key=lambda part: (part.name.startswith("more"), not part.name.startswith("up")))
    return parts


def _mean_agreement(entry: CandidateMeasurement) -> float | None:
    """Mean of the rank correlations with the teacher's words, over the rows that have one."""
    found = [value for value in entry.attribution_agreement or () if value is not None]
    return float(np.mean(found)) if found else None


def certified(measurements: Measurements, result: CandidateResult, looks: int, at: str) -> CandidateResult:
    """The candidate with what the test rows say of it: figures that stay null for those that were not selected.

    `looks`: how many candidates of this run were compared on these rows, this one included. The bound is at 95 % for
    all of them together (Bonferroni). Unchanged where the run has no test rows.
    """
    entry, base = measurements.entry(result.name), measurements.entry(measurements.baseline)
    ours, theirs = correct_rows(entry.correct_test), correct_rows(base.correct_test)
    if ours is None or theirs is None:
        return result
    drop = paired_drop(theirs, ours)[0]
    certificate = Certificate(
        split=known(measurements.certificate_split),
        rows=len(ours),
        metric=known(entry.metric_test),
        metric_baseline=known(base.metric_test),
        drop=drop,
        drop_upper_95=drop_upper(theirs, ours, 1 - 0.05 / looks),
        certified_at=at,
        looks=looks,
    )
    return result.model_copy(
        update={
            "metric_test": entry.metric_test,
            "metric_test_ci": metric_interval(ours),
            "drop_test": drop,
            "beside_test": entry.beside_test,
            "certificate": certificate,
        }
    )
