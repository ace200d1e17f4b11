"""Plans which rows share a model call: those whose padding costs less than a call of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

REPEATS = 5  # of each shape; fewer where that takes longer than BUDGET_S, because whole answers are generated
BUDGET_S = 2
SLACK = 4, 64  # tokens, least and most


def split(lengths: Sequence[int], slack: float, most: int, rows: int | None = None) -> list[list[int]]:
    """Row numbers in calls, longest rows first.

    A row joins while it is less than `slack` tokens shorter than the longest of the call, and rows x longest stays
    within `most` tokens; a call has at most `rows` rows (None: no limit).
    """
    rows = rows or len(lengths)
    calls: list[list[int]] = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        joins = calls and len(calls[-1]) < rows and longest - lengths[i] < slack
        if joins and (len(calls[-1]) + 1) * longest <= most:
            calls[-1].append(i)
        else:
            calls.append([i])
            longest = lengths[i]
    return calls


def measure(run: Callable[[list], object], row: Sequence[int], max_length: int) -> tuple[float, float]:
    """(slack, seconds per token) of a model on this machine, now.

    A call takes about a + b * rows * longest seconds; the slack is a / b tokens, fitted to the fastest of a few calls
    in four shapes: what else the machine does only adds to them. `row` is an ordinary row of ids.
    """
    short, long = max(1, min(16, max_length)), max(1, min(64, max_length))
    shapes = [(1, short), (8, short), (1, long), (4, long)]
    seconds = np.full(len(shapes), np.inf)
    started = time.perf_counter()
    for repeat in range(REPEATS):
        if repeat and time.perf_counter() - started > BUDGET_S:
            break
        for i, (rows, length) in enumerate(shapes):
            ids = row if len(row) == length else (list(row) * length)[:length]
            begin = time.perf_counter()
            run([ids] * rows)
            seconds[i] = min(seconds[i], time.perf_counter() - begin)
    tokens = np.array([rows * length for rows, length in shapes], dtype=float)
    weights = 1 / seconds  # relative errors
    matrix = np.stack([weights, tokens * weights], axis=1)
    a, b = np.linalg.lstsq(matrix, np.ones(len(shapes)), rcond=None)[0]
    b = max(b, 1e-9)
    return float(np.clip(a / b, min(SLACK[0], max_length / 2), SLACK[1])), float(b)  # an image is one token, a dear one
