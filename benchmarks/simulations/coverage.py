"""Simulated coverage of every interval and bound.

    python -m paredown.benchmarks.simulations.coverage [--quick] [--only SECTION] [--write docs/choosing.md]

Nominal 95 % has to be 92 to 98 %; exit code 1 if any cell is outside. Where few rows differ (or lose points), the
number of them is so coarse that no bound is exact: such cells are `conservative` and may be above 98, never below 92.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paredown.runtime.errors import StepError

from ..selection.choice import CandidateResult
from ..selection.selection import ChooseSettings, Row, choose
from ..statistics.bounds import Z95_ONE_SIDED, tango
from ..statistics.calibration import SURE, calibration
from ..statistics.metric_intervals import (
    Z95_TWO_SIDED,
    drop_interval,
    drop_upper,
    macro_f1_upper_bounds,
    mcnemar_p,
    mean_interval,
    metric_interval,
    paired_drop,
    upper_bounds,
)
from ..statistics.time_intervals import Statistic, by_process, half_width, ratio
from .cases import (
    ACCURACIES,
    Case,
    Labelled,
    agreements,
    flips,
    rank_correlations,
    reciprocal_ranks,
    rouge,
    spans,
    squad,
    times,
    variances,
)

ROWS = (50, 200, 1000, 5000)
FEW = 20  # rows that are expected to differ, under which a cell is conservative
BEGIN, END = "<!-- coverage: written by benchmarks/simulations/coverage.py -->", "<!-- coverage: end -->"


@dataclass(frozen=True)
class Cell:
    """A share of simulations in per cent, and between what it has to be."""

    value: float
    lo: float = 92.0
    hi: float = 98.0
    conservative: bool = False  # only `lo` holds

    def outside(self, slack: float) -> bool:
        return self.value < self.lo - slack or (self.value > self.hi + slack and not self.conservative)

    def text(self, slack: float) -> str:
        mark = " !" if self.outside(slack) else "*" if self.conservative and self.value > self.hi else ""
        return f"{self.value:.1f}{mark}"


Line = tuple[str, list[Cell]]


@dataclass(frozen=True)
class Section:
    """A table: one line a case, one column for each number of rows (or whatever `columns` says)."""

    name: str
    title: str
    columns: Sequence[str]
    lines: list[Line]
    text: str = ""


@dataclass(frozen=True)
class Effort:
    """How much is simulated. `slack`: per cent that chance may move a cell by."""

    quick: bool

    @property
    def rows(self) -> Sequence[int]:
        return (50, 1000) if self.quick else ROWS

    @property
    def slack(self) -> float:
        return 5.0 if self.quick else 0.0  # three standard errors of 95 % of 170

    def runs(self, full: int) -> int:
        return min(full, 200) if self.quick else full

    def some(self, cases: Iterable) -> list:
        """Every case, or the first and the last."""
        found = list(cases)
        return [found[0], found[-1]] if self.quick and len(found) > 2 else found


def accuracy(effort: Effort) -> Iterator[Section]:
    """Closed formulas of counts: many runs at once, by the functions that `drop_upper` and `metric_interval` call."""
    upper, two, metric = [], [], []
    for lost, won, levels in flips():
        found: tuple[list, list] = [], []
        for n in effort.rows:
            random, few, drop = np.random.default_rng(n), n * (lost + won) < FEW, lost - won
            counts = random.multinomial(n, [lost, won, 1 - lost - won], size=effort.runs(20_000)).astype(float)
            worse, better = counts[:, 0], counts[:, 1]
            hi = tango(worse, better, n, Z95_ONE_SIDED)
            found[0].append(Cell(_share(hi >= drop - 1e-8), conservative=few))
            lo, hi = -tango(better, worse, n, Z95_TWO_SIDED), tango(worse, better, n, Z95_TWO_SIDED)
            found[1].append(Cell(_share((lo <= drop + 1e-8) & (hi >= drop - 1e-8)), conservative=few))
        name = f"{levels} % right; {100 * lost:g} % of rows lost, {100 * won:g} % won"
        upper.append((name, found[0]))
        two.append((name, found[1]))
    for level in ACCURACIES:
        cells = []
        for n in effort.rows:
            right = np.random.default_rng(n).binomial(n, level, size=effort.runs(2000))
            inside = [_within(100 * level, metric_interval(np.arange(n) < k)) for k in right]
            cells.append(Cell(_share(inside), conservative=n * (1 - level) < FEW))
        metric.append((f"{100 * level:g} % right", cells))
    columns = _columns(effort)
    yield Section("accuracy", "Drop of accuracy, upper bound", columns, upper)
    yield Section("accuracy", "Drop of accuracy, interval", columns, two)
    yield Section("accuracy", "Accuracy, interval", columns, metric)


def points(effort: Effort) -> Iterator[Section]:
    """Metrics whose rows are points."""
    families: dict[str, Callable[[], Iterator[Case]]] = {
        "F1 of spans": spans,
        "ROUGE-L": rouge,
        "SQuAD F1": squad,
        "MRR": reciprocal_ranks,
        "Spearman": rank_correlations,
        "R2": variances,
    }
    for title, cases in families.items():
        upper, two, metric = [], [], []
        for case in effort.some(cases()):
            found: tuple[list, list, list] = [], [], []
            for n in effort.rows:
                slow = cases is reciprocal_ranks and n > 1000
                for cells, cell in zip(found, _of_points(case, n, effort.runs(400 if slow else 1000)), strict=True):
                    cells.append(cell)
            upper.append((case.name, found[0]))
            two.append((case.name, found[1]))
            metric.append((case.name, found[2]))
        columns = _columns(effort)
        yield Section("points", f"Drop of {title}, upper bound", columns, upper)
        yield Section("points", f"Drop of {title}, interval", columns, two)
        yield Section("points", f"{title}, interval", columns, metric)


def _of_points(case: Case, n: int, runs: int) -> tuple[Cell, Cell, Cell]:
    random, differing, losing = np.random.default_rng(n), 0, 0
    drops, metrics, uppers = np.zeros((3, runs))
    sides, intervals = np.zeros((2, runs, 2))
    for i in range(runs):
        base, candidate = case.draw(random, n)
        metrics[i] = 100 * base[:, 0].sum() / base[:, 1].sum()
        drops[i] = metrics[i] - 100 * candidate[:, 0].sum() / candidate[:, 1].sum()
        uppers[i], sides[i] = drop_upper(base, candidate), drop_interval(base, candidate)
        intervals[i] = metric_interval(base)
        differing += (base != candidate).any(axis=1).sum()
        losing += (base[:, 0] < base[:, 1] - 1e-9).sum()
    drop = drops.mean() if case.drop is None else case.drop
    metric = metrics.mean() if case.metric is None else case.metric
    few, few_losing = n <= 50 or differing < FEW * runs, n <= 50 or losing < FEW * runs
    return (
        Cell(_share(uppers >= drop), conservative=few),
        Cell(_share((sides[:, 0] <= drop) & (sides[:, 1] >= drop)), conservative=few),
        Cell(_share((intervals[:, 0] <= metric) & (intervals[:, 1] >= metric)), conservative=few_losing),
    )


def together(effort: Effort) -> Iterator[Section]:
    """All of K candidates' true drops below their bounds: K models with flips of their own, or partly shared ones."""
    lines: list[Line] = []
    levels = ((0.8, 77.0, 86.0), (0.95, 92.0, 98.0))
    for count, shared in effort.some(((5, 0.0), (5, 0.7), (20, 0.0), (50, 0.7), (20, 0.7))):
        cells: list[list[Cell]] = [[], []]
        for n in effort.rows:
            random, runs = np.random.default_rng(n + count), effort.runs(2000 if n * count <= 50_000 else 500)
            drops, held = np.linspace(0, 2, count), np.zeros(len(levels))
            for _ in range(runs):
                base, right = flipped(random, n, drops, 0.85, 0.06, shared)
                held += [(upper_bounds(base, list(right), level) >= drops - 1e-9).all() for level, _, _ in levels]
            for found, value, (_, lo, hi) in zip(cells, (100 * held / runs).tolist(), levels, strict=True):
                found.append(Cell(value, lo, hi, n * 0.06 < FEW))
        name = f"{count} candidates, {100 * shared:g} % of flips shared"
        lines += [(f"{name}, {100 * level:g} %", found) for found, (level, _, _) in zip(cells, levels, strict=True)]
    text = "6 % of the rows differ between each candidate and the baseline. Nominal 80 % has to be 77 to 86 %."
    title = "Drops of all candidates, simultaneous upper bounds"
    yield Section("together", title, _columns(effort), lines, text)


