"""Image classification: each image has one label. Without torch."""

from __future__ import annotations

from typing import ClassVar

from paredown.runtime.preprocessor import PIXELS

from . import perturbations
from .base import Feature, Task
from .columns import IMAGES

WORDS = "it changes or reads words, and images have none"


class ImageClassification(Task):
    name = "image-classification"
    heads = ("ForImageClassification",)
    auto_class = "AutoModelForImageClassification"
    inputs = (PIXELS,)
    columns = IMAGES
    pipeline_tag = "image-classification"
    unsupported: ClassVar = {
        **Task.unsupported,
        Feature.CASCADE: "cascades are for tasks that read text",
        Feature.STATIC: "static students are for tasks that read text",
        Feature.TRIM: "it cuts the vocabulary, and images have none",
        Feature.AUGMENT: WORDS,
        Feature.ADVERSARIAL: "it perturbs word embeddings, and images have none",
        Feature.EXPLAIN: WORDS,
        Feature.ROBUSTNESS: WORDS,
        Feature.LENGTHS: "images are of one size",
        Feature.FIXED_SHAPES: "images are of one size",
        Feature.GPU: "images run on CPUs so far: onnxruntime, openvino",
    }

    def keeps_labels(self, change: perturbations.Change) -> bool:
        return False

    rows_are = "images"

    def predict_options(self) -> str:
        return "--image FILE"

    def row_code(self) -> str:
        return '"data:image/png;base64,..."'

    def describe_length(self, manifest: dict) -> str:
        return "Images are resized as `preprocessor_config.json` says, whatever their size."
