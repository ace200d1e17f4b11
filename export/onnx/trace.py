"""A PyTorch module traced into an ONNX file."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from paredown.runtime.errors import StepError

if TYPE_CHECKING:
    import torch

OPSET = 17
SINGLE_FILE_LIMIT = 2 * 10**9  # bytes; protobuf's


def traced(
    module: torch.nn.Module,
    examples: tuple[torch.Tensor, ...],
    target: Path,
    inputs: list[str],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
) -> None:
    """Write what a module does to the examples as an ONNX file; `axes`: those of any size, by tensor. StepError when it
    is more than such a file can hold."""
    import torch

    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),  # the exporter puts back this one's mode, dropout included
            examples,
            str(target),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
    if target.stat().st_size > SINGLE_FILE_LIMIT:
        raise StepError(f"{target.name} is over 2 GB, which one ONNX file cannot hold")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter and the optimizer log every pattern that they did not find."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
