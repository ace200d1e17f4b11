"""Builds TensorRT engines, for both `tensorrt` (on the GPU that it is for) and `tensorrt_rtx` (without one).

Networks are strongly typed (the only kind since TensorRT 11): precision is the type of the ONNX graph, INT8 its Q/DQ
nodes. https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paredown.runtime.errors import InputError, StepError, missing_extra
from paredown.runtime.session import tensorrt_of

from ..artifact import GRAPH, Artifact
from ..hardware import gpus
from ..onnx.fusion import half
from .base import ExportJob, RuntimeSpec
from .common import finish_artifact, why_unavailable
from .tensorrt_config import Engine, layers_of, summary

ENGINE = "model.engine"
LAYERS = "layers.json"  # every layer of the parsed network; beside the artefact, not part of what is shipped
INSPECTED = "inspector.json"  # the built engine's own list, where a GPU can open it
TYPED_SCALES = 19  # the first opset whose Q/DQ take scales of 16 bits


def require(spec: RuntimeSpec) -> tuple[Any, Any]:
    """Python module and log of `tensorrt` or `tensorrt_rtx`; InputError, in one line, where it cannot build here."""
    reason = why_unavailable(spec, building=True)
    if reason is not None:
        raise InputError(reason)
    try:
        return tensorrt_of(spec.name)
    except (ImportError, OSError):
        raise missing_extra(spec.module, spec.extra) from None


def export_engine(job: ExportJob, spec: RuntimeSpec) -> Artifact:
    """Build an engine in the directory `job.out`, its ONNX graph beside it.

    The float rest of int8-static is float16. Inputs stay int64, outputs float32. Raises InputError when the libraries
    or the GPU are missing, StepError with everything that the parser or the builder complained about.
    """
    trt, log = require(spec)
    settings, out = job.engine or Engine(), job.out
    out.mkdir(parents=True, exist_ok=True)
    details = typed_graph(job, out / GRAPH)
    quantised = details.get("quantised_products", 0)
    profiles = settings.profiles(job.checkpoint.encoder(job.max_length).max_length)
    details["engine"] = build(out / GRAPH, out, trt, log, settings.compute_capabilities, profiles)
    taken = details["engine"]["int8_products"]
    if taken != quantised:
        raise StepError(
            f"{spec.name}: {quantised} matrix products of the graph are quantised, {taken} of the network's"
        )
    return finish_artifact(job, spec, (ENGINE,), details)


def typed_graph(job: ExportJob, target: Path) -> dict:
    """Write the ONNX graph whose own types are the precision; returns what was found, for the artefact's details.

    int8-static: Q/DQ at the inputs of matrix products (S8, zero point 0), everything else float16.
    """
    if job.precision == "fp32":
        shutil.copyfile(job.graph, target)
    elif job.precision == "int8-static":
        import onnx
        from onnx import version_converter

        from paredown.compress.quantization import int8

        rows = int8.Calibration(job.calibration, job.task, job.evaluator)
        details = int8.static(job.graph, target, rows, symmetric=True)
        onnx.save(version_converter.convert_version(onnx.load(target), TYPED_SCALES), target)
        half(target, target)
        details |= {"weights": "S8 per channel", "activations": "S8 symmetric", "rest": "float16"}
        return {**details, "quantised_products": _quantised(onnx.load(target).graph)}
    else:
        half(job.graph, target)
        if job.precision == "bf16":
            _to_bfloat16(target)
    return {}


def build(
    graph: Path,
    out: Path,
    trt: Any,
    log: Any,
    capabilities: Sequence[int],
    profiles: Sequence[tuple[tuple[int, int], tuple[int, int]]],
) -> dict:
    """Parse the ONNX file and write model.engine and layers.json to `out` (inspector.json too where a GPU is).

    `profiles`: least and largest (rows, tokens) of each. Returns the engine's sha256, sizes, profiles and the summary
    of its layers. The types in the list are the parsed network's; which kernels run is known on the GPU only.
    """
    began = time.monotonic()
    log.take()
    cache = _timing_cache(trt.__version__) if trt.__name__ == "tensorrt" else None
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        raise StepError(f"{trt.__name__} {trt.__version__} cannot parse the graph: {_complaints(parser)}")
    layers = layers_of(network)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32
    for least, most in profiles:
        profile = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            profile.set_shape(tensor.name, *(_shape(tensor.shape, size) for size in (least, most, most)))
        if config.add_optimization_profile(profile) < 0:
            raise StepError(f"{trt.__name__} does not take the profile {least} to {most}: {log.take()}")
    if cache is not None:
        config.set_timing_cache(config.create_timing_cache(cache.read_bytes() if cache.is_file() else b""), False)
    else:
        config.num_compute_capabilities = len(capabilities)
        for i, capability in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability}"), i)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise StepError(f"{trt.__name__} {trt.__version__} cannot build the engine: {log.take()}")
    (out / ENGINE).write_bytes(plan)
    (out / LAYERS).write_text("".join(json.dumps(asdict(layer)) + "\n" for layer in layers))
    if cache is not None:
        _write(cache, bytes(config.get_timing_cache().serialize()))
    if gpus():
        _inspect(trt, log, out)
    return {
        "sha256": hashlib.sha256(plan).hexdigest(),
        "mb": plan.nbytes / 1e6,
        "built_with": f"{trt.__name__} {trt.__version__}",
        "built_for": gpus()[:1] if cache else [f"SM{capability}" for capability in capabilities],
        "profiles": [[list(least), list(most)] for least, most in profiles],
        "build_s": round(time.monotonic() - began, 1),
        **summary(layers),
    }


def _quantised(graph: Any) -> int:
    """How many matrix products of an ONNX graph read dequantised tensors only (a Gemm's bias stays in float)."""
    made_by = {node.output[0]: node.op_type for node in graph.node}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    return sum({made_by.get(name) for name in node.input[:2]} == {"DequantizeLinear"} for node in products)


def _complaints(parser: Any) -> str:
    """Everything that the parser found, each with its node."""
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return "; ".join(
        f"node '{error.node_name() or error.node()}' ({error.node_operator()}): {' '.join(error.desc().split())}"
        for error in errors
    )


def _shape(shape: Sequence[int], size: tuple[int, int]) -> tuple[int, ...]:
    """An input's shape with its first axis at `rows` and every other dynamic one at `tokens`."""
    return (size[0], *(size[1] if axis < 0 else axis for axis in tuple(shape)[1:]))


def _inspect(trt: Any, log: Any, out: Path) -> None:
    """The layers that the built engine has on this GPU. It was built here a moment ago: no stranger's code."""
    loaded = trt.Runtime(log).deserialize_cuda_engine((out / ENGINE).read_bytes())
    if loaded is not None:  # None: built for other GPUs than the one here
        found = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        (out / INSPECTED).write_text(found)


def _timing_cache(version: str) -> Path:
    """Kernel timings of this GPU and this TensorRT: the same network builds faster, and the same kernels, next time."""
    gpu = hashlib.sha256(gpus()[0].encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paredown"
    return cache / f"tensorrt-{version}-{gpu}.timing"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(path)


def _to_bfloat16(path: Path) -> None:
    """Every float16 of an ONNX file to bfloat16: same size, float32's range, in place."""
    import ml_dtypes
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(path)

    def retype(tensor: TensorProto) -> None:
        if tensor.data_type == TensorProto.FLOAT16:
            array = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    for tensor in model.graph.initializer:
        retype(tensor)
    for node in model.graph.node:
        for attribute in node.attribute:
            retype(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
    for value in model.graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    onnx.save(model, path)
