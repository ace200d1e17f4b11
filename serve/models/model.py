"""A bundle opened for serving: tokens and model calls."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import threading
from functools import partial
from pathlib import Path

import numpy as np

from paredown.export.bundle.archive import unpacked
from paredown.export.predictor import Predictor
from paredown.runtime.manifest import DIGEST, BundleError, read_manifest
from paredown.runtime.preprocessor import RowError, collate

from ..errors import HTTPError
from ..scheduling import batch_planner
from .inputs import inputs_of

EXAMPLES, LONGEST = 4, 300  # requests that the page offers, and characters of each

ONE_AT_A_TIME = threading.Lock()  # a call of any model uses every thread that the worker may use


class Bundle:
    """A bundle as a directory: itself, or its archive unpacked until `close`. Raises BundleError, InputError."""

    def __init__(
        self, source: Path, name: str | None = None, version: str | None = None, seconds: float | None = None
    ) -> None:
        """`seconds`: for unpacking it."""
        self._files = contextlib.ExitStack()
        self.path = self._files.enter_context(unpacked(source, seconds))
        try:
            manifest = read_manifest(self.path)
            self.digest = hashlib.sha256((self.path / DIGEST).read_bytes()).hexdigest()
        except BaseException:
            self.close()
            raise
        self.name, self.version = name or manifest["name"], version or manifest["version"]
        self.bytes = sum(entry["bytes"] for entry in manifest["files"].values())

    @property
    def megabytes(self) -> float:
        """MB on disk."""
        return self.bytes / 1e6

    def close(self) -> None:
        self._files.close()


class Model:
    """A bundle, verified before anything of it is opened. Raises BundleError."""

    def __init__(self, bundle: Bundle, threads: int, seconds: float = math.inf) -> None:
        """`seconds`: timeout for a call of another model to end."""
        self._bundle, self._timeout = bundle, seconds
        self.predictor = Predictor(bundle.path, threads, alone=False)  # HTTP and tokenisers need the cores too
        self.digest, self.bytes = bundle.digest, bundle.bytes
        manifest = self.predictor.manifest
        self.bundle = bundle.path
        self.name, self.version = bundle.name, bundle.version
        self.labels, self.task = self.predictor.labels, self.predictor.task
        self.max_length: int = manifest["max_length"]
        self.platform = f"paredown_{manifest['runtime']}"
        self.inputs = inputs_of(self.predictor, self.name)
        self.tokens_per_unit = self.inputs.tokens_per_unit
        self.output = self.task.output
        self.examples = self._examples()
        ordinary = self.tokenise([self.predictor.encoder.example])[0]
        self.slack, self.seconds_per_token = batch_planner.measure(
            partial(self._alone, most=1), ordinary, self.max_length
        )

    @property
    def outputs(self) -> dict[str, tuple[str, list[int]]]:
        """What protocol v2 gives, name -> (datatype, shape)."""
        return self.task.tensor_types(len(self.labels))

    def tokenise(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text; one padding token where a text has none, because a model takes no empty row. HTTPError 400
        for a broken image."""
        if self.predictor.continues:
            return self.predictor.prompts(texts)
        encoder = self.predictor.encoder
        try:
            return [ids if len(ids) else [encoder.pad_id] for ids in encoder.ids(texts)]
        except RowError as error:
            raise HTTPError(400, f"{self.inputs.names[0]}: {error}") from None

    def run(self, rows: list[list[int]], most: int | None = None) -> np.ndarray:
        """One call of the model: (rows, labels) float32, or (rows, length, labels); token ids int64, (rows, tokens). To
        continue texts, as many calls as that takes, `most` of them at most."""
        if self.predictor.continues:
            with ONE_AT_A_TIME:
                return self.predictor.continued(rows, most)
        batch = collate(rows, self.predictor.encoder.pad_id)
        with ONE_AT_A_TIME:
            found = np.asarray(self.predictor.session(batch)[self.output])
        found = found if found.dtype.kind == "i" else found.astype(np.float32)
        if not np.isfinite(found).all():
            raise ValueError("the model gave a number that is not finite")
        return found

    def _alone(self, rows: list[list[int]], most: int | None = None) -> np.ndarray:
        """`run`, before the model is served: BundleError when another one's call does not return."""
        if not ONE_AT_A_TIME.acquire(timeout=min(self._timeout, threading.TIMEOUT_MAX)):
            raise BundleError(f"not opened: a call of another model has not come back within {self._timeout:g} s")
        ONE_AT_A_TIME.release()
        return self.run(rows, most)

    def answers(self, texts: list[str], logits: np.ndarray) -> list[dict]:
        """One answer per text; `logits` are one line a row, or a token."""
        return self.task.decode(logits, self.labels, texts, self.predictor.encoder)

    def tensors(self, logits: np.ndarray, lengths: list[int], answers: list[dict]) -> dict[str, tuple]:
        """The outputs of protocol v2, name -> (datatype, values, shape), for rows of these lengths in tokens; `answers`
        to their texts, if they came as texts."""
        return self.task.tensors(logits, lengths, answers, self.labels, self.predictor.encoder)

    def close(self) -> None:
        self._bundle.close()

    def metadata(self) -> dict:
        """Inputs and outputs as GET /v2/models/{model} lists them; a request gives the text or the ids, or the image or
        its pixels."""
        return {
            "platform": self.platform,
            "inputs": self.inputs.metadata(),
            "outputs": [{"name": n, "datatype": kind, "shape": shape} for n, (kind, shape) in self.outputs.items()],
            "labels": list(self.labels),
            "max_length": self.max_length,
            "metric": self.predictor.manifest.get("metric"),
            "examples": self.examples,
        }

    def _examples(self) -> list[dict[str, str]]:
        """Bodies of POST /predict: the first golden rows that are short; none of images."""
        rows = json.loads((self.bundle / self.predictor.manifest["golden"]).read_text(encoding="utf-8"))["rows"]
        short = [row["text"] for row in rows if len(row.get("text", "")) <= LONGEST]
        return [fields for text in short[:EXAMPLES] if (fields := self.inputs.fields(text))]
