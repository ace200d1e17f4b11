"""What a golden row's output answers, in the few kinds that a manifest names (`answer`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answer:
    """One kind of answer. `read`: a golden row's output and the labels -> the answer, as golden.json has it."""

    read: Callable[[np.ndarray, Sequence[str]], Any]
    has_unit: bool = False  # outputs are numbers in a unit of their own: the tolerance is in multiples of the largest
    decisive: bool = False  # the largest output of a row must stay the largest
    compared: int | None = None  # how many components of an output are compared as numbers; None: all


def _label(output: np.ndarray, labels: Sequence[str]) -> str | list[str]:
    """The likeliest label of (labels,), or of each token of (tokens, labels)."""
    best = output.argmax(axis=-1)
    return labels[int(best)] if output.ndim == 1 else [labels[int(i)] for i in best]


ANSWERS = {
    "label": Answer(_label, decisive=True),
    "labels": Answer(lambda output, labels: [name for name, x in zip(labels, output, strict=True) if x > 0]),
    "number": Answer(lambda output, labels: float(output[0]), has_unit=True),
    "vector": Answer(_label, has_unit=True),  # which component is the largest
    "ends": Answer(lambda output, labels: output.argmax(axis=0).tolist()),  # the likeliest token for either end
    "next_token": Answer(lambda output, labels: output[:, 1].astype(int).tolist(), compared=1),
    "text": Answer(lambda output, labels: None),  # two graphs: the tokenizer decodes the tokens
}
