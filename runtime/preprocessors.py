"""The preprocessor that goes with a model: a tokenizer, or an image processor. Pillow is imported for images only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .preprocessor import PIXELS, Encoder, reader_file


def encoder_of(folder: Path, inputs: Sequence[str], max_length: int, pad_id: int, *, marks: bool = False) -> Encoder:
    """The preprocessor for a model with these `inputs`, from the file in `folder`. `marks`: as for `Encoder`."""
    file = folder / reader_file(inputs)
    if PIXELS not in inputs:
        return Encoder(file, max_length, pad_id, marks=marks)
    from .images import ImageEncoder

    return ImageEncoder(file)
