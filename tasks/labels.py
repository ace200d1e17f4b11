"""Label columns: names of labels or their indices, decided once for each column. Without torch.

Tables write one label in several ways: a pandas column that once had a hole holds 1.0 for 1, a boolean one True. Such
spellings count as the label that they stand for; where a column can be read in two ways, it is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from paredown.runtime.errors import InputError, nearest

MISSING = ("nan", "NaN", "NAN", "<NA>", "NaT")  # what pandas and others write for a value that is not there
BOOLEANS = {"true": "1", "false": "0"}


class ClassName(str):
    """A label's name that the data set itself gives to a number: `ClassLabel` of `datasets`."""

    number: int  # of this label in the data set
    of: int  # labels that the data set has

    def __new__(cls, name: str, number: int, of: int) -> ClassName:
        self = super().__new__(cls, name)
        self.number, self.of = number, of
        return self


def is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 10


def is_default(names: Sequence[str]) -> bool:
    """Whether these are the names that transformers gives to labels without any."""
    return bool(names) and tuple(names) == tuple(f"LABEL_{i}" for i in range(len(names)))


def written(value: object, where: str, column: str) -> str:
    """A cell's label as text; "" where it is missing. InputError for what is no label."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, ClassName):
        return value
    if isinstance(value, float) and math.isinf(value):
        raise InputError(f"{where}: column '{column}': {value} is not a label")
    if isinstance(value, list | tuple | dict | bytes):
        raise InputError(
            f"{where}: column '{column}': one label is expected, not {value!r:.60}; rows with several labels each are "
            "for --task multi-label-classification"
        )
    return str(value).strip()


def canonical(name: str) -> str:
    """One spelling of what tables write in several ways: "1.0" is "1", "True" is "1"."""
    if re.fullmatch(r"-?\d+\.0+", name):
        return str(int(name.partition(".")[0]))
    return BOOLEANS.get(name.lower(), name)


class LabelColumn:
    """The labels of one column of one file, collected by `add`, then numbered all in one way by `numbers`.

    `names`: the labels that a model knows, in their order. A cell is a name (blanks around either do not count; 1.0, 1
    and True are one), or else an index.
    """

    def __init__(self, names: Sequence[str], column: str) -> None:
        self.names, self.column = tuple(names), column
        self.exact = _unique((name.strip(), i) for i, name in enumerate(names)) | {n: i for i, n in enumerate(names)}
        self.spelled = _unique((canonical(name.strip()), i) for i, name in enumerate(names))
        self.found: dict[str, tuple[str, str]] = {}  # a label's text -> where it came first, and the text of that row

    def add(self, value: object, where: str, text: str) -> str:
        """Note a cell; returns its text, which `numbers` has the index of. InputError for a missing label."""
        name = written(value, where, self.column)
        if not name:
            raise InputError(
                f"{where}: column '{self.column}' is empty, in the row {text[:60]!r}; every row needs a label"
            )
        self.found.setdefault(name, (where, text))
        return name

    def named(self, name: str) -> int | None:
        """Index of the label with this name, None where there is none; 0 and 1 are no names of False and True."""
        if name in self.exact:
            return self.exact[name]
        found = self.spelled.get(canonical(name))
        if found is None or (self.names[found].strip().lower() in BOOLEANS and name.lower() not in BOOLEANS):
            return None
        return found

    def index(self, name: str) -> int | None:
        """The index that a cell may be: a number below the count of labels, or, where a model's labels have no names
        of their own, the data set's number of a name."""
        if isinstance(name, ClassName) and is_default(self.names):
            return name.number if name.of == len(self.names) else None
        number = canonical(name)
        return int(number) if is_number(number) and int(number) < len(self.names) else None

    def numbers(self) -> dict[str, int]:
        """The index of every label that was added. InputError for one that is unknown, and for a column that can be
        read as names and as indices."""
        by_name = {name: found for name in self.found if (found := self.named(name)) is not None}
        indices = [name for name in self.found if name not in by_name]
        for name in indices:
            if self.index(name) is None:
                where, text = self.found[name]
                missing = "; a missing label, it seems: remove the row or fill it in" if name in MISSING else ""
                raise InputError(
                    f"{where}: unknown label '{name}' in column '{self.column}' of the row {text[:60]!r}; "
                    f"{nearest(name, self.names)}{missing}"
                )
        if indices:
            self._refuse_two_readings(by_name, indices)
        return by_name | {name: index for name in indices if (index := self.index(name)) is not None}

    def _refuse_two_readings(self, by_name: dict[str, int], indices: Sequence[str]) -> None:
        numeric = [name for name in self.names if is_number(canonical(name.strip()))]
        where, _ = self.found[indices[0]]
        if by_name and numeric:
            names = ", ".join(f"'{name}'" for name in list(by_name)[:4])
            raise InputError(
                f"{where}: column '{self.column}': '{indices[0]}' can only be an index, and {names} can be names "
                f"({', '.join(self.names[:6])}); write the label's name in every row"
            )
        spoken = self.spelled | _unique(
            (str(int(number)), i) for i, n in enumerate(self.names) for number in re.findall(r"[0-9]+", n)
        )
        given = {canonical(name) for name in indices if not isinstance(name, ClassName)}
        other = next((n for n in sorted(given) if spoken.get(n, int(n)) != int(n)), None)
        if not by_name and other is not None and given <= spoken.keys():
            raise InputError(
                f"{where}: column '{self.column}' holds numbers, and {other} can be the label "
                f"'{self.names[spoken[other]]}' or the one with index {other}, '{self.names[int(other)]}'; write the "
                "labels' names"
            )


