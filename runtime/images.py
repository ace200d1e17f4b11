"""Image preprocessing with numpy and Pillow: what transformers' image processors of ViT and ConvNeXT do.

A row is a data URI, `data:image/png;base64,...`: the file itself, so that nothing here ever opens a path. The same file
runs in training, in measuring and inside the bundle (it is copied there as it stands).
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .preprocessor import Preprocessor, RowError

FORMATS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}  # Pillow's name -> the MIME type's
MOST_BYTES = 20_000_000  # of an encoded image
MOST_PIXELS = 50_000_000  # of a decoded one: a few kB can unpack to gigabytes
KINDS = ("", "ViT", "DeiT", "ConvNext", "Bit", "CLIP")  # image processors whose arithmetic this is
CROP_PCT = 224 / 256  # ConvNeXT's, where its file does not say


class ImagePreprocessor(Preprocessor):
    """A preprocessor_config.json. A row has one "token", the image: (1, channels, height, width) float32.

    Raises ValueError, naming the key, for a file that asks for what is not known here.
    """

    unit = "pixels"

    def __init__(self, preprocessor_json: Path, channels: int | None = None) -> None:
        """`channels`: of the model, 1 (grey) or 3 (RGB), for a file that does not say."""
        settings = json.loads(preprocessor_json.read_bytes())
        kind = settings.get("image_processor_type") or settings.get("feature_extractor_type") or ""
        kind = kind.removesuffix("Fast").removesuffix("Pil")
        kind = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
        if kind not in KINDS:
            raise ValueError(f"'{kind}' image processors are not known; known: {', '.join(KINDS[1:])}")
        odd = next((k for k in ("do_pad", "do_flip_channel_order", "rescale_offset") if settings.get(k)), None)
        if odd is not None:
            raise ValueError(f"key '{odd}' is not known")
        self.max_length, self.pad_id = 1, 0
        self.channels = int(settings.get("num_channels", channels or 3))
        if self.channels not in (1, 3):
            raise ValueError(f"num_channels is {self.channels}; 1 (grey) or 3 (RGB) is expected")
        self._settings = settings
        self._resample = Image.Resampling(settings.get("resample", Image.Resampling.BILINEAR))
        size, crop = settings.get("size"), settings.get("crop_size")
        self._crop = _height_width(crop, "crop_size") if settings.get("do_center_crop") else None
        self._short = self._to = None
        if kind == "ConvNext":
            edge = _edge(size["shortest_edge"] if isinstance(size, dict) else size, "size")
            self._to = (edge, edge)
            if edge < 384:  # a smaller one is cropped from a larger one
                self._short, self._crop = int(edge / settings.get("crop_pct", CROP_PCT)), (edge, edge)
        elif isinstance(size, dict) and "shortest_edge" in size:
            self._short = _edge(size["shortest_edge"], "size")
        else:
            self._to = _height_width(size, "size")
        if not settings.get("do_resize", True):
            self._short = self._to = None
        shape = self._crop or (None if self._short else self._to)
        if shape is None:
            raise ValueError("images of one size are needed: 'size' with height and width, or 'do_center_crop'")
        self._shape = (self.channels, *shape)
        self._scale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1
        normal = settings.get("do_normalize", True)
        self._mean = self._numbers("image_mean") if normal else np.zeros(1, np.float32)
        self._std = self._numbers("image_std") if normal else np.ones(1, np.float32)

    @property
    def _width_height(self) -> tuple[int, int]:
        return self._shape[2], self._shape[1]

    def _numbers(self, key: str) -> np.ndarray:
        """One number for each channel, or one for all."""
        found = np.atleast_1d(np.array(self._settings.get(key, []), dtype=np.float32))
        if found.shape not in ((1,), (self.channels,)):
            raise ValueError(f"'{key}' has {found.size} numbers, the model {self.channels} channels")
        if not np.isfinite(found).all() or (key == "image_std" and not found.all()):
            raise ValueError(f"'{key}' is {self._settings[key]!r}")
        return found

    @property
    def example(self) -> str:
        """A grey image of the size that the model sees."""
        file = io.BytesIO()
        Image.new("L", self._width_height, 128).save(file, "PNG")
        return uri(file.getvalue())

    def random_rows(self, count: int, vocabulary: int | None = None) -> list:
        """Pixels of normal noise, (1, channels, height, width) float32 each, the same ones each time."""
        return list(np.random.default_rng(0).normal(size=(count, 1, *self._shape)).astype(np.float32))

    def write(self, folder: Path) -> None:
        """The file with the number of channels, which config.json has in a checkpoint and a bundle has nowhere else."""
        known = json.dumps({**self._settings, "num_channels": self.channels}, indent=2)
        (folder / "preprocessor_config.json").write_text(known + "\n")

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width)."""
        return self._shape

    def ids(self, texts: Sequence[str]) -> list[Any]:
        """Pixel values of each data URI, (1, channels, height, width) float32. RowError for what is no image."""
        return [self._pixels(decoded(text)) for text in texts]

    def small(self, text: str) -> str:
        """The same image for keeping: a PNG that is no larger than what the model sees."""
        image = self._coloured(decoded(text))
        image.thumbnail(self._width_height)
        file = io.BytesIO()
        image.save(file, "PNG")
        return uri(file.getvalue())

    def _coloured(self, image: Image.Image) -> Image.Image:
        return image.convert("L" if self.channels == 1 else "RGB")

    def _pixels(self, image: Image.Image) -> np.ndarray:
        image = self._coloured(image)
        if self._short is not None:
            least, most = sorted(image.size)
            long = int(self._short * most / least)
            if self._short * long > MOST_PIXELS:
                raise RowError(f"an image of {image.width} x {image.height} pixels is too narrow")
            wide = image.width > image.height
            image = image.resize((long, self._short) if wide else (self._short, long), self._resample)
        elif self._to is not None:
            image = image.resize((self._to[1], self._to[0]), self._resample)
        pixels = np.asarray(image)
        pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        if self._crop is not None:
            pixels = _cut_out(pixels, *self._crop)
        scaled = (pixels.astype(np.float64) * self._scale).astype(np.float32)
        return ((scaled.T - self._mean) / self._std).T[None]


