"""Opens a model in its runtime as a function `session(batch) -> outputs`, with one signature for all runtimes.

Needs numpy and the runtime alone, and imports nothing of ours: the same file is copied into every bundle, so that
the measured path is the served path.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# OpenVINO tells Google Analytics of every import, and forks this process to do it; without this package it does not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# ONNX Runtime sends events to Microsoft, and keeps a device id in the home directory; it asks for this when imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

Session = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


TOKEN_TYPES = "token_type_ids"
BF16_REST = ("bf16", "int8-static")
ENGINES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}  # runtime -> Python module
PROVIDERS = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-tensorrt": "TensorrtExecutionProvider"}
# The wheel onnxruntime-ep-nv-tensorrt-rtx-cu13 carries what tensorrt_rtx_bindings is linked with; in this order.
RTX_LIBRARIES = ("libcudart.so.*", "libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")

BINDINGS = "executorch.extension.pybindings._C"
INPUT_NAMES, OUTPUT_NAMES = "input_names", "output_names"  # methods of an ExecuTorch program: names, with commas


class CannotRunHere(Exception):
    """The artefact is whole, but this machine lacks what it needs; the message says what."""


def open_session(model: Path, runtime: str, precision: str, threads: int, alone: bool = True) -> Session:
    """Open the model file with `runtime` on `threads` CPU threads.

    The session takes every input by name, (rows, length) int64, and returns every output by name, float32.
    Raises ValueError for a runtime it does not know, ImportError when the runtime is not installed, CannotRunHere
    when the machine lacks the instructions or the GPU. A TensorRT engine is executable code: verify its hash first.
    `alone`: ONNX Runtime's threads may spin while they wait: a call is quicker, and others have no cores meanwhile.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime '{runtime}'; known: {', '.join(RUNTIMES)}")
    return RUNTIMES[runtime](Path(model), precision, threads, alone)


def padded(session: Session, lengths: Sequence[int], pad_id: int, batch_size: int | None = None) -> Session:
    """The session, called with inputs of the next of `lengths` (ascending; none: any) and with `batch_size`
    rows (None: any): short rows are filled, short batches repeat their last row, long ones run in parts.

    Outputs are those of the rows and tokens that were asked about. ValueError for rows longer than every length.
    """

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows, length = next(iter(batch.values())).shape[:2]  # of images the channels, for which `lengths` is empty
        wide = next((size for size in lengths if size >= length), None) if lengths else length
        if wide is None:
            raise ValueError(f"rows of {length} tokens; this model takes {lengths[-1]} at most")
        step, parts, fill = batch_size or rows, [], ((0, 0), (0, wide - length), (0, 0), (0, 0))
        for start in range(0, rows, step):
            numbers = np.minimum(np.arange(start, start + step), rows - 1)
            piece = {}
            for name, array in batch.items():
                filler = pad_id if name == "input_ids" else 0
                piece[name] = np.pad(array[numbers], fill[: array.ndim], constant_values=filler)
            parts.append(session(piece))
        whole = {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}
        return {name: array[:, :length] if array.ndim == 3 else array for name, array in whole.items()}

    return run


def require_provider(provider: str) -> None:
    """CannotRunHere where ONNX Runtime cannot start an execution provider for GPUs; loads its CUDA libraries."""
    _require_gpu()
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise CannotRunHere(f"this onnxruntime has no {provider}; install onnxruntime-gpu in place of onnxruntime")
    onnxruntime.preload_dlls()  # CUDA libraries that came as wheels


def _open_onnxruntime(
    model: Path, precision: str, threads: int, alone: bool, provider: str = "CPUExecutionProvider"
) -> Session:
    import onnxruntime

    if provider != "CPUExecutionProvider":
        require_provider(provider)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not alone:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=[provider])
    if session.get_providers()[0] != provider:  # it falls back to the CPU without a word
        raise CannotRunHere(f"onnxruntime could not start {provider}; are its CUDA libraries installed?")
    inputs = {i.name: np.int32 if i.type == "tensor(int32)" else None for i in session.get_inputs()}
    outputs = [o.name for o in session.get_outputs()]

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = session.run(outputs, _only(inputs, batch))
        return dict(zip(outputs, (np.asarray(array) for array in arrays), strict=True))

    return run


