"""The parity check: an opened artefact against what it was made from, for a step of a run and for `paredown export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from paredown.export.artifact import Artifact
from paredown.export.checks.parity import Expected, Parity, Tolerance, compare, gate, longest_row, takes_longest
from paredown.runtime.preprocessor import Preprocessor, run_rows
from paredown.runtime.session import Session
from paredown.tasks.base import Task


@dataclass(frozen=True)
class Comparison:
    """An artefact, opened, the rows that it is compared on, and how far it may be from what it was made from."""

    task: Task
    name: str  # in errors
    artifact: Artifact
    session: Session
    ids: Sequence[Sequence[int]]  # token ids of the rows; images: arrays
    limits: Tolerance

    @cached_property
    def encoder(self) -> Preprocessor:
        return self.artifact.encoder()

    @cached_property
    def outputs(self) -> np.ndarray:
        """Of the artefact, on the rows."""
        return run_rows(self.session, self.ids, self.encoder.pad_id, self.task.output)

    def require_parity(self, expected: np.ndarray, gold: Any, where: Callable[[dict[str, np.ndarray]], str]) -> Parity:
        """StepError where the outputs on the rows are too far from the `expected` ones.

        `gold`: as `Task.correct` takes it, None where there are no labels. `where`: the node that departs first, on a
        batch of inputs; called only for the message.
        """
        parity = compare(self.outputs, expected, gold, self.task, list(map(len, self.ids)))
        precision = self.artifact.precision
        gate(parity, self.limits, self.name, precision, lambda: where(self.encoder.pad(self.ids[:8])))
        return parity

    def longest(self, texts: Sequence[str] = ()) -> list[int] | None:
        """Token ids of a row of exactly the longest input, of the words of `texts` where they are given."""
        return longest_row(self.encoder, texts, second=self.task.reads_pairs)

    def require_longest(
        self, row: list[int] | None, expected: np.ndarray | None = None, unit: float = 1.0
    ) -> np.ndarray | None:
        """Outputs for `row`, the longest input; StepError where it does not run, or they are too far from the
        `expected` ones, in units of `unit` (`Task.unit`). None where there is no row."""
        wanted = None if expected is None else Expected(expected, self.limits, unit)
        return takes_longest(self.session, row, self.encoder, self.task, self.name, wanted)