class TooLarge(RowError):
    """More bytes, or pixels, than are taken."""


def uri(raw: bytes, most_bytes: int = MOST_BYTES, most_pixels: int = MOST_PIXELS, *, whole: bool = True) -> str:
    """The bytes of an image file as a row. RowError where they are not an image, TooLarge before anything is decoded.

    `whole`: look whether all of its pixels are there too."""
    if len(raw) > most_bytes:
        raise TooLarge(f"an image of {len(raw)} bytes; at most {most_bytes} are taken")
    image = _opened(raw, most_pixels)
    kind = FORMATS[str(image.format)]
    if whole:
        image.draft(None, (1, 1))  # of a JPEG an eighth of each side is enough
        _load(image)
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def bytes_of(text: str) -> bytes:
    """The file in a data URI, or in bare base64. RowError for anything else."""
    head, comma, body = text.partition(",") if text.startswith("data:") else ("", "", text)
    if comma and not (head.startswith("data:image/") and head.endswith(";base64")):
        raise RowError("a data URI of an image is expected: data:image/png;base64,...")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise RowError("not base64: an image is data:image/png;base64,...") from None


def decoded(text: str) -> Image.Image:
    """The image of a row, upright. RowError where it is none."""
    image = _opened(bytes_of(text), MOST_PIXELS)
    _load(image)
    return ImageOps.exif_transpose(image)


def _opened(raw: bytes, most_pixels: int) -> Image.Image:
    """The head of an image file is read; nothing is decoded yet."""
    try:
        image = Image.open(io.BytesIO(raw), formats=tuple(FORMATS))
    except UnidentifiedImageError:
        raise RowError(f"not an image; known: {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:  # Pillow's own limit
        raise TooLarge(str(error)) from None
    except Exception as error:  # each format has its own errors
        raise RowError(f"not an image: {error}") from None
    if image.width * image.height > most_pixels:
        raise TooLarge(f"an image of {image.width} x {image.height} pixels; at most {most_pixels} are taken")
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:  # as above
        raise RowError(f"a broken image: {error}") from None


def _cut_out(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of (channels, height, width) uint8; where it is smaller, zeros around it."""
    for axis, size in ((1, height), (2, width)):
        less = size - pixels.shape[axis]
        if less > 0:
            before = -(-less // 2)
            around = [(0, 0)] * 3
            around[axis] = (before, less - before)
            pixels = np.pad(pixels, around)
        start = (pixels.shape[axis] - size) // 2
        pixels = pixels.take(range(start, start + size), axis)
    return pixels


def _height_width(value: Any, key: str) -> tuple[int, int]:
    if isinstance(value, dict):
        return _edge(value.get("height"), f"{key}.height"), _edge(value.get("width"), f"{key}.width")
    return _edge(value, key), _edge(value, key)


def _edge(value: Any, key: str) -> int:
    if type(value) is not int or not 1 <= value <= 4096:
        raise ValueError(f"'{key}' is {value!r}; pixels, from 1 to 4096, are expected")
    return value
