"""A bundle in an application: text in, answer out, with numpy, tokenizers and one runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import answers
from .causal_decoding import Decoder
from .preprocessor import PAIR, Preprocessor, is_text, run_rows
from .selftest import check_files, check_machine, golden_rows, open_model, read_manifest

Decode = Callable[[np.ndarray, Sequence[str], Sequence[str], Preprocessor], list[dict]]
DECODE: dict[str, Decode] = {  # by the manifest's `answer`
    "label": lambda outputs, labels, texts, encoder: answers.classes(outputs, labels),
    "labels": lambda outputs, labels, texts, encoder: answers.several_labels(outputs, labels),
    "number": lambda outputs, labels, texts, encoder: answers.values(outputs),
    "vector": lambda outputs, labels, texts, encoder: answers.vectors(outputs),
    "ends": lambda outputs, labels, texts, encoder: answers.parts(outputs, texts, encoder),
    "next_token": lambda outputs, labels, texts, encoder: answers.continuations(outputs, texts, encoder),
    "text": lambda outputs, labels, texts, encoder: answers.texts_of(outputs, encoder),
}


class Model:
    """A verified bundle, opened on this machine.

    >>> from paredown_bundle import Model
    >>> model = Model(".")
    >>> model("a moving, lovely film")
    {'label': 'positive', 'score': 0.83, 'scores': {'negative': 0.17, 'positive': 0.83}}
    """

    def __init__(self, bundle: str | Path = ".", threads: int | None = None) -> None:
        """`threads`: of the runtime; None: those with which a single row is answered the fastest. Raises BundleError
        where a file is not as packed, or this machine cannot run the model."""
        bundle = Path(bundle).resolve()
        cache = Path(__file__).resolve().parent / "__pycache__"  # Python's, where the bundle's own copy of this runs
        try:
            self._open(bundle, cache, threads)
        finally:
            if cache.is_relative_to(bundle):
                shutil.rmtree(cache, ignore_errors=True)  # a bundle stays as it was packed

    def _open(self, bundle: Path, cache: Path, threads: int | None) -> None:
        self.manifest: dict[str, Any] = read_manifest(bundle)
        check_files(bundle, self.manifest, cache)
        check_machine(self.manifest)
        self._session, self._encoder = open_model(bundle, self.manifest, threads)
        self._decode = DECODE[self.manifest["answer"]]
        golden, _ = golden_rows(bundle, self.manifest)
        self._pairs = PAIR in golden[0]["text"]
        if self.manifest["answer"] == "label":
            example = self._session(self._encoder.pad(self._encoder.ids([self._encoder.example])))
            if example[self.manifest["outputs"][0]].ndim == 3:  # an answer for every token
                self._decode = answers.entities

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(self.manifest["labels"])

    def __call__(
        self,
        texts: str | Sequence[str],
        seconds: str | Sequence[str] | None = None,
        *,
        top_k: int | None = None,
        batch_size: int = 16,
    ) -> Any:
        """The answer to a text, or a list of answers to several, as `paredown predict` gives them: {label, score,
        scores}; {labels, scores}; {value}; {embedding}; {entities}; {answer, start, end, score}; {text}.

        `seconds`: the other text of each, for a task that reads two (the context of a question). `top_k`: of `scores`
        the highest. `batch_size`: rows of a call; INT8 answers depend a little on the rows beside them. An image is a
        data URI. ValueError for second texts that are missing or too many, and for a text that is no UTF-8.
        """
        if isinstance(texts, str):
            if seconds is not None and not isinstance(seconds, str):
                raise ValueError("one text has one second text, not a list")
            return self([texts], None if seconds is None else [seconds], top_k=top_k, batch_size=batch_size)[0]
        rows = self._rows(texts, seconds)
        if not rows:
            return []
        session, encoder = self._session, self._encoder
        if isinstance(session, Decoder):
            outputs = session.continued(encoder.prompts(rows, session.room))
        else:
            outputs = run_rows(session, encoder.ids(rows), encoder.pad_id, self.manifest["outputs"][0], batch_size)
        found = self._decode(outputs, self.labels, rows, encoder)
        return [answers.best_scores(answer, top_k) for answer in found]

    def _rows(self, texts: Sequence[str], seconds: str | Sequence[str] | None) -> list[str]:
        """Texts, or pairs of texts, as the preprocessor reads them."""
        if self._pairs != (seconds is not None):
            wanted = "needs a second text for each" if self._pairs else "takes no second text"
            raise ValueError(f"a model for {self.manifest['task']} {wanted}")
        if isinstance(seconds, str) or (seconds is not None and len(seconds) != len(texts)):
            raise ValueError(f"{len(texts)} texts need as many second texts")
        if not all(map(is_text, (*texts, *(seconds or ())))):
            raise ValueError("a text holds half a character (a lone surrogate) or U+001E; give UTF-8")
        return list(texts) if seconds is None else [f"{a}{PAIR}{b}" for a, b in zip(texts, seconds, strict=True)]
