"""Simulated answers and times with known truth, for coverage.py.

A `Case` draws both models' rows as `Task.correct` has them. The true metrics are computed from the model that rows are
drawn from, never from the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from paredown.tasks.regression import explained
from paredown.tasks.sentence_embedding import agreement, right

ACCURACIES = (0.5, 0.7, 0.85, 0.95, 0.99)
Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A metric at one level of quality, and a candidate that differs from the baseline in some of the rows."""

    name: str
    draw: Draw  # (random, rows) -> rows of the baseline, rows of the candidate
    metric: float | None  # the baseline's true metric in points; None: the mean over the simulations
    drop: float | None  # true, points


def flips() -> Iterator[tuple[float, float, str]]:
    """Shares of the rows that are right before and wrong now, and the other way round; the accuracies, in per cent, at
    which these occur. The drop of accuracy and its bounds depend on nothing else."""
    found: dict[tuple[float, float], list[float]] = {}
    for accuracy in ACCURACIES:
        for lost, won in ((0.01, 0.005), (0.03, 0.02), (0.08, 0.07), (0.02, 0.0)):
            found.setdefault((lost, min(won, (1 - accuracy) / 2)), []).append(100 * accuracy)
    for (lost, won), levels in found.items():
        yield lost, won, " to ".join(f"{level:g}" for level in dict.fromkeys((levels[0], levels[-1])))


def spans() -> Iterator[Case]:
    """F1 of spans: two a row in the mean, rows of different difficulty, as many wrong spans as are missed."""
    for f1 in (0.5, 0.85, 0.95, 0.99):
        lost, won, share = 0.03, min(0.02, 1 - f1), 0.3

        def draw(random: np.random.Generator, n: int, f1=f1, lost=lost, won=won, share=share):
            there = random.poisson(2.0, n)
            found = random.binomial(there, random.beta(8 * f1, 8 * (1 - f1), n))
            extra = random.binomial(there, 1 - f1)
            other = random.random(n) < share
            now = found - random.binomial(found, lost / share * other)
            now += random.binomial(there - found, won / share * other)
            rows = [np.stack([2.0 * hits, there + hits + extra], axis=1) for hits in (found, now)]
            return rows[0], rows[1]

        found = f1 * (1 - lost) + (1 - f1) * won
        drop = 100 * (f1 - 2 * found / (1 + found + 1 - f1))
        yield Case(f"F1 {100 * f1:g}", draw, 100 * f1, drop)


def rouge() -> Iterator[Case]:
    """ROUGE-L: some texts perfect, some missed altogether, the others in between; a fifth of them lose some."""
    for level in (0.5, 0.85, 0.95, 0.99):
        share, loss = 0.2, 0.15

        def draw(random: np.random.Generator, n: int, a=level, share=share, loss=loss):
            value = np.where(random.random(n) < a**2, 1.0, random.beta(4 * a, 4 * (1 - a), n))
            value[random.random(n) < (1 - a) / 3] = 0
            now = value * (1 - 2 * loss * random.random(n) * (random.random(n) < share))
            return _of_one(value), _of_one(now)

        metric = (1 - (1 - level) / 3) * (level**2 + (1 - level**2) * level)
        yield Case(f"ROUGE-L {100 * metric:.0f}", draw, 100 * metric, 100 * metric * share * loss)


def squad() -> Iterator[Case]:
    """SQuAD's F1: most answers exact, some missed, a few in between; 5 % of the answers change, 1 % are lost."""
    for level in (0.5, 0.85, 0.95, 0.99):
        half, churn, lost = min(0.1, 1.5 * (1 - level)), 0.05, 0.01
        exact = level - half / 2

        def one(random: np.random.Generator, n: int, exact=exact, half=half) -> np.ndarray:
            u = random.random(n)
            return np.where(u < exact, 1.0, np.where(u < exact + half, random.uniform(0.25, 0.75, n), 0.0))

        def draw(random: np.random.Generator, n: int, one=one, churn=churn, lost=lost):
            first = one(random, n)
            now = np.where(random.random(n) < churn, one(random, n), first)
            now[random.random(n) < lost] = 0
            return _of_one(first), _of_one(now)

        yield Case(f"F1 {100 * level:g}", draw, 100 * level, 100 * lost * level)


def reciprocal_ranks() -> Iterator[Case]:
    """MRR of 16-dimensional vectors: queries are their passages with noise, in the candidate with more of it.

    The true value is that of as many passages as rows, so it is the mean over the simulations.
    """
    for noise in (1.0, 0.7, 0.45):

        def draw(random: np.random.Generator, n: int, noise=noise):
            passages = random.standard_normal((n, 16), dtype=np.float32)
            error = random.standard_normal((2, n, 16), dtype=np.float32)
            gold = SimpleNamespace(first=np.arange(0, 2 * n, 2), numbers=None, passage=np.arange(n))
            rows = []
            for query in (passages + noise * error[0], passages + noise * (error[0] + 0.3 * error[1])):
                rows.append(right(np.stack([query, passages], axis=1).reshape(2 * n, 16), gold))  # type: ignore[arg-type]
            return rows[0], rows[1]

        yield Case(f"noise {noise:g}", draw, None, None)


