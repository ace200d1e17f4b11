"""Target scaling for regression: training in standard units, undone exactly in the last layer.

A learning rate, a clipped gradient and the weight of a loss fit numbers of mean 0 and variance 1. The last layer is
linear, so it takes the unit on and off again exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.preprocessor import run_rows
from paredown.tasks.rows import some_of
from paredown.tasks.scores import spread

from ..models.inference import forward
from ..models.output_kinds import OutputKind, kind_of, pad_id

SAMPLE_ROWS = 256  # that tell where the model stands

Values = TypeVar("Values")


@contextmanager
def standard_units(
    model: PreTrainedModel, ids: Sequence[Sequence[int]], values: Sequence | np.ndarray, *, move: bool = True
) -> Iterator[Callable[[Values], Values]]:
    """While the block runs, `model` answers in the unit in which `values` (rows,) or (rows, 1), the numbers that belong
    to `ids`, have mean 0 and variance 1; the block is given what brings others to it.

    A model that is further from them in the mean than they are spread, as one with a fresh head is, is moved there,
    unless what it says is to be kept (`move`). One that answers with labels is left as it is, and the block is given
    what changes nothing.
    """
    if kind_of(model) is not OutputKind.REGRESSION:
        yield lambda given: given
        return
    numbers = np.asarray(values, dtype=np.float64).ravel()
    unit = spread(numbers)
    head = last_layer(model)
    mean = float(numbers.mean()) if head.bias is not None else 0.0
    sample = some_of(len(ids), SAMPLE_ROWS)
    said = run_rows(partial(forward, model), [ids[i] for i in sample], pad_id(model), "logits")
    off = float(numbers[sample].mean() - said.mean()) if move else 0.0
    with torch.no_grad():
        head.weight.div_(unit)
        if head.bias is not None:
            head.bias.add_((off if abs(off) > unit else 0.0) - mean).div_(unit)
    try:
        yield lambda given: (np.asarray(given, dtype=np.float64) - mean) / unit  # type: ignore[return-value]
    finally:
        head = last_layer(model)  # an adapter may have put another in its place
        with torch.no_grad():
            head.weight.mul_(unit)
            if head.bias is not None:
                head.bias.mul_(unit).add_(mean)


def last_layer(model: PreTrainedModel) -> nn.Linear:
    """The layer that gives the outputs: a head ends in it, whatever it is called."""
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels][-1]