def _open_openvino(model: Path, precision: str, threads: int, alone: bool) -> Session:
    import openvino

    core = openvino.Core()
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "bf16" and not has_bf16:
        raise CannotRunHere("this CPU has no bf16 instructions (AVX512-BF16 or AMX)")
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # What INT8 leaves in float runs in bf16 where that is faster; fp32 means fp32.
        "INFERENCE_PRECISION_HINT": "bf16" if has_bf16 and precision in BF16_REST else "f32",
    }
    graph = core.read_model(model)
    if config["INFERENCE_PRECISION_HINT"] == "bf16" and threads == 1 and _gated_decoder(graph) and _has_amx():
        # 2026.4.1 divides by zero in its fused MLP for AMX: the process would end with SIGFPE
        raise CannotRunHere("OpenVINO's bf16 kernel for gated decoders needs two threads on a CPU with AMX")
    compiled = core.compile_model(graph, "CPU", config)
    request = compiled.create_infer_request()
    narrow = openvino.Type.i32
    inputs = {p.get_any_name(): np.int32 if p.get_element_type() == narrow else None for p in compiled.inputs}
    outputs = [(i, port.get_any_name()) for i, port in enumerate(compiled.outputs)]

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        request.infer(_only(inputs, batch), share_inputs=True)
        return {name: np.array(request.get_output_tensor(i).data) for i, name in outputs}

    return run


def _gated_decoder(graph: Any) -> bool:
    """Whether an OpenVINO model is a decoder with a cache whose MLP has a SiLU gate (Llama, Qwen)."""
    cached = any(name.startswith("past_key_values") for port in graph.inputs for name in port.names)
    return cached and any(node.get_type_name() in ("Sigmoid", "Swish") for node in graph.get_ops())


def _has_amx() -> bool:
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _open_executorch(model: Path, precision: str, threads: int, alone: bool) -> Session:
    """The method `forward` of an ExecuTorch program, whose input and output names are constants in it. XNNPACK has one
    pool of threads in a process: `threads` is that of the session opened first.

    `executorch.runtime` is the documented module; it imports the exporter, which takes ten times as long as PyTorch.
    The bindings below it need PyTorch alone: they take and return its tensors.
    """
    torch = importlib.import_module("torch")
    bindings, pool = _executorch()
    if not pool:  # a session that runs has the pool: it is set once
        pool.append(threads)
        with _silenced():  # it logs which files about the CPU it has tried
            bindings._unsafe_reset_threadpool(threads)
    program = bindings._load_program(str(model))
    inputs, outputs = (program.load_method(name)(())[0].split(",") for name in (INPUT_NAMES, OUTPUT_NAMES))
    forward = program.load_method("forward")

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = _only(dict.fromkeys(inputs), batch)
        found = forward([torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in inputs])
        return {name: tensor.numpy().copy() for name, tensor in zip(outputs, found, strict=True)}

    return run


@functools.cache
def _executorch() -> tuple[Any, list[int]]:
    """The bindings, and the number of threads that its pool has got: none yet."""
    return importlib.import_module(BINDINGS), []


