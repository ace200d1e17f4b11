"""Image classification: each image has one label. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import PIXELS, Preprocessor

from . import perturbations
from .base import Feature, Task
from .columns import IMAGES
from .parsing import image_of

WORDS = "it changes or reads words, and images have none"


class ImageClassification(Task):
    name = "image-classification"
    heads = ("ForImageClassification",)
    auto_class = "AutoModelForImageClassification"
    inputs = (PIXELS,)
    optional_inputs = ()
    input_axes: ClassVar = {0: "batch"}
    reference_rows = 200  # measurements.json holds the images themselves
    columns = IMAGES
    pipeline_tag = "image-classification"
    unsupported: ClassVar = {
        **Task.unsupported,
        Feature.CASCADE: "cascades are for tasks that read text",
        Feature.STATIC: "static students are for tasks that read text",
        Feature.TRUNCATE: WORDS,
        Feature.TRIM: "it reduces the vocabulary, and images have none",
        Feature.AUGMENT: WORDS,
        Feature.RECOMBINE: WORDS,
        Feature.ADVERSARIAL: "it perturbs word embeddings, and images have none",
        Feature.EXPLAIN: WORDS,
        Feature.ROBUSTNESS: WORDS,
        Feature.LENGTHS: "images are of one size",
        Feature.FIXED_SHAPES: "images are of one size",
        Feature.GPU: "images run on CPUs so far: onnxruntime, openvino",
    }

    def row_texts(self, texts: Sequence[str], seconds: Sequence[str] = ()) -> list[str]:
        """Data URIs as rows."""
        if not all(text.startswith("data:image/") for text in texts):
            raise InputError(f"{self.name} reads images: give --image FILE (in Python: image_of(FILE, ...))")
        return super().row_texts(texts, seconds)

    def rows_of_images(self, files: Sequence[str], option: str) -> list[str]:
        return [image_of(file, Path(), option) for file in files]

    def example_rows(self, encoder: Preprocessor) -> list[str]:
        return [encoder.example] * 2

    def example_input(self, encoder: Preprocessor) -> np.ndarray:
        """(2, channels, height, width) float32."""
        return np.zeros((2, *encoder.shape), dtype=np.float32)

    def excerpt(self, row: str, encoder: Preprocessor) -> str:
        """The image, no larger than the model sees it."""
        return encoder.small(row)

    def keeps_labels(self, change: perturbations.Change) -> bool:
        return False

    def request_inputs(self) -> tuple[str, ...]:
        return ("image",)

    rows_are = "images"

    def predict_options(self) -> str:
        return "--image FILE"

    def model_arguments(self) -> str:
        return '"data:image/png;base64,..."'

    def describe_length(self, manifest: dict) -> str:
        return "Images are resized as `preprocessor_config.json` says, whatever their size."
