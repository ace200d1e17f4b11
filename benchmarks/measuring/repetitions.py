"""A latency measurement: several sittings, so that differences between processes are part of the interval.

A process is the unit of every interval (time_intervals.py), and each sitting has one process of every artefact.
Sittings may have other work between them: then what differs between processes and what differs from minute to minute
are in the same unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..statistics.time_intervals import by_process, ratio
from .interleaved import Protocol, Sitting, Workload, failed, sit
from .latency import CONTROL, FEWER, SINGLE, Progress, Timing, first_able
from .records import Conditions, Control

WIDEST_CONTROL = 1.3  # hi / lo of the A/A control's interval; where it is wider, no ratio of the run is to be trusted
Work = TypeVar("Work")


@dataclass(frozen=True)
class Measured:
    """What was timed, in all sittings, and under which conditions."""

    timings: dict[str, Timing]
    conditions: Conditions

    @property
    def noisy(self) -> bool:
        return self.conditions.noisy


def merged(sittings: Sequence[Sitting]) -> Measured:
    """All sittings of one measurement as one: samples in their order, and the conditions.

    What one of them could not measure `cannot_run`, whatever the others found. Single-stream is that of the number of
    threads which was faster, by the median over the processes: a sitting that something disturbed decides nothing.
    """
    reasons = failed(sittings)
    timings: dict[str, Timing] = {}
    for name in dict.fromkeys(name for sitting in sittings for name in sitting.timings):
        parts = [sitting.timings[name] for sitting in sittings if name in sitting.timings]
        timings[name] = _joined(parts)
        if name in reasons:
            timings[name].fails(reasons[name])
    able = first_able(timings)
    for name, timing in timings.items():  # the control comes last
        _settle_threads(timing, sittings[0].fewer, timings[able] if name == CONTROL and able else None)
    control, why = None, "no artefact can run here"
    if able is not None and CONTROL in timings:
        scenario = next(iter(timings[able].turns))
        point, lo, hi = ratio(timings[CONTROL].turns[scenario], timings[able].turns[scenario], timings[able].processes)
        control = Control(ratio=point, ratio_ci=(lo, hi))
        why = _noise(point, lo, hi, len(sittings))
    total = sum(sitting.cpu_seconds[0] for sitting in sittings)
    conditions = Conditions(
        control=control,
        noisy=why is not None,
        noisy_because=why,
        processes=len(sittings),
        sittings=len(sittings),
        busy_before=[sitting.busy_before for sitting in sittings],
        busy_during=[sitting.busy_during for sitting in sittings],
        steal_share=sum(sitting.cpu_seconds[1] for sitting in sittings) / total if total > 0 else None,
        load_before=sittings[0].load_before,
        seconds=sum(sitting.seconds for sitting in sittings),
        covers=_covers(sittings),
    )
    return Measured(timings, conditions)


def measure(workload: Workload, protocol: Protocol, progress: Progress | None = None) -> Measured:
    """`settings.processes` sittings, one right after another (see `sit`), and what they come to.

    Who has other work to do puts it between: `sit`, `spread`, `merged`.
    """
    sittings: list[Sitting] = []
    count = protocol.settings.processes
    for number in range(count):
        report = progress and (
            lambda share, text, n=number: progress((n + share) / count, f"process {n + 1} of {count}, {text}")
        )
        sittings.append(sit(workload, protocol, before=sittings, progress=report))
    return merged(sittings)


def spread(
    work: Sequence[Work], sittings: int, seconds: Callable[[Work], float] = lambda entry: 1.0
) -> list[list[Work]]:
    """Which work comes after each of the sittings, in its order, about as many seconds in each gap.

    Nothing comes after the last of several sittings; after a single one everything does.
    """
    gaps: list[list[Work]] = [[] for _ in range(sittings)]
    total, done = sum(seconds(entry) for entry in work) or 1.0, 0.0
    for entry in work:
        middle = (done + seconds(entry) / 2) / total
        gaps[min(int(middle * (sittings - 1)), max(sittings - 2, 0))].append(entry)
        done += seconds(entry)
    return gaps


def _settle_threads(timing: Timing, fewer: int | None, theirs: Timing | None) -> None:
    """Single-stream with `fewer` threads takes the place of that with all where it took less time, in the median of the
    processes' means; of a control where it did so of `theirs`, what it controls."""
    turns, joules = timing.turns.pop(FEWER, []), timing.joules.pop(FEWER, [])
    if not len(turns) == len(timing.turns.get(SINGLE, ())) > 0:  # of a GPU, or its process has ended
        return
    few, all_cores = (np.median(by_process(each, timing.processes, "mean")) for each in (turns, timing.turns[SINGLE]))
    if few < all_cores if theirs is None else theirs.threads:
        timing.threads, timing.turns[SINGLE] = fewer, turns
        if joules:
            timing.joules[SINGLE] = joules


def _joined(parts: Sequence[Timing]) -> Timing:
    """The samples of several sittings, of scenarios that have some (where a system cannot fork, parallel has none);
    memory and opening are the worst of them, a first call and start the best."""
    gpu = [part.gpu_memory_mb for part in parts if part.gpu_memory_mb is not None]
    first = [part.first_call_ms for part in parts if part.first_call_ms is not None]
    cold = [part.cold_start_s for part in parts if part.cold_start_s is not None]
    scenarios = dict.fromkeys(key for part in parts for key, turns in part.turns.items() if turns)
    measured = dict.fromkeys(key for part in parts for key in part.joules)
    return Timing(
        {scenario: [turn for part in parts for turn in part.turns.get(scenario, ())] for scenario in scenarios},
        load_s=max(part.load_s for part in parts),
        memory_mb=max(part.memory_mb for part in parts),
        gpu_memory_mb=max(gpu, default=None),
        processes=[process for part in parts for process in part.processes],
        joules={key: [joule for part in parts for joule in part.joules.get(key, ())] for key in measured},
        first_call_ms=min(first, default=None),
        cold_start_s=min(cold, default=None),
    )


def _noise(point: float, lo: float, hi: float, processes: int) -> str | None:
    """Why no ratio of a run with this A/A control is to be trusted; None where they are."""
    if processes < 2:
        return "there is one process of each, and what differs between processes is in no interval; use more processes"
    seen = f"the first one timed against itself gave {point:.2f} [{lo:.2f}, {hi:.2f}]"
    if not lo <= 1 <= hi:
        return f"{seen}, and 1 is not inside"
    if hi / lo > WIDEST_CONTROL:
        return f"{seen}: its ends differ by more than a factor of {WIDEST_CONTROL:g}"
    return None


def _covers(sittings: Sequence[Sitting]) -> str:
    """What the intervals of these sittings cover, in a sentence."""
    count = len(sittings)
    began = min(sitting.began for sitting in sittings)
    seconds = max(sitting.began + sitting.seconds for sitting in sittings) - began
    unit, of = next(
        (unit, of) for unit, of, most in (("second", 1, 90), ("minute", 60, 90), ("hour", 3600, 1e9))
        if seconds / of < most
    )  # fmt: skip
    long = max(1, round(seconds / of))
    time = f"{long} {unit}{'s' * (long != 1)}"
    if count == 1:
        return f"1 process in {time}: what differs between processes is not covered, nor another day or machine"
    return f"{count} processes in {count} sittings over {time}; another day or machine can differ by more"
