"""The inputs of a model in requests: their names, and the rows that they hold, checked against the limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from paredown.export.predictor import Predictor
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import MARK, PAIR, PIXELS, is_text
from paredown.tasks.base import Feature

from ..config import Settings
from ..errors import HTTPError

TEXT, SECOND, IDS, MASK = "text", "text_pair", "input_ids", "attention_mask"
IMAGE = "image"
PATCH = 16 * 16  # pixels that count as one token, as in ViT's own patches
Tensors = Mapping[str, np.ndarray]  # of a request, by name; BYTES are objects of bytes


def inputs_of(predictor: Predictor, model: str) -> TextInputs | ImageInputs:
    """The inputs of an open bundle. `model`: its name, for errors."""
    return (ImageInputs if predictor.encoder.shape else TextInputs)(predictor, model)


class _Inputs:
    """What texts and images share."""

    tokens_per_unit = 1  # tokens that an element of a row counts as

    def __init__(self, predictor: Predictor, model: str) -> None:
        self.predictor, self.model = predictor, model
        self.task, self.encoder = predictor.task, predictor.encoder
        self.names = self.task.request_inputs()

    def metadata(self) -> list[dict]:
        """As GET /v2/models/{model} lists them."""
        return [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in self.names]


class TextInputs(_Inputs):
    """One text a row, or two; or their token ids, where the task allows it."""

    def __init__(self, predictor: Predictor, model: str) -> None:
        super().__init__(predictor, model)
        self.vocabulary = self.encoder.tokenizer.get_vocab_size()

    def metadata(self) -> list[dict]:
        ids = (IDS, MASK) if self.task.supports(Feature.IDS_IN_REQUESTS) else ()
        return super().metadata() + [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in ids]

    def rows(self, values: Tensors, settings: Settings) -> tuple[list[str] | None, list[list[int]]]:
        """(texts, []), or (None, token ids of each row), of the tensors of a request. HTTPError 400, 413."""
        if set(values) in ({TEXT}, {TEXT, SECOND}):
            for name, given in values.items():
                if given.dtype != object or given.ndim not in (1, 2) or given.shape[1:] not in ((), (1,)):
                    raise HTTPError(400, f"{name}: BYTES of shape [rows] is expected")
            return self.texts({name: given.ravel().tolist() for name, given in values.items()}, settings), []
        texts = " and ".join(f"'{name}'" for name in self.names)
        if not self.task.supports(Feature.IDS_IN_REQUESTS):
            raise HTTPError(400, f"inputs: {texts} (BYTES) of shape [rows] is expected by {self.task.name}")
        if set(values) not in ({IDS, MASK}, {IDS}):
            raise HTTPError(
                400, f"inputs: either {texts} (BYTES), or '{IDS}' and '{MASK}' (INT64); got {', '.join(sorted(values))}"
            )
        return None, self._token_ids(values[IDS], values.get(MASK), settings)

    def fields(self, row: str) -> dict[str, str]:
        """A row as the fields of a request."""
        return dict(zip(self.names, row.split(PAIR), strict=False))

    def texts(self, given: Mapping[str, list[bytes]], settings: Settings) -> list[str]:
        """The rows of texts by input name, before they are tokenised. HTTPError 400, 413."""
        if IMAGE in given:
            raise HTTPError(400, f"{IMAGE}: '{self.model}' reads text; give {' and '.join(self.names)}")
        first, second = given.get(TEXT, []), given.get(SECOND, [])
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
            return self.task.row_texts(texts, pairs)
        except InputError as error:
            raise HTTPError(400, f"{TEXT}, {SECOND}: {error}") from None

    def _token_ids(self, ids: np.ndarray, mask: np.ndarray | None, settings: Settings) -> list[list[int]]:
        for name, value in ((IDS, ids), (MASK, mask)):
            if value is not None and (value.dtype != np.int64 or value.ndim != 2):
                raise HTTPError(400, f"{name}: INT64 of shape [rows, length] is expected")
        _check_rows(len(ids), settings)
        if mask is None:
            mask = np.asarray(ids != self.encoder.pad_id, np.int64)
        if mask.shape != ids.shape:
            raise HTTPError(400, f"{MASK}: shape {list(mask.shape)}, {IDS} has {list(ids.shape)}")
        lengths = (mask == 1).sum(axis=1)
        right = mask == (np.arange(ids.shape[1]) < lengths[:, None])
        if not right.all() or not lengths.all():
            raise HTTPError(400, f"{MASK}: ones, then zeros: rows are padded on the right and hold a token at least")
        if lengths.max() > self.encoder.max_length:
            raise HTTPError(400, f"{IDS}: {lengths.max()} tokens; the model takes {self.encoder.max_length}")
        plain = ids % MARK if self.encoder.marks else ids
        if (ids < 0).any() or (plain >= self.vocabulary).any():
            raise HTTPError(400, f"{IDS}: a token is not in the vocabulary of {self.vocabulary}")
        return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


class ImageInputs(_Inputs):
    """One image a row: its file, the base64 of it, or its pixels."""

    def __init__(self, predictor: Predictor, model: str) -> None:
        super().__init__(predictor, model)
        self.shape = self.encoder.shape
        self.tokens_per_unit = max(1, math.prod(self.shape[1:]) // PATCH)

    def metadata(self) -> list[dict]:
        return [*super().metadata(), {"name": PIXELS, "datatype": "FP32", "shape": [-1, *self.shape]}]

    def rows(self, values: Tensors, settings: Settings) -> tuple[list[str] | None, list[Any]]:
        """(images, []), or (None, pixels of each row), of the tensors of a request. HTTPError 400, 413."""
        given = next(iter(values.values()))
        if set(values) == {IMAGE} and given.dtype == object and given.shape[1:] in ((), (1,)):
            return self.texts({IMAGE: given.ravel().tolist()}, settings), []
        if set(values) != {PIXELS} or given.dtype != np.float32 or given.shape[1:] != self.shape:
            raise HTTPError(
                400, f"inputs: either '{IMAGE}' (BYTES of shape [rows]), or '{PIXELS}' (FP32 of shape [rows, "
                f"{', '.join(map(str, self.shape))}])",
            )  # fmt: skip
        _check_rows(len(given), settings)
        if not np.isfinite(given).all():
            raise HTTPError(400, f"{PIXELS}: a number is not finite")
        return None, [given[i : i + 1] for i in range(len(given))]

    def fields(self, row: str) -> dict[str, str]:
        """Nothing: an image is no line of text."""
        return {}

    def texts(self, given: Mapping[str, list[bytes]], settings: Settings) -> list[str]:
        """The rows, data URIs, of images by input name, before any pixel is decoded. HTTPError 400, 413."""
        from paredown.runtime.images import TooLarge, bytes_of, uri

        if IMAGE not in given:
            raise HTTPError(400, f"{TEXT}: '{self.model}' reads images; give {IMAGE}")
        _check_rows(len(given[IMAGE]), settings)
        rows = []
        for file in given[IMAGE]:
            if len(file) > 2 * settings.image_bytes + 100:  # base64 takes a third more
                raise HTTPError(413, f"{IMAGE}: at most {settings.image_bytes} bytes are taken")
            try:
                raw = bytes_of(file.decode()) if file.isascii() else file
                rows.append(uri(raw, settings.image_bytes, settings.image_pixels, whole=False))
            except TooLarge as error:
                raise HTTPError(413, f"{IMAGE}: {error}") from None
            except ValueError as error:
                raise HTTPError(400, f"{IMAGE}: {error}") from None
        return rows


def _check_rows(count: int, settings: Settings) -> None:
    if not count:
        raise HTTPError(400, "at least one row is expected")
    if count > settings.request_rows:
        raise HTTPError(413, f"{count} rows in one request; at most {settings.request_rows} are taken")
