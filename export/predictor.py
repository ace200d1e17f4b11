"""Answers of a bundle: texts or images in, labels and scores out. Without torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from paredown.compress.data.dataset import read_rows
from paredown.runtime.answers import best_scores
from paredown.runtime.causal_decoding import Decoder
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import RowError, is_text, run_rows
from paredown.runtime.selftest import (
    BundleError,
    check_files,
    check_golden,
    check_machine,
    open_encoder,
    open_runtime,
    read_manifest,
    threads_of,
    usable_cores,
)
from paredown.runtime.session import Session
from paredown.tasks.registry import task_named

from .isolation import begin_rows, limit_memory

MOST_CALLS = 4  # at once, each with memory of its own


class Predictor:
    """An unpacked bundle, verified as `selftest` does, opened on this machine. Raises BundleError.

    `alone`: nothing else needs the cores while the model waits for work (`open_session`).
    """

    def __init__(self, bundle: Path, threads: int | None = None, alone: bool = True) -> None:
        self.manifest = read_manifest(bundle)
        check_files(bundle, self.manifest)
        self.notes = check_machine(self.manifest)
        try:
            self.task = task_named(self.manifest["task"])
        except InputError as error:
            raise BundleError(f"{error}; this paredown does not know the task of the bundle") from None
        self.labels = tuple(self.manifest["labels"])
        begin = time.monotonic()
        self.session = open_runtime(bundle, self.manifest, threads, alone)
        self.session_s = time.monotonic() - begin
        self._bundle, self._alone = bundle, alone
        self._spare = 1 if threads else usable_cores() // threads_of(self.manifest)  # times the cores of a single row
        self.encoder = open_encoder(bundle, self.manifest)
        self.largest_difference = check_golden(bundle, self.manifest, self.session, self.encoder)

    def __call__(self, texts: Sequence[str], seconds: Sequence[str] = ()) -> list[dict]:
        """One answer per text: {label, score, scores}; {labels, scores} where a text may have several; {value} where
        it has a number; {embedding} where it has a vector; {entities} for token-classification; {answer, start, end,
        score} for question-answering; {text} that it wrote, or that comes after.
        `seconds`: the other text of each, for a task that reads two. An image is a data URI (`image_of`).
        """
        if not texts:
            return []
        if not all(map(is_text, [*texts, *seconds])):
            raise InputError("a text holds half a character (a lone surrogate) or U+001E; give UTF-8")
        return self.answers(self.task.row_texts(texts, seconds))

    def answers(self, rows: Sequence[str]) -> list[dict]:
        """One answer for each row, as the task reads them: both texts of a pair in one."""
        outputs = self.continued(self.prompts(rows)) if self.continues else self._outputs(rows)
        return self.task.decode(outputs, self.labels, rows, self.encoder)

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts to be continued, truncated so that new tokens fit behind them."""
        return self.encoder.prompts(texts, self._decoder.room)

    def continued(self, rows: Sequence[Sequence[int]], most: int | None = None) -> np.ndarray:
        """`Decoder.continued` of this bundle's model."""
        return self._decoder.continued(rows, most)

    @property
    def continues(self) -> bool:
        """The answer to a text is what comes after it."""
        return isinstance(self.session, Decoder)

    @property
    def _decoder(self) -> Decoder:
        if not isinstance(self.session, Decoder):
            raise BundleError("the manifest does not say what its decoder's cache looks like")
        return self.session

    def _outputs(self, texts: Sequence[str]) -> np.ndarray:
        try:
            rows = self.encoder.ids(texts)
        except RowError as error:
            raise InputError(f"an image: {error}") from None
        session, calls = self.session, 1
        if self._spare > 1 and len(rows) > 1:  # those cores that a single row leaves
            if self.manifest["runtime"] == "onnxruntime":  # whose sessions several threads may call
                calls = min(self._spare, MOST_CALLS)
            else:
                session = self._on_all_cores
        return run_rows(session, rows, self.encoder.pad_id, self.task.output, calls=calls)

    @cached_property
    def _on_all_cores(self) -> Session:
        return open_runtime(self._bundle, self.manifest, usable_cores(), self._alone)

    def answer_example(self) -> None:
        """Answer the example row of the preprocessor, to see that the bundle answers at all."""
        self.answers([self.task.row_of(self.encoder.example)])

    def score(self, source: str, text: str | None = None, label: str | None = None) -> tuple[float, int]:
        """The metric, in points, on labelled data (see `data.read`), and the number of rows (or pairs)."""
        rows = read_rows(self.task, source, text=text, label=label, names=self.labels)
        if not len(rows):
            raise InputError(f"{source}: no rows")
        return self.task.metric(self._outputs(rows.texts), self.task.gold(rows, self.encoder)), len(rows.begins)


def open_job(bundle: Path, started: float, rows_s: float, threads: int | None = None) -> None:
    """Open a bundle and answer once: the part of `child` that says whether it comes back."""
    predictor = Predictor(bundle, threads, alone=False)
    predictor.answer_example()


def predict_job(
    bundle: Path,
    started: float,
    rows_s: float,
    texts: list[str],
    images: list[str],
    pairs: list[str],
    rows: Sequence[str] = (),
    top_k: int | None = None,
) -> list[dict]:
    """`Predictor` on texts, on image files, or on rows as the task reads them, as a part of `child`."""
    predictor = Predictor(bundle)
    if rows:
        limit_memory(None)  # they are the user's own, and may be many
    begin_rows(rows_s)
    if rows:
        answers = predictor.answers(rows)
    else:
        answers = predictor(predictor.task.rows_of_images(images, "--image") if images else texts, pairs)
    return [best_scores(answer, top_k) for answer in answers]
