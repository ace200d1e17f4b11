"""Text classification: each row, a text or a pair of texts, has one label. Without torch."""

from __future__ import annotations

from typing import ClassVar

from .base import Feature, Task
from .columns import PAIRS

BOTH_TEXTS = "a row is two texts, and the end of the first would be lost"


class TextClassification(Task):
    """The defaults of `Task`."""

    name = "text-classification"


class TextPairClassification(Task):
    """Both texts are one row of the model; BERT-like models tell them apart by token types."""

    name = "text-pair-classification"
    columns = PAIRS
    adapters = ("token_types",)
    unsupported: ClassVar = {
        **Task.unsupported,
        Feature.EXPLAIN: "it attributes an answer to the words of one text",
        Feature.TRUNCATE: BOTH_TEXTS,
    }