def labelled(effort: Effort) -> Iterator[Section]:
    """Macro F1: balanced and rare labels."""
    kinds = ((0.5, 0.5), (0.05, 0.95), (0.05, 0.4, 0.3, 0.15, 0.1), (0.1,) * 10, (0.05,) * 20)
    cases = [Labelled(shares, known, churn) for shares in kinds for known in (0.5, 0.85, 0.95) for churn in (0.02, 0.1)]
    cases += [Labelled((0.01, 0.29, 0.3, 0.4), 0.9, 0.05, rare=0.3), Labelled((0.05, 0.95), 0.9, 0.05, rare=0.3)]
    lines = []
    for case in effort.some(cases):
        cells = []
        for n in effort.rows:
            random, runs, held = np.random.default_rng(n), effort.runs(500), 0
            for _ in range(runs):
                gold, base, candidate = case.draw(random, n)
                held += macro_f1_upper_bounds(base, [candidate], gold)[1][0] >= case.drop(gold)
            few = n * min(case.shares) * (case.churn + case.rare) < 10
            cells.append(Cell(100 * held / runs, conservative=few))
        lines.append((case.name, cells))
    yield Section("labels", "Drop of macro F1, upper bound", _columns(effort), lines)


def tests(effort: Effort) -> Iterator[Section]:
    """False positives at 5 %: two models that are equally good, one that is calibrated."""
    equal: list[Line] = []
    for case in effort.some(spans()):
        cells: list[Cell] = []
        for n in effort.rows:
            random, found, runs = np.random.default_rng(n), 0, effort.runs(1000)
            for _ in range(runs):
                base, candidate = case.draw(random, n)
                swap = random.random(n) < 0.5  # which of the two is which, row by row: no true difference
                pair = (np.where(swap[:, None], b, a) for a, b in ((base, candidate), (candidate, base)))
                found += mcnemar_p(*pair) <= 0.05
            cells.append(Cell(100 * found / runs, 2.0, 8.0, n <= 200))
        equal.append((f"spans, {case.name}", [_at_most(cell) for cell in cells]))
    yield Section("tests", "Two equal models differ (p at most 0.05), % of runs", _columns(effort), equal)
    calibrated: list[Line] = []
    for mean in (0.5, 0.85, 0.99):
        cells = []
        for n in effort.rows:
            random, found, runs = np.random.default_rng(n), 0, effort.runs(400)
            for _ in range(runs):
                confidence = np.clip(1 - (1 - mean) * random.gamma(0.7, 1 / 0.7, n), 0.05, 1)
                found += calibration(confidence, random.random(n) < confidence).p <= SURE
            few = n * (1 - mean) < FEW
            cells.append(Cell(100 * found / runs, 2.0, 8.0, few))
        calibrated.append((f"mean confidence {100 * mean:g} %", [_at_most(cell) for cell in cells]))
    title = "A calibrated model has a calibration error over 0, % of runs"
    yield Section("tests", title, _columns(effort), calibrated)


