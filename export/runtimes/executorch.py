"""ExecuTorch on the CPU by XNNPACK, for phones and embedded devices: a .pte program in fp32 or with dynamic INT8.

The program takes `batch_size` rows (default: one) and any length up to `max_length`; one length alone is fixed in it.
https://docs.pytorch.org/executorch/stable/using-executorch-export.html
"""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from paredown.runtime.errors import StepError, missing_extra
from paredown.runtime.session import BINDINGS, INPUT_NAMES, OUTPUT_NAMES, Session, open_session, padded
from paredown.tasks.base import Task

from ..artifact import Artifact
from .base import ExportJob, RuntimeSpec
from .common import conversion, finish_artifact, open_as_bundles_do, why_unavailable

if TYPE_CHECKING:
    import torch

    from paredown.compress.quantization.int8_cost import Int8Evaluator

MODEL = "model.pte"
SPEC = RuntimeSpec(
    name="executorch",
    module="executorch",
    extra="executorch",
    packages=("executorch", "torch"),
    precisions={"single": ("fp32", "int8-dynamic")},
    on_device=True,
    imports=("torch", BINDINGS),
    export_format="executorch",
)


def precisions(task: Task) -> tuple[str, ...]:
    """See `Runtime.precisions`."""
    return SPEC.precisions_of(task)


def available(building: bool = False) -> str | None:
    """See `Runtime.available`."""
    return why_unavailable(SPEC, building)


def open(artifact: Artifact, threads: int) -> Session:
    """See `Runtime.open`."""
    return open_as_bundles_do(artifact, threads, SPEC)


def export(job: ExportJob) -> Artifact:
    """See `Runtime.export`. INT8 is that of linear layers: weights per channel, activations at run time; embeddings
    and products of activations stay float32."""
    from ..onnx.single import example_inputs, positional
    from ..onnx.static_shapes import buckets
    from ..onnx.trace import quiet

    with quiet():
        _require_exporter()
    import torch

    encoder, rows = job.checkpoint.encoder(job.max_length), job.batch_size or 1
    lengths = buckets(job.lengths, encoder.max_length) if job.lengths else ()
    axes, examples = job.task.input_axes, example_inputs(job.task, encoder, rows, encoder.max_length)
    shapes = None
    if "length" in axes.values() and len(lengths) != 1:
        length = torch.export.Dim("length", min=2, max=encoder.max_length)
        shapes = ({i: length for i, name in axes.items() if name == "length"},) * len(examples)
    job.out.mkdir(parents=True, exist_ok=True)
    module = positional(job.checkpoint, job.task)
    with quiet(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), conversion(job, "ExecuTorch"):
        warnings.simplefilter("ignore")
        details = _write(job, module, examples, shapes)
        if job.evaluator is not None and job.calibration:
            details |= _cost(job, job.evaluator, module, lengths, rows)
    artifact = finish_artifact(job, SPEC, (MODEL,), details)
    return replace(artifact, lengths=lengths, batch_size=rows).write()


def _write(job: ExportJob, module: torch.nn.Module, examples: tuple[torch.Tensor, ...], shapes: Any) -> dict:
    """Writes the program; returns how many parts XNNPACK runs, and how many operators it leaves to ExecuTorch's own
    kernels."""
    import torch

    exir = import_module("executorch.exir")
    xnnpack = import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    delegated = import_module("executorch.exir.delegate").executorch_call_delegate
    operator = import_module("executorch.exir.dialects.edge._ops").EdgeOpOverload

    # `forward(*inputs)` is one argument to torch.export; what it returns has one for each input
    program = torch.export.export(module, examples, dynamic_shapes=shapes and (shapes,), strict=False)
    partitioners = [xnnpack.XnnpackPartitioner()]
    if job.precision == "int8-dynamic":
        quantised = _quantised(program.module(), examples)
        program = torch.export.export(quantised, examples, dynamic_shapes=shapes, strict=False)
        partitioners = [xnnpack.XnnpackDynamicallyQuantizedPartitioner(), *partitioners]
    names = {INPUT_NAMES: ",".join(job.task.inputs), OUTPUT_NAMES: job.task.output}
    lowered = exir.to_edge_transform_and_lower(program, partitioner=partitioners, constant_methods=names)
    called = [node.target for node in lowered.exported_program().graph.nodes if node.op == "call_function"]
    parts = called.count(delegated)
    if not parts:
        raise StepError(f"{job.checkpoint.path}: XNNPACK takes no part of the model, which would be slow on any device")
    with (job.out / MODEL).open("wb") as file:
        lowered.to_executorch().write_to_file(file)
    return {"xnnpack_parts": parts, "portable_operators": sum(isinstance(target, operator) for target in called)}


def _quantised(module: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> torch.nn.Module:
    """PT2E quantisation of the linear layers, as ExecuTorch documents it for XNNPACK:
    https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-quantization.html
    """
    xnnpack = import_module("executorch.backends.xnnpack.quantizer.xnnpack_quantizer")
    pt2e = import_module("torchao.quantization.pt2e.quantize_pt2e")

    class OfLinearLayers(xnnpack.XNNPACKQuantizer):
        def transform_for_annotation(self, model: Any) -> Any:
            return model  # its own makes float tensors of integers, by which positions are computed

    rules = xnnpack.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    prepared = pt2e.prepare_pt2e(module, OfLinearLayers().set_global(rules))
    prepared(*examples)
    return pt2e.convert_pt2e(prepared)


def _cost(
    job: ExportJob, evaluator: Int8Evaluator, module: torch.nn.Module, lengths: tuple[int, ...], rows: int
) -> dict:
    """What INT8 costs against the float model on the calibration rows, none of which has calibrated anything."""
    import torch

    from paredown.compress.quantization.int8_cost import cost, rows_of, said

    session = padded(open_session(job.out / MODEL, SPEC.name, job.precision, 1), lengths, job.checkpoint.pad_id, rows)
    ours, theirs = [], []
    with torch.no_grad():
        for batch in job.calibration:
            given = [torch.from_numpy(batch[name]) for name in job.task.inputs]
            ours += rows_of(session(batch)[job.task.output], batch)
            theirs += rows_of(module(*given).numpy(), batch)
    limits, gold = evaluator.limits, evaluator.gold(job.task, range(len(ours)))
    found = cost(ours, theirs, job.task, limits, gold)
    return said(found, found)


def _require_exporter() -> None:
    """InputError where ExecuTorch is not installed."""
    try:
        import_module("executorch.exir")
    except ImportError as error:
        raise missing_extra(error.name or SPEC.module, SPEC.extra) from None
