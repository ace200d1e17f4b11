"""The preprocessor that goes with a model: a tokenizer, or an image processor. Pillow is imported for images only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .preprocessor import PIXELS, Preprocessor, reader_file


def preprocessor_of(
    folder: Path, inputs: Sequence[str], max_length: int, pad_id: int, *, marks: bool = False
) -> Preprocessor:
    """The preprocessor for a model with these `inputs`, from the file in `folder`. `marks`: as for `Preprocessor`."""
    file = folder / reader_file(inputs)
    if PIXELS not in inputs:
        return Preprocessor(file, max_length, pad_id, marks=marks)
    from .images import ImagePreprocessor

    return ImagePreprocessor(file)