def attributions(effort: Effort) -> Iterator[Section]:
    """The mean agreement over the explained rows; 0 for attributions that are not related."""
    lines = []
    for related in (0.0, 0.5, 0.9):
        random = np.random.default_rng(0)
        pool, cells = agreements(random, 1000 if effort.quick else 20_000, related), []
        for n in effort.rows:
            runs = effort.runs(1000)
            drawn = pool[random.integers(0, len(pool), size=(runs, n))]
            inside = [_within(pool.mean(), mean_interval(one)) for one in drawn]
            cells.append(Cell(_share(inside), conservative=n <= 50))
        lines.append((f"values correlated {related:g}: mean agreement {pool.mean():+.2f}", cells))
    yield Section("attributions", "Attribution agreement, interval of the mean", _columns(effort), lines)


def latency(effort: Effort) -> Iterator[Section]:
    """Two copies of one model (true ratio 1), and cost ties; processes are the unit."""
    effects = (0.0, 0.02, 0.04)
    columns = [f"process effect {100 * effect:g} %" for effect in effects]
    statistics: tuple[Statistic, ...] = ("median", "mean", "p95")
    ratios: dict[str, list[Cell]] = {}
    costs: dict[str, list[Cell]] = {}
    for processes in (3, 6, 12):
        for correlation in (0.0, 0.9):
            for effect in effects:
                random, runs = np.random.default_rng(processes), effort.runs(1000)
                held = dict.fromkeys(statistics, 0)
                tied = 0
                for _ in range(runs):
                    machine = random.lognormal(0, 0.2, 2 * processes)
                    (ours, of), (theirs, _) = (times(random, processes, effect, correlation, machine) for _ in "ab")
                    for statistic in statistics:
                        _, lo, hi = ratio(ours, theirs, of, statistic=statistic)  # type: ignore[arg-type]
                        held[statistic] += lo <= 1 <= hi
                    logs = np.log(by_process(ours, of, "mean") / by_process(theirs, of, "mean"))  # type: ignore[arg-type]
                    tied += bool(abs(logs.mean()) <= half_width(logs))
                name = f"{processes} processes, autocorrelation {correlation:g}"
                for statistic in statistics:
                    ratios.setdefault(f"{statistic}, {name}", []).append(Cell(100 * held[statistic] / runs))
                costs.setdefault(name, []).append(Cell(100 * tied / runs))
    yield Section("latency", "Ratio of two latencies, interval", columns, list(ratios.items()))
    yield Section("latency", "Cost of two copies of one model ties, % of runs", columns, list(costs.items()))


