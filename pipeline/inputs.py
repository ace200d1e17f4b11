"""What a stage works on, in a run or alone: a checkpoint, and rows that have been read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paredown.compress.config import Distill, Stage
from paredown.compress.data import dataset
from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.compress.types import TrainingData
from paredown.runtime.preprocessor import Preprocessor
from paredown.tasks.base import Task
from paredown.tasks.rows import Rows

Ids = Sequence[Sequence[int]]  # token ids of rows; images: arrays
Targets = Sequence[np.ndarray] | np.ndarray  # of rows, or of their tokens (`Task.training_targets`)


@dataclass(frozen=True)
class StageInputs:
    """The inputs of one stage. Rows have labels where they are given with them."""

    task: Task
    checkpoint: Checkpoint  # the model that the stage starts from
    labels: tuple[str, ...]  # of a new head, where the checkpoint has none
    train: Rows
    validation: Rows | None
    unlabeled: Rows | None
    max_length: int
    seed: int
    lengths: tuple[int, ...] = ()  # that calls are padded to
    processes: int = 1  # that share a training or a scoring

    @property
    def encoder(self) -> Preprocessor:
        return self.checkpoint.encoder(self.max_length)

    @property
    def texts(self) -> list[str]:
        """The training rows, then the unlabelled ones."""
        return [*self.train.texts, *(self.unlabeled.texts if self.unlabeled is not None else [])]

    def training_data(self) -> TrainingData:
        """The labelled rows, with the validation rows. InputError where they have no labels."""
        ids, encoder = self.checkpoint.read(dataset.encode(self.encoder, self.train)), self.encoder
        return TrainingData(ids, self.task.training_targets(self.train, encoder), validation=self.validation_rows())

    def all_rows(self) -> tuple[Ids, Sequence[np.ndarray] | None]:
        """Token ids of `texts`, and their targets: NO_LABEL, or NaN for a number, where a row has none; None where no
        row has any."""
        encoder = self.encoder
        ids = dataset.encode(encoder, self.train)
        if self.unlabeled is not None:
            ids = ids + encoder.ids(self.unlabeled.texts)
        ids = self.checkpoint.read(ids)
        if not self.task.has_gold(self.train):
            return ids, None
        targets = list(self.task.training_targets(self.train, encoder))
        return ids, targets + self.task.missing_targets(ids[len(targets) :], len(self.labels))

    def validation_rows(self) -> tuple[Ids, Targets] | None:
        """Token ids of the validation rows, and their targets; None without any."""
        if self.validation is None:
            return None
        encoder = self.encoder
        return self.checkpoint.read(encoder.ids(self.validation.texts)), self.task.training_targets(
            self.validation, encoder
        )

    def after(self, directory: str | Path) -> StageInputs:
        """The same rows with the checkpoint that a stage has left in `directory`."""
        return replace(self, checkpoint=open_checkpoint(directory, self.task))

    def for_stage(self, settings: Stage) -> StageInputs:
        """The same rows with the student that `settings` name, where they do: it generates as many tokens as its
        teacher, at most."""
        if not isinstance(settings, Distill) or settings.student is None:
            return self
        student = open_checkpoint(settings.student).for_task(self.task)
        return replace(self, checkpoint=student.generating_like(self.checkpoint))
