"""The order in which the trials of a search have ended, in a file: after a kill they are taken in the same order again.

With one place the order is that of the proposals. With several, what a search proposes depends on which trial ends
first; so the file, the seed and the seconds of the steps make the search what it is.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .store import write_atomic


class Ended(NamedTuple):
    """The end of a trial; `places`: as many were kept in flight until then, `seconds`: of the search, at that time."""

    trial: str
    places: int
    seconds: float


@dataclass
class TrialOrder:
    """Ends of trials: first those of the file, then those that are added. `file`: None for a search that keeps none."""

    file: Path | None = None
    ends: list[Ended] = field(default_factory=list)
    told: int = 0  # how many of them this search has come to

    def __post_init__(self) -> None:
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file and self.file.is_file() else []
        with suppress(ValueError, TypeError):  # the end of a line that a kill has truncated
            for line in lines:
                self.ends.append(Ended(**json.loads(line)))

    @property
    def next(self) -> Ended | None:
        """What comes next by the file; None where it has no more."""
        return self.ends[self.told] if self.told < len(self.ends) else None

    def add(self, ended: Ended) -> None:
        """Note the end of a trial. Where the file has another one next, it is of another search: the rest is dropped,
        as after a change of what its steps gave."""
        if self.next is None or self.next.trial != ended.trial:
            self.ends[self.told :] = [ended]
            if self.file is not None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self.file, "".join(json.dumps(end._asdict()) + "\n" for end in self.ends))
        self.told += 1