def flipped(
    random: np.random.Generator, n: int, drops: np.ndarray, accuracy: float, churn: float, shared: float
) -> tuple[np.ndarray, np.ndarray]:
    """Baseline (n,) bool and candidates (len(drops), n) bool with true drops in points; `churn`: share of rows that
    differ; `shared`: share of the rows in which all candidates flip by the same random number."""
    base, common = random.random(n) < accuracy, random.random(n)
    right = []
    for drop in drops / 100:
        u = np.where(random.random(n) < shared, common, random.random(n))
        lost, won = (churn + drop) / 2 / accuracy, (churn - drop) / 2 / (1 - accuracy)
        right.append(np.where(base, u >= lost, u < won))
    return base, np.array(right)


def selection(effort: Effort) -> Iterator[Section]:
    """`choose` itself, max_drop 1: share of the runs in which the true drop of what it selects is over max_drop."""
    confidences = (0.0, 0.8, 0.95)
    columns = [f"confidence {level:g}" for level in confidences]
    lines = []
    scenes = (
        ("20 candidates, each 1.5 points worse", np.full(20, 1.5)),
        ("5 candidates, 2 to 0.5 points worse", np.linspace(2.0, 0.5, 5)),
        ("20 candidates, 2 to 0.5 points worse", np.linspace(2.0, 0.5, 20)),
        ("8 candidates, 3 to 0 points worse", np.linspace(3.0, 0.0, 8)),
        ("4 candidates, 3, 1.1, 0.5 and 0.2 points worse", np.array([3.0, 1.1, 0.5, 0.2])),
    )
    for title, drops in effort.some(scenes):
        for n, shared in ((500, 0.0), (1000, 0.7), (2000, 0.7)):
            if effort.quick and n != 1000:
                continue
            random, runs = np.random.default_rng(1), 40 if effort.quick else 300
            over = np.zeros(len(confidences))
            for _ in range(runs):
                rows = _candidates(random, n, drops, shared)
                lost = dict(zip((row.name for row in rows), [*drops, 0.0], strict=True))
                for i, level in enumerate(confidences):
                    try:
                        picked = choose(rows, rows[-1], ChooseSettings(max_drop=1.0, confidence=level)).chosen
                    except StepError:
                        continue
                    over[i] += lost[picked.name] > 1 + 1e-9
            share = 100 * over / runs
            limits = (100.0, 23.0, 7.0)
            cells = [Cell(value, 0.0, limit) for value, limit in zip(share.tolist(), limits, strict=True)]
            lines.append((f"{title}, {n:,} rows, {100 * shared:g} % of flips shared", cells))
    text = "Accuracy 85 %, 6 % of the rows differ; the cheaper, the worse. Confidence 0 compares the measured drops."
    title = "Selection, simulated"
    yield Section("selection", title, columns, lines, text)


