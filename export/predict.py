"""Answers of a bundle: text in, labels and scores out. Without torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..compress.data import is_text
from ..compress.encoder import collate, run_rows
from ..compress.errors import InputError
from ..compress.tasks import TASKS, points, softmax
from .selftest import (
    BundleError,
    check_files,
    check_golden,
    check_machine,
    open_encoder,
    open_runtime,
    read_manifest,
)

__all__ = ["Predictor", "collate", "is_text", "points", "softmax"]


class Predictor:
    """An unpacked bundle, verified as `selftest` does, opened on this machine. Raises BundleError."""

    def __init__(self, bundle: Path, threads: int | None = None) -> None:
        self.manifest = read_manifest(bundle)
        check_files(bundle, self.manifest)
        self.notes = check_machine(self.manifest)
        if self.manifest["task"] not in TASKS:
            raise BundleError(f"task '{self.manifest['task']}' is not one that this paredown knows")
        self.task = TASKS[self.manifest["task"]]
        self.labels = tuple(self.manifest["labels"])
        begin = time.monotonic()
        self.session = open_runtime(bundle, self.manifest, threads)
        self.session_s = time.monotonic() - begin
        self.encoder = open_encoder(bundle, self.manifest)
        self.largest_difference = check_golden(bundle, self.manifest, self.session, self.encoder)

    def __call__(self, texts: Sequence[str]) -> list[dict]:
        """One answer per text: {label, score, scores}, or {entities} for token-classification."""
        if not texts:
            return []
        if not all(map(is_text, texts)):
            raise InputError("a text holds half a character (a lone surrogate); give UTF-8")
        return self.task.decode(self._outputs(texts), self.labels, texts, self.encoder)

    def _outputs(self, texts: Sequence[str]) -> np.ndarray:
        return run_rows(self.session, self.encoder.ids(texts), self.encoder.pad_id, self.task.output)

    def score(self, source: str, text: str | None = None, label: str | None = None) -> tuple[float, int]:
        """The metric, in points, on labelled data (see `data.read`), and the number of rows."""
        rows = self.task.read(source, text=text, label=label, names=self.labels)
        if not len(rows):
            raise InputError(f"{source}: no rows")
        return self.task.metric(self._outputs(rows.texts), self.task.gold(rows, self.encoder)), len(rows)
