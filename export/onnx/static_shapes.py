"""Artefacts of a few fixed input lengths or one fixed shape, for NPUs, phones and shape compilers.

Several lengths: the model stays as it is and each call is padded to the next of them. One length, or a batch size: it
is written into the model itself. The session does the padding (`session.padded`), so it is what is measured and served.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from paredown.runtime.errors import InputError

from ..artifact import Artifact


def buckets(lengths: Sequence[int], max_length: int) -> tuple[int, ...]:
    """The lengths that calls are padded to: those below `max_length`, and `max_length` itself; ascending."""
    return (*sorted({length for length in lengths if length < max_length}), max_length)


def shaped(artifact: Artifact, lengths: Sequence[int], batch_size: int | None = None) -> Artifact:
    """The same directory, for these `lengths` (tokens; none: any) and this batch size (None: any).

    Raises InputError for a runtime that takes any shape, or engines, which have profiles.
    """
    if artifact.runtime not in RUNTIMES_SHAPED:
        raise InputError(f"lengths are for {' and '.join(RUNTIMES_SHAPED)}, not {artifact.runtime}")
    found = buckets(lengths, artifact.max_length) if lengths else ()
    fixed = {"length": found[0]} if len(found) == 1 else {}
    if batch_size:
        fixed["batch"] = batch_size
    if fixed:
        _FIX[artifact.runtime](artifact.path / artifact.files[0], artifact.inputs, fixed)
    return replace(artifact, lengths=found, batch_size=batch_size).write()


def _fix_onnx(path: Path, inputs: Sequence[str], fixed: dict[str, int]) -> None:
    """Write sizes in the place of the names that `plain_onnx` gave the dimensions."""
    import onnx
    from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_dim_param_fixed

    model = onnx.load(path)
    for name, size in fixed.items():
        make_dim_param_fixed(model.graph, name, size)
    del model.graph.value_info[:]  # shapes that were inferred for any size
    fix_output_shapes(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _fix_openvino(path: Path, inputs: Sequence[str], fixed: dict[str, int]) -> None:
    import openvino

    shape = openvino.PartialShape([fixed.get("batch", -1), fixed.get("length", -1)])
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        model = openvino.Core().read_model(path)
        model.reshape(dict.fromkeys(inputs, shape))
        openvino.save_model(model, Path(scratch) / path.name, compress_to_fp16=False)
        del model  # it maps the weights that are replaced now
        for file in Path(scratch).iterdir():
            shutil.move(file, path.parent / file.name)


_FIX = {"onnxruntime": _fix_onnx, "openvino": _fix_openvino}
RUNTIMES_SHAPED = tuple(_FIX)
