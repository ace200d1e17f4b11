"""Overlaps between splits, and rows held out of one. Without torch.

Two inputs are the same where they differ in case, in white space or in Unicode's compatible forms (NFKC) only. A row of
two texts is compared with both of them, sentence-embedding pairs as pairs, words as the text that they make, images by
the bytes of their files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import PAIR
from paredown.tasks.parsing import text_digest
from paredown.tasks.rows import Input, Rows

from .dataset import require_two_classes

LIMIT = 0.01  # share of the smaller split that may stand in both; such rows are left out of the judged one
FEWEST = 30  # different validation inputs that a third is held out of
DECILES = 10
SHOWN = 2  # examples in a note

Certificate = Literal["test", "held-out validation"]


@dataclass(frozen=True)
class Apart:
    """Splits that share no input: the judged ones in their order, the unlabelled one, and what was left out of them."""

    judged: tuple[Rows | None, ...]
    unlabeled: Rows | None
    notes: tuple[str, ...]


def apart(learned: Sequence[Rows], judged: Sequence[Rows | None], unlabeled: Rows | None = None) -> Apart:
    """Leave rows out of `judged` that also stand in `learned`, or in a later one of `judged`, so the last stays intact.

    InputError where these are more than LIMIT of the smaller of two splits. Of `unlabeled`, rows that stand in `judged`
    are left out however many they are; InputError where none is left.
    """
    given = [(rows, rows.inputs) for rows in (*learned, *filter(None, judged))]
    kept: dict[int, Rows] = {}
    notes: list[str] = []
    for n, (rows, mine) in enumerate(given[len(learned) :], start=len(learned)):
        out = np.zeros(len(mine), dtype=bool)
        for other, theirs in (*given[: len(learned)], *given[n + 1 :]):
            shared = _shared(mine, theirs)
            if shared.any():
                _require_few(rows, other, shared, len(theirs))
                notes.append(
                    f"{rows.source}: {_counted(int(shared.sum()), len(mine))} left out, also in {other.source}: "
                    f"{_examples(rows, shared)}"
                )
            out |= shared
        kept[id(rows)] = _without(rows, out) if out.any() else rows
    if unlabeled is not None:
        shared = _standing_in(unlabeled, [theirs for _, theirs in given[len(learned) :]])
        if shared.all():
            raise InputError(f"{unlabeled.source}: every row is also a validation or test row; leave `unlabeled` out")
        if shared.any():
            notes.append(
                f"{unlabeled.source}: {_counted(int(shared.sum()), len(unlabeled))} left out, also in validation or "
                f"test: {_examples(unlabeled, shared)}"
            )
            unlabeled = _without(unlabeled, shared)
    return Apart(tuple(None if rows is None else kept[id(rows)] for rows in judged), unlabeled, tuple(notes))


@dataclass(frozen=True)
class Splits:
    """The data of a run: splits that share no input, and rows to certify on that nothing else sees."""

    validation: Rows
    test: Rows | None  # None: no test rows were given, and validation has too few
    unlabeled: Rows | None
    certificate: Certificate | None  # what `test` is
    notes: tuple[str, ...]


def divided(train: Rows, validation: Rows, test: Rows | None, unlabeled: Rows | None) -> Splits:
    """The splits of a run: what stands in two is left out (`apart`), and without `test` a third of validation is held
    out for the certificate. Raises InputError."""
    kept = apart([train], [validation, test], unlabeled)
    notes = (*repeats(train, validation, test), *kept.notes)
    judged, test = kept.judged
    assert judged is not None
    if test is not None:
        return Splits(judged, test, kept.unlabeled, "test", notes)
    judged, test, note = certified(judged)
    return Splits(judged, test, kept.unlabeled, None if test is None else "held-out validation", (*notes, note))


def without(rows: Rows, judged: Sequence[Rows]) -> Rows:
    """The rows that stand in none of `judged`: for changed copies of training rows."""
    return _without(rows, _standing_in(rows, [others.inputs for others in judged]))


def repeats(*splits: Rows | None) -> tuple[str, ...]:
    """A note on every split in which more than LIMIT of the rows repeat an input of the same split; they stay."""
    notes = []
    for rows in filter(None, splits):
        inputs = rows.inputs
        count = len(inputs) - len(set(inputs))
        if count > LIMIT * len(inputs):
            notes.append(f"{rows.source}: {_counted(count, len(inputs))} repeat an earlier one; they are kept")
    return tuple(notes)


def certified(validation: Rows) -> tuple[Rows, Rows | None, str]:
    """Validation without a stratified third, that third for the certificate (None: too few rows), and a note on it."""
    few = len(set(validation.inputs))
    if few < FEWEST:
        return validation, None, (
            f"{validation.source}: no certificate: {few} different validation rows are too few to hold a third out, at "
            f"least {FEWEST} are needed; give test rows"
        )  # fmt: skip
    rest, held = held_out(validation, every=3)
    held = replace(held, source=f"{validation.source} (a third, held out)")
    try:
        require_two_classes(held, held.names)
    except InputError as error:
        return validation, None, f"{validation.source}: no certificate: no third can be held out: {error}"
    all_rows, count = len(validation.begins), len(held.begins)
    return rest, held, (
        f"{validation.source}: no test rows are given, so {count} of {all_rows} rows are held out for the certificate; "
        f"early stopping, thresholds and the selection use the other {all_rows - count}"
    )  # fmt: skip


def held_out(rows: Rows, every: int) -> tuple[Rows, Rows]:
    """The rows without every `every`-th, and these: always the same ones, whatever the order of the file.

    Stratified by label, set of labels, decile of the number or of the length. Rows of one input stay together, as do
    questions of one context. Labels of fewer than `every` inputs are not held out, unless most inputs have such labels.
    """
    units = rows.inputs
    if _asks(rows):
        units = [(text_digest(text.partition(PAIR)[2]),) for text in rows.texts]
    members: dict[Input, list[int]] = {}
    for i, unit in enumerate(units):
        members.setdefault(unit, []).append(i)
    strata = dict(zip(members, _strata(rows, [m[0] for m in members.values()], every), strict=True))
    often = Counter(strata.values())
    order = sorted(unit for unit in members if often[strata[unit]] >= every)
    if 2 * len(order) < len(members):
        order = sorted(members)
    else:
        order.sort(key=strata.__getitem__)
    out = np.zeros(len(units), dtype=bool)
    out[[i for unit in order[every // 2 :: every] or order[:1] for i in members[unit]]] = True
    return _without(rows, out), _without(rows, ~out)


def _shared(mine: Sequence[Input], theirs: Sequence[Input]) -> np.ndarray:
    """Which of `mine` stand in `theirs`, (inputs,) bool; a pair also where both its texts do, each by itself."""
    known = set(theirs)
    return np.array([unit in known or all((part,) in known for part in unit) for unit in mine])


def _standing_in(rows: Rows, judged: Sequence[Sequence[Input]]) -> np.ndarray:
    """Which of `rows` say the same as one in `judged`, or as a text of a pair there, (inputs,) bool."""
    known = {(part,) for theirs in judged for unit in theirs for part in unit}
    known |= {unit for theirs in judged for unit in theirs}
    return np.array([unit in known for unit in rows.inputs])


def _require_few(rows: Rows, other: Rows, shared: np.ndarray, others: int) -> None:
    """InputError where more than LIMIT of the smaller split stand in both."""
    count, smaller = int(shared.sum()), min(len(shared), others)
    if count <= LIMIT * smaller:
        return
    if rows.source == other.source or (shared.all() and len(shared) == others):
        raise InputError(
            f"{rows.source}: the same rows as {other.source}; what is judged on must not be learned from, nor selected "
            "on"
        )
    raise InputError(
        f"{rows.source}: {_counted(count, len(shared))} also stand in {other.source} (case and white space apart), "
        f"{_examples(rows, shared, 1)}; remove them from one of the two files (up to {100 * LIMIT:g} % of the smaller "
        "split is left out without asking)"
    )


def _counted(count: int, of: int) -> str:
    return f"{count} of {of} rows ({100 * count / of:.1f} %)"


def _examples(rows: Rows, shared: np.ndarray, most: int = SHOWN) -> str:
    """The first rows that are meant, each with its number and the start of its text."""
    starts = rows.starts
    found = []
    for n in np.flatnonzero(shared)[:most]:
        text = rows.texts[starts[n]]
        said = "" if text.startswith("data:image/") else f" {' '.join(text.replace(PAIR, ' | ').split())[:40]!r}"
        found.append(f"row {n + 1}{said}")
    return ", ".join(found)


def _without(rows: Rows, out: np.ndarray) -> Rows:
    """The rows without those inputs that `out` marks, (inputs,) bool."""
    starts = rows.starts
    lengths = np.diff([*starts, len(rows)])
    return rows.only(np.flatnonzero(~np.repeat(out, lengths)))


def _asks(rows: Rows) -> bool:
    """A row is a question and its context."""
    return rows.labels is not None and len(rows) > 0 and isinstance(rows.labels[0], tuple)


def _strata(rows: Rows, firsts: Sequence[int], every: int) -> list[tuple]:
    """The stratum of each input in `firsts` (numbers of inputs): equal for those of a kind, and sortable."""
    starts = rows.starts
    at = starts[list(firsts)]
    gold = None if rows.labels is None else rows.labels[at]
    lengths = np.array([len(rows.texts[i]) for i in at])
    if gold is None or isinstance(gold[0], str):
        return _deciles(lengths)
    if gold.dtype == np.float64:
        return _deciles(gold if np.isfinite(gold).all() else lengths)
    if isinstance(gold[0], tuple):  # questions: has the context an answer?
        return [(len(answers) > 0,) for answers in gold]
    if gold.dtype == object:
        return _of_sets([tuple(sorted(set(row.tolist()))) for row in gold], every)
    if gold.ndim > 1:
        return _of_sets([tuple(np.flatnonzero(row).tolist()) for row in gold], every)
    return [(label,) for label in gold.tolist()]


def _deciles(values: np.ndarray) -> list[tuple]:
    """The tenth of the values that each lies in."""
    limits = np.quantile(values, np.arange(1, DECILES) / DECILES)
    return [(int(n),) for n in np.searchsorted(limits, values)]


def _of_sets(sets: Sequence[tuple], every: int) -> list[tuple]:
    """The set of labels of each row; the rarest label alone of a set that fewer than `every` rows have."""
    often, single = Counter(sets), Counter(label for labels in sets for label in labels)
    return [
        labels if often[labels] >= every or not labels else (min(labels, key=lambda label: (single[label], label)),)
        for labels in sets
    ]