def _open_litert(model: Path, precision: str, threads: int, alone: bool) -> Session:
    """A LiteRT model: of its signatures, one for each length, that of the batch."""
    interpreter = importlib.import_module("ai_edge_litert.interpreter")
    with _silenced():  # it logs which delegate it has made
        opened = interpreter.Interpreter(model_path=str(model), num_threads=threads)
        opened.allocate_tensors()
        runners = [opened.get_signature_runner(name) for name in opened.get_signature_list()]
    ports = [runner.get_input_details() for runner in runners]

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for runner, details in zip(runners, ports, strict=True):
            arrays = _only({name: port["dtype"] for name, port in details.items()}, batch)
            if all(arrays[name].shape == tuple(port["shape"]) for name, port in details.items()):
                return dict(runner(**arrays))
        shapes = [tuple(port["shape"]) for details in ports for port in details.values()]
        raise ValueError(f"the model takes {', '.join(map(str, dict.fromkeys(shapes)))}")

    return run


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Drops what a native library writes to the standard error."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _open_engine(model: Path, precision: str, threads: int, alone: bool, runtime: str) -> Session:
    """A serialised engine on the first GPU. Each call takes the first optimisation profile that its shape fits; more
    rows than the largest profile has are run in parts.
    """
    trt, log = require_engine_runtime(runtime)
    cuda = importlib.import_module("cuda.bindings.runtime")

    def ask(answer: tuple) -> Any:
        if int(answer[0]):
            raise RuntimeError(f"CUDA: {cuda.cudaGetErrorString(answer[0])[1].decode()}")
        return answer[1] if len(answer) > 1 else None

    loader = trt.Runtime(log)
    engine = loader.deserialize_cuda_engine(model.read_bytes())
    if engine is None:
        raise CannotRunHere(f"{runtime} {trt.__version__} does not load this engine here: {log.take()}")
    context, stream = engine.create_execution_context(), ask(cuda.cudaStreamCreate())
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    shapes = [engine.get_tensor_profile_shape(inputs[0], i) for i in range(engine.num_optimization_profiles)]
    least, most = (np.array([tuple(shape[end]) for shape in shapes]) for end in (0, 2))
    step = int(most[:, 0].max())
    memory: dict[str, tuple[int, int]] = {}  # tensor -> device address, bytes

    def room(name: str, size: int) -> int:
        if name not in memory or memory[name][1] < size:
            if name in memory:
                ask(cuda.cudaFree(memory[name][0]))
            memory[name] = int(ask(cuda.cudaMalloc(size))), size
        context.set_tensor_address(name, memory[name][0])
        return memory[name][0]

    def part(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        shape = arrays[inputs[0]].shape
        fits = np.flatnonzero(((least <= shape) & (shape <= most)).all(axis=1))
        if not len(fits):
            raise ValueError(
                f"a batch of {shape} fits none of the engine's profiles, up to {most.max(axis=0).tolist()}"
            )
        index = int(fits[0])
        if context.active_optimization_profile != index:
            context.set_optimization_profile_async(index, int(stream))
            ask(cuda.cudaStreamSynchronize(stream))
        kept = []  # until the copies are done
        for name in inputs:
            array = np.ascontiguousarray(arrays[name], dtype=trt.nptype(engine.get_tensor_dtype(name)))
            kept.append(array)
            context.set_input_shape(name, array.shape)
            there = room(name, array.nbytes)
            kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
            ask(cuda.cudaMemcpyAsync(there, array.ctypes.data, array.nbytes, kind, stream))
        types = {name: trt.nptype(engine.get_tensor_dtype(name)) for name in outputs}
        found = [np.empty(tuple(context.get_tensor_shape(name)), types[name]) for name in outputs]
        addresses = [room(name, array.nbytes) for name, array in zip(outputs, found, strict=True)]
        if not context.execute_async_v3(int(stream)):
            raise RuntimeError(f"{runtime}: the engine did not run: {log.take()}")
        for there, array in zip(addresses, found, strict=True):
            kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
            ask(cuda.cudaMemcpyAsync(array.ctypes.data, there, array.nbytes, kind, stream))
        ask(cuda.cudaStreamSynchronize(stream))
        return found

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = _only(dict.fromkeys(inputs), batch)
        rows = len(arrays[inputs[0]])
        parts = [part({n: a[i : i + step] for n, a in arrays.items()}) for i in range(0, rows, step)]
        return {name: np.concatenate(pieces) for name, pieces in zip(outputs, zip(*parts, strict=True), strict=True)}

    return run


@functools.cache
def tensorrt_of(runtime: str) -> tuple[Any, Any]:
    """The Python module of a runtime in ENGINES, and the one log that it is given: `log.take()` is what went wrong.

    ImportError when the module or its libraries are not installed.
    """
    spec = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx") if runtime == "tensorrt_rtx" else None
    if spec is not None and spec.origin is not None:
        for pattern in RTX_LIBRARIES:
            for library in sorted(Path(spec.origin).parent.glob(pattern)):
                ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    trt = importlib.import_module(ENGINES[runtime])

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(" ".join(msg.split()))

        def take(self) -> str:
            text, self.errors = "; ".join(self.errors) or "it gave no reason", []
            return text

    return trt, Log()


def require_engine_runtime(runtime: str) -> tuple[Any, Any]:
    """`tensorrt_of`, where there is a GPU; CannotRunHere where there is none."""
    _require_gpu()
    return tensorrt_of(runtime)


def _require_gpu() -> None:
    """CannotRunHere where NVIDIA's driver finds no GPU."""
    count = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        found = False
    if not found:
        raise CannotRunHere("needs an NVIDIA GPU")


def _only(inputs: Mapping[str, Any], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs that the model has, in the type that it declares (None: unchanged).

    A model exported elsewhere may want token types: they are all zero for a single text. ValueError for any other
    input that nobody gives: with zeros in its place the answers would be nonsense.
    """
    missing = sorted(inputs.keys() - batch.keys() - {TOKEN_TYPES})
    if missing:
        raise ValueError(f"the model's inputs are {', '.join(sorted(inputs))}; it is given {', '.join(sorted(batch))}")
    given = ((name, batch[name] if name in batch else np.zeros_like(batch["input_ids"])) for name in inputs)
    return {name: array.astype(inputs[name] or array.dtype, copy=False) for name, array in given}


RUNTIMES: dict[str, Callable[..., Session]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "executorch": _open_executorch,
    "litert": _open_litert,
    **{name: functools.partial(_open_onnxruntime, provider=provider) for name, provider in PROVIDERS.items()},
    **{name: functools.partial(_open_engine, runtime=name) for name in ENGINES},
}