def refuse_indicators(rows: Iterable[Sequence[str]], count: int, source: str, column: str) -> None:
    """InputError where the lists of a column are a 0 or 1 for each of `count` labels, or may be: they are read as
    names or indices of labels."""
    lists = [row for row in rows if len(row)]
    if lists and all(len(row) == count and {canonical(part) for part in row} <= {"0", "1"} for row in lists):
        raise InputError(
            f"{source}: column '{column}' has lists of {count} zeros and ones, as many as there are labels: a 0 or 1 "
            "for every label, or labels' indices; write the names of a row's labels, an empty list where it has none"
        )


def distinct(found: Mapping[str, tuple[str, str]], source: str, column: str) -> tuple[str, ...]:
    """The labels of a column, sorted: by the data set's own numbers, as numbers where all are, else as text. `found`: a
    label's text -> itself, and where it came first.

    InputError for a missing label, and for one label that is spelled in two ways.
    """
    names = {text: name for text, (name, _) in found.items()}
    missing = next((name for name in names if not name or name in MISSING), None)
    if missing is not None:
        shown = f" ({missing!r})" if missing else ""
        raise InputError(f"{found[missing][1]}: column '{column}' is empty{shown}; every row needs a label")
    given = [name for name in names.values() if isinstance(name, ClassName)]
    if given:
        if len(given) < len(names):
            other = next(name for name in names.values() if not isinstance(name, ClassName))
            raise InputError(f"{source}: column '{column}': {other} is no label of the data set; remove such rows")
        return tuple(sorted(given, key=lambda name: name.number))  # type: ignore[attr-defined]
    if all(is_number(canonical(name)) for name in names) and not all(name.lower() in BOOLEANS for name in names):
        _one_spelling([name for name in names if "." not in name], source, column)
        return tuple(sorted({canonical(name) for name in names}, key=int))
    _one_spelling(names, source, column)
    return tuple(sorted(names))


def _one_spelling(names: Iterable[str], source: str, column: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(canonical(name), name)
        if other != name:
            raise InputError(
                f"{source}: column '{column}': '{other}' and '{name}' are one label in two spellings; write one of them"
            )


def _unique(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Those of the keys that stand for one index alone."""
    found: dict[str, set[int]] = {}
    for key, index in pairs:
        found.setdefault(key, set()).add(index)
    return {key: min(indices) for key, indices in found.items() if len(indices) == 1}


def indicator_row(names: Iterable[str], number: dict[str, int], count: int) -> np.ndarray:
    """1 for each of `count` labels that is among `names`, else 0: (count,) int64."""
    row = np.zeros(count, dtype=np.int64)
    row[[number[name] for name in names]] = 1
    return row
