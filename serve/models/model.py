"""A bundle opened for serving: request rows, tokens, model calls."""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
from functools import partial
from pathlib import Path

import numpy as np

from paredown.export.bundle.archive import unpacked
from paredown.export.predictor import Predictor
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import DIGEST, BundleError, read_manifest
from paredown.runtime.preprocessor import MARK, collate
from paredown.tasks.base import Feature
from paredown.tasks.parsing import is_text

from ..config import Settings
from ..errors import HTTPError
from ..scheduling import batch_planner

ONE_AT_A_TIME = threading.Lock()  # a call of any model uses every thread that the worker may use
TEXT, SECOND, IDS, MASK = "text", "text_pair", "input_ids", "attention_mask"
IMAGE, PIXELS = "image", "pixel_values"
PATCH = 16 * 16  # pixels that count as one token, as in ViT's own patches


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
        self.predictor = Predictor(
            bundle.path, threads, alone=False
        )  # HTTP, tokenisers and other models need the cores too
        self.digest, self.bytes = bundle.digest, bundle.bytes
        manifest = self.predictor.manifest
        self.bundle = bundle.path
        self.name, self.version = bundle.name, bundle.version
        self.labels, self.task = self.predictor.labels, self.predictor.task
        self.max_length: int = manifest["max_length"]
        self.platform = f"paredown_{manifest['runtime']}"
        encoder = self.predictor.encoder
        self.shape = encoder.shape  # of an image
        self.tokens_per_unit = max(1, math.prod(self.shape[1:]) // PATCH)  # 1 of a text, whose tokens are counted
        self.vocabulary: int = 0 if self.task.reads_images else encoder.tokenizer.get_vocab_size()
        self.output = self.task.output
        ordinary = self.tokenise([encoder.example])[0]
        repeats = 1 if self.task.generates else batch_planner.REPEATS  # whole answers take long
        one = partial(self._alone, most=1)
        self.slack, self.seconds_per_token = batch_planner.measure(one, ordinary, self.max_length, repeats)

    @property
    def texts(self) -> list[str]:
        """The inputs that take text, or an image."""
        if self.task.reads_images:
            return [IMAGE]
        return [TEXT, SECOND] if self.task.reads_pairs else [TEXT]

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
        except ValueError as error:
            if not self.task.reads_images:
                raise
            raise HTTPError(400, f"{IMAGE}: {error}") from None

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
        tokens = [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in (IDS, MASK)]
        pixels = [{"name": PIXELS, "datatype": "FP32", "shape": [-1, *self.shape]}]
        other = pixels if self.shape else tokens if self.task.supports(Feature.IDS_IN_REQUESTS) else []
        return {
            "platform": self.platform,
            "inputs": [
                *({"name": name, "datatype": "BYTES", "shape": [-1]} for name in self.texts),
                *other,
            ],
            "outputs": [{"name": n, "datatype": kind, "shape": shape} for n, (kind, shape) in self.outputs.items()],
            "labels": list(self.labels),
            "max_length": self.max_length,
        }


def rows_of(
    values: dict[str, np.ndarray], model: Model, settings: Settings
) -> tuple[list[str] | None, list[list[int]]]:
    """(texts, []) or (None, rows of ids) of a request's inputs; HTTPError 400, 413 where they do not fit the model."""
    if model.task.reads_images:
        return _image_rows(values, model, settings)
    if set(values) in ({TEXT}, {TEXT, SECOND}):
        for name, given in values.items():
            if given.dtype != object or given.ndim not in (1, 2) or given.shape[1:] not in ((), (1,)):
                raise HTTPError(400, f"{name}: BYTES of shape [rows] is expected")
        first, second = (values[name].ravel().tolist() if name in values else [] for name in (TEXT, SECOND))
        return check_texts(first, second, model, settings), []
    texts = " and ".join(f"'{name}'" for name in model.texts)
    if not model.task.supports(Feature.IDS_IN_REQUESTS):
        raise HTTPError(400, f"inputs: {texts} (BYTES) of shape [rows] is expected by {model.task.name}")
    if set(values) not in ({IDS, MASK}, {IDS}):
        raise HTTPError(
            400, f"inputs: either {texts} (BYTES), or '{IDS}' and '{MASK}' (INT64); got {', '.join(sorted(values))}"
        )
    return None, _check_ids(values[IDS], values.get(MASK), model, settings)


def _image_rows(values: dict[str, np.ndarray], model: Model, settings: Settings) -> tuple[list[str] | None, list]:
    """`rows_of` for a model that sees images."""
    given = next(iter(values.values()))
    if set(values) == {IMAGE} and given.dtype == object and given.shape[1:] in ((), (1,)):
        return check_images(given.ravel().tolist(), model, settings), []
    if set(values) != {PIXELS} or given.dtype != np.float32 or given.shape[1:] != model.shape:
        raise HTTPError(
            400, f"inputs: either '{IMAGE}' (BYTES of shape [rows]), or '{PIXELS}' (FP32 of shape [rows, "
            f"{', '.join(map(str, model.shape))}])",
        )  # fmt: skip
    _check_rows(len(given), settings)
    if not np.isfinite(given).all():
        raise HTTPError(400, f"{PIXELS}: a number is not finite")
    return None, [given[i : i + 1] for i in range(len(given))]


def check_images(given: list[bytes], model: Model, settings: Settings) -> list[str]:
    """The rows of one request, before any pixel is decoded: each a file, or the base64 of one."""
    from paredown.runtime.images import TooLarge, bytes_of, uri

    if not model.task.reads_images:
        raise HTTPError(400, f"{IMAGE}: '{model.name}' reads text; give {' and '.join(model.texts)}")
    _check_rows(len(given), settings)
    rows = []
    for file in given:
        if len(file) > 2 * settings.image_bytes + 100:  # of base64 it is a third more
            raise HTTPError(413, f"{IMAGE}: at most {settings.image_bytes} bytes are taken")
        try:
            raw = bytes_of(file.decode()) if file.isascii() else file
            rows.append(uri(raw, settings.image_bytes, settings.image_pixels, whole=False))
        except TooLarge as error:
            raise HTTPError(413, f"{IMAGE}: {error}") from None
        except ValueError as error:
            raise HTTPError(400, f"{IMAGE}: {error}") from None
    return rows


def check_texts(first: list[bytes], second: list[bytes], model: Model, settings: Settings) -> list[str]:
    """The rows of one request, before anything is tokenised; `second`: the other text of each, where two make a row."""
    if model.task.reads_images:
        raise HTTPError(400, f"{TEXT}: '{model.name}' reads images; give {IMAGE}")
    _check_rows(len(first), settings)
    longest = max(map(len, [*first, *second]))
    if longest > settings.text_bytes:
        raise HTTPError(413, f"a text of {longest} bytes; at most {settings.text_bytes} are taken")
    try:
        texts, pairs = ([text.decode() for text in texts] for texts in (first, second))
    except UnicodeDecodeError:
        raise HTTPError(400, "a text is not UTF-8") from None
    if not all(map(is_text, [*texts, *pairs])):
        raise HTTPError(400, "a text contains U+001E, the reserved separator of pairs")
    try:
        return model.task.row_texts(texts, pairs)
    except InputError as error:
        raise HTTPError(400, f"{TEXT}, {SECOND}: {error}") from None


def _check_rows(count: int, settings: Settings) -> None:
    if not count:
        raise HTTPError(400, "at least one row is expected")
    if count > settings.request_rows:
        raise HTTPError(413, f"{count} rows in one request; at most {settings.request_rows} are taken")


def _check_ids(ids: np.ndarray, mask: np.ndarray | None, model: Model, settings: Settings) -> list[list[int]]:
    for name, value in ((IDS, ids), (MASK, mask)):
        if value is not None and (value.dtype != np.int64 or value.ndim != 2):
            raise HTTPError(400, f"{name}: INT64 of shape [rows, length] is expected")
    _check_rows(len(ids), settings)
    if mask is None:
        mask = np.asarray(ids != model.predictor.encoder.pad_id, np.int64)
    if mask.shape != ids.shape:
        raise HTTPError(400, f"{MASK}: shape {list(mask.shape)}, {IDS} has {list(ids.shape)}")
    lengths = (mask == 1).sum(axis=1)
    right = mask == (np.arange(ids.shape[1]) < lengths[:, None])
    if not right.all() or not lengths.all():
        raise HTTPError(400, f"{MASK}: ones, then zeros: rows are padded on the right and hold a token at least")
    if lengths.max() > model.max_length:
        raise HTTPError(400, f"{IDS}: {lengths.max()} tokens; the model takes {model.max_length}")
    plain = ids % MARK if model.predictor.encoder.marks else ids
    if (ids < 0).any() or (plain >= model.vocabulary).any():
        raise HTTPError(400, f"{IDS}: a token is not in the vocabulary of {model.vocabulary}")
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
