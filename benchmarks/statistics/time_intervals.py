"""95 % intervals of ratios and differences of times. The process is the unit: its turns and calls are not independent.

What was measured in one process has that process's luck (addresses, cores, clocks), so each process gives one number:
the statistic of its samples. Both sides' processes are paired, because they ran in the same sitting, and the interval
is Student's t over the processes' log ratios.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

Statistic = Literal["median", "mean", "p95"]
STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "median": lambda samples: float(np.median(samples)),
    "mean": lambda samples: float(np.mean(samples)),
    "p95": lambda samples: float(np.percentile(samples, 95)),
}
# 97.5 % quantile of Student's t for 1 to 30 degrees of freedom; beyond, its expansion around the normal quantile.
T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
Z975 = 1.959964


def t975(freedom: int) -> float:
    """97.5 % quantile of Student's t."""
    return T975[freedom - 1] if freedom <= len(T975) else Z975 + (Z975**3 + Z975) / (4 * freedom)


def half_width(values: np.ndarray) -> np.ndarray:
    """Half of the 95 % t interval of the mean of `values`, (..., processes); infinite for a single process.

    Returns an array of shape (...); with one dimension, a NumPy scalar.
    """
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], math.inf)[()]
    return t975(n - 1) * np.std(values, axis=-1, ddof=1) / math.sqrt(n)


def factors(half: float) -> tuple[float, float]:
    """exp(-half), exp(half): what the ends of an interval on the log scale are times its middle."""
    with np.errstate(over="ignore"):
        lo, hi = np.exp([-half, half])
    return float(lo), float(hi)


def by_process(
    turns: Sequence[Sequence[float]], processes: Sequence[int] | None, statistic: Statistic = "median"
) -> np.ndarray:
    """The statistic of each process's samples, (processes,) float64, in the order of their numbers.

    `turns`: samples by turn; `processes`: the process of each turn. With one process (or None) each turn gives a
    number, (turns,): then the interval does not cover what differs between processes, and the run counts as noisy.
    """
    of = STATISTICS[statistic]
    numbers = np.unique(np.asarray(processes)) if processes else np.zeros(0)
    if len(numbers) < 2:
        return np.array([of(np.asarray(turn, dtype=float)) for turn in turns])
    parts = [[turn for turn, own in zip(turns, processes or (), strict=True) if own == number] for number in numbers]
    return np.array([of(np.concatenate([np.asarray(turn, dtype=float) for turn in part])) for part in parts])


def ratio(
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    processes: Sequence[int] | None = None,
    statistic: Statistic = "median",
) -> tuple[float, float, float]:
    """Ratio of a statistic of ours to theirs and its 95 % interval (point, lo, hi); samples by turn, in ms.

    `processes`: the process of each turn, the same for both sides (see `by_process`). The point is the geometric mean
    of the processes' ratios; the interval is exp(mean of the log ratios -+ t sd / sqrt(processes)), t with
    processes - 1 degrees of freedom. A single turn has the interval (0, inf).
    """
    logs = np.log(by_process(ours, processes, statistic)) - np.log(by_process(theirs, processes, statistic))
    middle, half = float(logs.mean()), float(half_width(logs))
    lo, hi = factors(half)
    return math.exp(middle), math.exp(middle) * lo, math.exp(middle) * hi


def as_wide(point: float, lo: float, hi: float, control: Sequence[float] | None) -> tuple[float, float]:
    """The ends of a ratio's interval, no narrower (on the log scale) than that of the A/A control, [lo, hi].

    From few processes some intervals are narrow by luck; the control saw the same noise. Two copies of a bundle were
    called different in 3 of 16 idle measurements without it. What is compared with itself (lo == hi) stays.
    """
    if control is None or lo == hi or not (control[0] > 0 and math.isfinite(control[1]) and lo > 0 and hi < math.inf):
        return lo, hi
    half = math.log(control[1] / control[0]) / 2
    if math.log(hi / lo) >= 2 * half:
        return lo, hi
    return min(lo, point * math.exp(-half)), max(hi, point * math.exp(half))


def carried(point: float, lo: float, hi: float, noisy: bool) -> float:
    """The ratio that a measurement carries: its point, and in a noisy run the end of its interval that is nearest to 1.

    1 where the interval contains 1. It is the weakest statement that the interval allows.
    """
    if not noisy:
        return point
    return 1.0 if lo <= 1 <= hi else hi if hi < 1 else lo