def _candidates(random: np.random.Generator, n: int, drops: np.ndarray, shared: float) -> list[Row]:
    """Rows of `choose`, the cheaper the worse, the checkpoint itself last and dearest."""
    base, right = flipped(random, n, drops, 0.85, 0.06, shared)
    costs = [*np.linspace(0.5, 1.0, len(drops)), 1.5]
    rows = []
    for i, (correct, cost) in enumerate(zip([*right, base], costs, strict=True)):
        itself = i == len(drops)
        result = CandidateResult(
            name="itself" if itself else f"candidate-{i}",
            runtime="",
            precision="",
            metric="accuracy",
            metric_validation=100 * float(correct.mean()),
            drop_validation=paired_drop(base, correct)[0],
            cost_per_million=cost,
        )
        rows.append(Row(result, 0 if itself else 1, correct, cost * np.exp(random.normal(0, 0.03, 6))))
    return rows


SECTIONS = {
    "accuracy": accuracy,
    "together": together,
    "points": points,
    "labels": labelled,
    "tests": tests,
    "attributions": attributions,
    "latency": latency,
    "selection": selection,
}


def markdown(sections: Sequence[Section], slack: float) -> str:
    """All tables, in the order given."""
    parts = []
    for section in sections:
        head = "| | " + " | ".join(section.columns) + " |\n| --- |" + " ---: |" * len(section.columns)
        lines = [
            f"| {name} | " + " | ".join(cell.text(slack) for cell in cells) + " |" for name, cells in section.lines
        ]
        text = f"{section.text}\n\n" if section.text else ""
        parts.append(f"### {section.title}\n\n{text}{head}\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def outside(sections: Sequence[Section], slack: float) -> list[str]:
    """A line for each cell that is outside its band."""
    return [
        f"{section.title}; {name}; {column}: {cell.value:.1f}, expected {cell.lo:g} to {cell.hi:g}"
        for section in sections
        for name, cells in section.lines
        for column, cell in zip(section.columns, cells, strict=True)
        if cell.outside(slack)
    ]


def write(page: Path, tables: Sequence[str]) -> None:
    """Put tables between the two markers of a page, each in the place of the one with its heading, new ones last.
    ValueError where there are no markers."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    inside, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the markers {BEGIN} and {END} are expected in it")
    there = ["### " + table.strip() for table in inside.split("### ")[1:]]
    found = {table.splitlines()[0]: table.strip() for table in (*there, *tables)}
    text = "\n\n".join(found.values())
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m paredown.benchmarks.simulations.coverage", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows, cases and runs, in seconds")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="a section; repeatable (default: all)")
    parser.add_argument("--write", type=Path, help="Markdown file: the tables between its two markers are replaced")
    given = parser.parse_args(arguments)
    effort, sections = Effort(given.quick), []
    for name in given.only or SECTIONS:
        for section in SECTIONS[name](effort):
            sections.append(section)
            print(markdown([section], effort.slack), flush=True)
    if given.write is not None:
        try:
            write(given.write, [markdown([section], effort.slack) for section in sections])
        except ValueError as error:
            parser.error(f"--write {given.write}: {error}")
    missed = outside(sections, effort.slack)
    count = sum(len(cells) for section in sections for _, cells in section.lines)
    print(f"{count} cells, {len(missed)} outside their band", *missed, sep="\n")
    return 1 if missed else 0


def _columns(effort: Effort) -> list[str]:
    return [f"{n:,} rows" for n in effort.rows]


def _share(held: Sequence[bool] | np.ndarray) -> float:
    return 100 * float(np.mean(held))


def _within(truth: float, interval: tuple[float, float]) -> bool:
    return interval[0] - 1e-6 <= truth <= interval[1] + 1e-6


def _at_most(cell: Cell) -> Cell:
    """Of a rate of false positives that may be under its band where it is conservative."""
    return Cell(cell.value, 0.0, cell.hi) if cell.conservative else cell


if __name__ == "__main__":
    sys.exit(main())
