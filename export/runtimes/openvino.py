"""OpenVINO on the CPU: IR in fp32 or fp16, the fp32 IR run in bf16, INT8 by NNCF, or INT8 and INT4 weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

from paredown.runtime.errors import missing_extra
from paredown.runtime.session import Session
from paredown.tasks.base import Task

from ..artifact import WEIGHTS_ONLY, Artifact
from ..hardware import has_int8_isa
from .base import ExportJob, RuntimeSpec
from .common import finish_artifact, open_as_bundles_do, why_unavailable, write_graphs

SPEC = RuntimeSpec(
    name="openvino",
    module="openvino",
    extra="cpu",
    packages=("openvino",),
    precisions={
        "single": ("fp32", "fp16", "bf16", "int8-static"),
        "seq2seq": ("fp32", "bf16", "int8-static"),
        "causal_lm": ("fp32", "bf16", *WEIGHTS_ONLY),  # the cache and every token's activations stay in float
    },
    plain_int8="int8-static",
    export_format="openvino",
    hub_library="openvino",
    triton_backend="openvino",
)


def precisions(task: Task) -> tuple[str, ...]:
    """See `Runtime.precisions`."""
    return SPEC.precisions_of(task)


def available(building: bool = False) -> str | None:
    """See `Runtime.available`."""
    return why_unavailable(SPEC, building)


def export(job: ExportJob) -> Artifact:
    """See `Runtime.export`. bf16 is a hint given when the model is compiled: the weights on disk stay float32; fp16
    halves them."""
    job.out.mkdir(parents=True, exist_ok=True)
    names, details = write_graphs(job, lambda part, name: _convert(part, job.out / f"{name}.xml"))
    if job.precision == "int8-static":
        details["reduce_range"] = not has_int8_isa()
    files = tuple(f"{name}.{suffix}" for name in names for suffix in ("xml", "bin"))
    return finish_artifact(job, SPEC, files, details)


def open(artifact: Artifact, threads: int) -> Session:
    """See `Runtime.open`."""
    return open_as_bundles_do(artifact, threads, SPEC)


def _convert(job: ExportJob, target: Path) -> dict:
    """One graph in its precision, written to `target`; returns what was found, for the artefact's details."""
    try:
        import openvino
    except ImportError as error:
        raise missing_extra(error.name or SPEC.module, SPEC.extra) from None
    import onnx

    from paredown.compress.models.architectures import CONVOLUTIONAL
    from paredown.compress.quantization import int8, weight_only

    with tempfile.TemporaryDirectory() as scratch:
        ir = Path(scratch) / "plain.xml"
        source = Path(scratch) / "plain.onnx"  # convert_model takes a comma in a path for two files
        source.symlink_to(job.graph.absolute())
        converted = openvino.convert_model(source)
        given = onnx.load(job.graph, load_external_data=False).graph
        for ports, entries in ((converted.inputs, given.input), (converted.outputs, given.output)):
            for port, entry in zip(ports, entries, strict=True):  # a tensor that is only passed on has several names
                port.get_tensor().set_names({entry.name})
        if job.precision == "int8-static":
            openvino.save_model(converted, ir, compress_to_fp16=False)
            rows = int8.Calibration(job.calibration, job.task, job.evaluator)
            transformer = job.checkpoint.config.get("model_type") not in CONVOLUTIONAL
            return int8.openvino_static(ir, target, rows, transformer=transformer, reduce_range=not has_int8_isa())
        if job.precision in WEIGHTS_ONLY:
            weight_only.openvino_weights(converted, target, WEIGHTS_ONLY[job.precision])
        else:
            openvino.save_model(converted, target, compress_to_fp16=job.precision == "fp16")
        return {}
