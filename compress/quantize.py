"""INT8: from an ONNX file to an ONNX file (ONNX Runtime), or from an OpenVINO model to an OpenVINO model (NNCF).

For CPUs: activations U8, weights S8 per channel. Without VNNI or AMX the U8 x S8 product saturates in 16 bits
(onnxruntime#14642), so weights take 7 bits there (`reduce_range`). For TensorRT (`symmetric`): both S8, zero point 0.
Nothing is assumed to be harmless: every variant is run on rows that did not calibrate it, and the one whose answers
stay nearest is kept.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from .encoder import Batch
from .errors import InputError, StepError, missing_extra
from .outputs import near, softmax
from .questions import NOWHERE
from .similar import alike, cosines
from .smooth import smooth
from .tasks import Task

Batches = Sequence[Batch]
AGREEMENT = 0.99  # share of rows whose answer INT8 must not change; below it, the worst layers stay in float
SLOW_ROWS = 48  # rows for the calibration methods that keep histograms of every activation
# What ONNX Runtime's quantiser logs of graphs that are as they are meant to be.
SAID = ("pre-processing before quantization", "is not constant. Please exclude this node")


def dynamic(source: Path, target: Path, judging: Batches = (), *, reduce_range: bool, task: Task | None = None) -> dict:
    """Weights to INT8 now, activations at run time. Works on the graph with fused attention.

    `judging`: batches on which the answers are compared with the float model's; without them nothing is compared.
    `task`: what the outputs are; None: labels, of a row or of each token.
    Returns what was found, for the artefact's details.
    """
    quantization = _onnxruntime()

    def make(model: Path, out: Path, left_in_float: list[str]) -> None:
        with _one_line("onnxruntime"):
            quantization.quantize_dynamic(
                model,
                out,
                per_channel=True,
                reduce_range=reduce_range,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=[*left_in_float, *_convolutions(model)],
                extra_options={"DefaultTensorType": 1},  # FLOAT, for outputs of fused nodes whose type is not inferred
            )

    with tempfile.TemporaryDirectory() as scratch:
        plain = _without_value_info(source, Path(scratch))
        make(plain, target, [])
        return _mended(plain, target, make, judging, Path(scratch), task=task) if judging else {}


def static(
    source: Path,
    target: Path,
    batches: Batches,
    *,
    reduce_range: bool = False,
    symmetric: bool = False,
    task: Task | None = None,
) -> dict:
    """QDQ around MatMul, Gemm and Conv; three quarters of `batches` (training rows) give the ranges, the rest judge.

    Min-max, percentile, entropy, and min-max after SmoothQuant are tried. Other operators stay in float: quantising
    them too measured slower and less accurate on this kind of model. Returns what was found.
    `symmetric`: the graph that TensorRT takes, S8 x S8 with zero point 0, float biases, and Q/DQ at the inputs of the
    products only ("Working with Quantized Types", TensorRT's developer guide); judged in the arithmetic it states.
    `task`: as in `dynamic`.
    """
    quantization = _onnxruntime()
    of_target: dict = {"DefaultTensorType": 1, "MatMulConstBOnly": True}
    if symmetric:
        of_target |= {"ActivationSymmetric": True, "QuantizeBias": False}
        of_target |= {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
    if not batches:
        raise InputError("static INT8 needs calibration rows; give at least one training row")
    judging = list(batches[3::4]) or list(batches)
    calibrating = [batch for i, batch in enumerate(batches) if i % 4 != 3]
    methods = {
        "min-max": (quantization.CalibrationMethod.MinMax, False, calibrating),
        "percentile": (quantization.CalibrationMethod.Percentile, False, _of_one_length(calibrating)[:SLOW_ROWS]),
        "entropy": (quantization.CalibrationMethod.Entropy, False, _of_one_length(calibrating)[:SLOW_ROWS]),
        "smoothquant": (quantization.CalibrationMethod.MinMax, True, calibrating),
    }

    def make(model: Path, out: Path, left_in_float: list[str], method: str, scratch: Path) -> None:
        queue = iter(methods[method][2])

        class Reader(quantization.CalibrationDataReader):
            def get_next(self):  # pyright: ignore[reportIncompatibleMethodOverride]
                return next(queue, None)

        with _one_line("onnxruntime"), contextlib.redirect_stdout(io.StringIO()):  # its histograms talk
            quantization.quantize_static(
                model,
                out,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=["MatMul", "Gemm", "Conv"],
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=methods[method][0],
                nodes_to_exclude=left_in_float,
                extra_options=of_target,
                calibration_cache_path=scratch / f"{method}.ranges",  # rows are run once, however often it is made
            )

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        plain = _without_value_info(source, scratch)
        smoothed = smooth(plain, scratch / "smoothed.onnx", calibrating[:SLOW_ROWS])
        wanted = _logits(plain, judging, task=task)
        tried, best = {}, ("", np.inf)
        for method, (_, smoothly, _) in methods.items():
            out = scratch / f"{method}.onnx"
            make(smoothed if smoothly else plain, out, [], method, scratch)
            tried[method] = _distance(_logits(out, judging, symmetric, task), wanted, task)
            if tried[method] < best[1]:
                best = (method, tried[method])
        chosen = best[0]
        shutil.copyfile(scratch / f"{chosen}.onnx", target)
        base = smoothed if methods[chosen][1] else plain
        remake = partial(make, method=chosen, scratch=scratch)
        found = _mended(base, target, remake, judging, scratch, symmetric, task)
        return {"calibration": chosen, "calibration_kl": tried, **found}


def openvino_static(
    source: Path, target: Path, batches: Batches, *, reduce_range: bool, transformer: bool = True
) -> None:
    """OpenVINO IR to INT8 IR by NNCF's post-training quantisation, for transformers with SmoothQuant.

    Left to itself NNCF gives matrix products the whole range of INT8 (its fix for overflow is for first convolutions).
    """
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise missing_extra(error.name or "nncf", "cpu") from None
    if not batches:
        raise InputError("static INT8 needs calibration rows; give at least one training row")
    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(source)
    with _one_line("nncf"), contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        quantised = nncf.quantize(
            model,
            nncf.Dataset(list(batches)),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            subset_size=len(batches),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE if reduce_range else None
            ),
        )
    openvino.save_model(quantised, target, compress_to_fp16=False)


@contextlib.contextmanager
def _one_line(whose: str) -> Iterator[None]:
    """What a quantiser raises as one line; it has asserts and bare classes for what it cannot do."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise StepError(f"{whose}'s quantiser gave up: {reason}; look for weights out of range") from error


def _mended(
    plain: Path,
    target: Path,
    make: Callable[[Path, Path, list[str]], None],
    judging: Batches,
    scratch: Path,
    as_stated: bool = False,
    task: Task | None = None,
) -> dict:
    """Where INT8 changes more answers than AGREEMENT allows, leave the products that hurt most in float, one by one.

    The scan quantises each matrix product alone. It stops as soon as the answers are back, or at half of the products.
    """
    answers = partial(_logits, batches=judging, as_stated=as_stated, task=task)
    wanted = _logits(plain, judging, task=task)
    agreement = _agreement(answers(target), wanted, task)
    if agreement >= AGREEMENT:
        return {"agreement": agreement, "left_in_float": []}
    nodes = _products(plain)
    hurt, alone = {}, scratch / "alone.onnx"
    for node in nodes:
        make(plain, alone, [other for other in nodes if other != node])
        hurt[node] = _distance(answers(alone), wanted, task)
    left: list[str] = []
    kept: list[str] = []
    for node in sorted(nodes, key=lambda name: -hurt[name])[: len(nodes) // 2]:
        left.append(node)
        make(plain, alone, left)
        now = _agreement(answers(alone), wanted, task)
        if now > agreement:
            agreement = now
            shutil.copyfile(alone, target)
            kept = list(left)
        if agreement >= AGREEMENT:
            break
    return {"agreement": agreement, "left_in_float": kept}


def _of_one_length(batches: Batches) -> Batches:
    """Those of at least median length, cut there: ONNX Runtime's histograms stack activations and need one shape."""
    if "input_ids" not in batches[0]:  # images are of one size
        return batches
    length = int(np.median([batch["input_ids"].shape[1] for batch in batches]))
    long = [batch for batch in batches if batch["input_ids"].shape[1] >= length]
    return [{name: array[:, :length] for name, array in batch.items()} for batch in long]


def _convolutions(model: Path) -> list[str]:
    """Names of those nodes, whose ranges are not to be found at run time: ConvInteger takes no signed weights."""
    import onnx

    return [node.name for node in onnx.load(model, load_external_data=False).graph.node if node.op_type == "Conv"]


def _products(model: Path) -> list[str]:
    """Names of the nodes that multiply by a constant matrix."""
    import onnx

    graph = onnx.load(model).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm", "Attention", "Conv") and any(name in constants for name in node.input)
    ]


def _logits(model: Path, batches: Batches, as_stated: bool = False, task: Task | None = None) -> np.ndarray:
    """First output of every batch, (rows, labels), or (tokens of all rows, labels); of ends (2 * rows, longest).

    `as_stated`: each Q/DQ node computed as it stands, for a target whose INT8 is not this CPU's.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if as_stated:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = {entry.name for entry in session.get_inputs()}
    found = [(np.asarray(session.run(None, {n: a for n, a in b.items() if n in names})[0]), b) for b in batches]
    if task is not None and task.answer:
        longest = max(batch["attention_mask"].shape[1] for batch in batches)
        return np.concatenate([_choices(out, batch["attention_mask"], longest) for out, batch in found])
    return np.concatenate([out if out.ndim == 2 else out[batch["attention_mask"] == 1] for out, batch in found])


def _choices(out: np.ndarray, mask: np.ndarray, longest: int) -> np.ndarray:
    """(rows, tokens, 2) -> (2 * rows, longest), NOWHERE where a row has no token."""
    there = np.repeat(mask == 1, 2, axis=0)
    lines = np.where(there, out.transpose(0, 2, 1).reshape(there.shape), NOWHERE)
    return np.pad(lines, [(0, 0), (0, longest - lines.shape[1])], constant_values=NOWHERE)


def _distance(ours: np.ndarray, wanted: np.ndarray, task: Task | None = None) -> float:
    """Mean KL from the float model's answers, nats a row; of numbers, the mean squared difference; of vectors, 1 less
    the mean cosine."""
    if task is not None and task.vector:
        return float(1 - cosines(ours, wanted).mean())
    if wanted.shape[-1] == 1:
        return float(np.square(ours - wanted).mean())
    p, q = np.log(softmax(wanted) + 1e-9), np.log(softmax(ours) + 1e-9)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


def _agreement(ours: np.ndarray, wanted: np.ndarray, task: Task | None = None) -> float:
    if task is not None and task.vector:
        return float(alike(ours, wanted).mean())
    if wanted.shape[-1] == 1:
        return float(near(ours, wanted).mean())
    return float((ours.argmax(-1) == wanted.argmax(-1)).mean())


def _onnxruntime():
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise missing_extra(error.name or "onnxruntime", "cpu") from None
    logging.getLogger().addFilter(lambda record: not any(text in record.getMessage() for text in SAID))
    return quantization


def _own_biases(graph) -> None:
    """The exporter writes equal biases once and hands them on; a convolution's is rounded only where it is its own."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    of_convolutions = {name for node in graph.node if node.op_type == "Conv" for name in node.input[2:]}
    for node in [node for node in graph.node if node.op_type == "Identity"]:
        if node.output[0] in of_convolutions and node.input[0] in constants:
            graph.initializer.add().CopyFrom(constants[node.input[0]])
            graph.initializer[-1].name = node.output[0]
            graph.node.remove(node)


def _without_value_info(source: Path, scratch: Path) -> Path:
    """Shapes that the exporter noted contradict the quantiser's own inference; it works them out again."""
    import onnx

    model = onnx.load(source)
    del model.graph.value_info[:]
    _own_biases(model.graph)
    for i, node in enumerate(model.graph.node):  # the scan calls them by name
        node.name = node.name or f"{node.op_type}_{i}"
    onnx.save(model, scratch / "model.onnx")
    return scratch / "model.onnx"