def rank_correlations() -> Iterator[Case]:
    """Spearman's correlation of normal variables; the candidate's has more noise."""
    for level in (0.5, 0.85, 0.95, 0.99):
        pearson = 2 * math.sin(math.pi * level / 6)
        more = 0.3 * math.sqrt(1 - pearson**2)

        def draw(random: np.random.Generator, n: int, r=pearson, more=more):
            y = random.standard_normal(n)
            x = r * y + math.sqrt(1 - r * r) * random.standard_normal(n)
            gold = SimpleNamespace(first=np.arange(0, 2 * n, 2), numbers=y, passage=np.arange(n))
            rows = [right(_with_cosines(np.tanh(v / 4)), gold) for v in (x, x + more * random.standard_normal(n))]  # type: ignore[arg-type]
            return rows[0], rows[1]

        drop = level - 6 / math.pi * math.asin(pearson / math.sqrt(1 + more**2) / 2)
        yield Case(f"correlation {level:g}", draw, 100 * level, 100 * drop)


def variances() -> Iterator[Case]:
    """R2 of normal numbers; the candidate's error is a little larger."""
    for level in (0.5, 0.85, 0.95, 0.99):
        for more in (0.1, 0.5):
            worse = more * (1 - level)

            def draw(random: np.random.Generator, n: int, r2=level, worse=worse):
                gold = random.standard_normal(n)
                said = r2 * gold + math.sqrt(r2 * (1 - r2)) * random.standard_normal(n)
                now = said + math.sqrt(worse) * random.standard_normal(n)
                return explained(said[:, None], gold), explained(now[:, None], gold)

            yield Case(f"R2 {100 * level:g}, error x {1 + more:g}", draw, 100 * level, 100 * worse)


@dataclass(frozen=True)
class Labelled:
    """Labels that two models give; a baseline right in `accuracy` of the rows, else it says any label."""

    shares: tuple[float, ...]  # of the rows of each label
    accuracy: float
    churn: float  # share of the rows for which the candidate says any label
    rare: float = 0.0  # share of the rows of the first label for which it does so besides

    @property
    def name(self) -> str:
        least = f", the rarest {100 * min(self.shares):g} %" if len(set(self.shares)) > 1 else ""
        known = f"{100 * self.accuracy:g} % known, {100 * self.churn:g} % of rows redrawn"
        known += f", {100 * self.rare:g} % of the first label's" if self.rare else ""
        return f"{len(self.shares)} labels{least}; {known}"

    def draw(self, random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(gold, baseline, candidate), (rows,) int each."""
        k = len(self.shares)
        gold = random.choice(k, size=n, p=self.shares)
        base = np.where(random.random(n) < self.accuracy, gold, random.integers(0, k, n))
        redrawn = (random.random(n) < self.churn) | ((gold == 0) & (random.random(n) < self.rare))
        return gold, base, np.where(redrawn, random.integers(0, k, n), base)

    def drop(self, gold: np.ndarray) -> float:
        """The true drop of macro F1 over the labels that are in `gold`, points."""
        share, k = np.array(self.shares), len(self.shares)

        def f1(redrawn: np.ndarray) -> np.ndarray:
            known = self.accuracy * (1 - redrawn)
            said = (share * (1 - known)).sum() / k + share * known
            return 2 * share * (known + (1 - known) / k) / (share + said)

        redrawn = np.full(k, self.churn)
        redrawn[0] = 1 - (1 - self.churn) * (1 - self.rare)
        return 100 * float((f1(np.zeros(k)) - f1(redrawn))[np.unique(gold)].mean())


def agreements(random: np.random.Generator, count: int, related: float) -> np.ndarray:
    """Agreement of two attributions of `count` texts: 20 to 200 words of which 60 are read, and a third of those have
    exactly 0 in each model; `related`: correlation of the values before that."""
    found = []
    for words in random.integers(20, 200, count).tolist():
        read = min(words, 60)
        pair = np.full((2, words), np.nan)
        pair[0, :read] = random.standard_normal(read)
        pair[1, :read] = related * pair[0, :read] + math.sqrt(1 - related**2) * random.standard_normal(read)
        pair[:, :read] *= random.random((2, read)) > 1 / 3
        value = agreement(*pair)
        if value is not None:
            found.append(value)
    return np.array(found)


def times(
    random: np.random.Generator, processes: int, effect: float, correlation: float, machine: np.ndarray
) -> tuple[list[np.ndarray], list[int]]:
    """Milliseconds of the calls of one artefact by turn, and the process of each turn.

    effect: standard deviation of what a process has for itself, as a share; correlation: of a turn's noise with the
    next's in one process. `machine`: (turns,) how slow the machine was, common to all artefacts.
    """
    each, turns, luck, noise = len(machine) // processes, [], 0.0, 0.0
    for i, slow in enumerate(machine):
        if i % each == 0:
            luck, noise = random.normal(0, effect), random.normal(0, 0.03)
        noise = correlation * noise + random.normal(0, 0.03 * math.sqrt(1 - correlation**2))
        turns.append(slow * np.exp(luck + noise) * random.lognormal(0, 0.08, 20))
    return turns, np.repeat(np.arange(processes), each).tolist()


def _of_one(values: np.ndarray) -> np.ndarray:
    """(rows, 2): points of one each."""
    return np.stack([values, np.ones(len(values))], axis=1)


def _with_cosines(cosines: np.ndarray) -> np.ndarray:
    """Vectors (2 * rows, 2) of pairs that have these cosines."""
    pairs = np.zeros((len(cosines), 2, 2))
    pairs[:, 0, 0] = 1
    pairs[:, 1, 0], pairs[:, 1, 1] = cosines, np.sqrt(1 - cosines**2)
    return pairs.reshape(-1, 2)
