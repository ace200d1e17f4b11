"""Post-training INT8 quantisation of ONNX files (ONNX Runtime) and OpenVINO models (NNCF).

For CPUs: activations U8, weights S8 per channel. Without VNNI or AMX the U8 x S8 product saturates in 16 bits
(onnxruntime#14642), so weights take 7 bits there (`reduce_range`). For TensorRT (`symmetric`): both S8, zero point 0.
Nothing is assumed to be harmless: what INT8 costs is measured on rows that did not calibrate it, and where that is
more than it may, the matrix products that cost most stay in float.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from paredown.runtime.errors import InputError, StepError, missing_extra, one_line
from paredown.tasks.base import Task

from ..config import Int8
from .int8_cost import Answers, Batches, Cost, Int8Evaluator, answers, cost, distances, openvino_answers, said
from .sensitivity import composed, groups_of, left_in_float, products
from .smoothquant import smooth

SLOW_ROWS = 48  # rows for the calibration methods that keep histograms of every activation
RANKING_ROWS = 32  # rows on which groups of products are compared; the decision is made on all that judge
OF_GEMM = "_MatMul"  # what ONNX Runtime puts behind the name of a Gemm that it makes a MatMul
# What ONNX Runtime's quantiser logs of graphs that are as they are meant to be.
SAID = ("pre-processing before quantization", "is not constant. Please exclude this node")


@dataclass(frozen=True)
class Calibration:
    """Rows to calibrate and evaluate INT8 on."""

    batches: Batches = ()  # training rows, one a batch
    task: Task | None = None  # of the outputs; None: classification, of a row or of each token
    judge: Int8Evaluator | None = None  # None: the cost of INT8 is not evaluated


@dataclass(frozen=True)
class _Reference:
    """Evaluation rows with the float model's answers: what a quantised model is compared with."""

    batches: Batches
    answers: Answers
    task: Task | None
    limits: Int8
    gold: Any  # as `Int8Evaluator.gold` gives it
    as_stated: bool = False  # compute each Q/DQ node as it stands, for a target whose INT8 is not this CPU's

    def cost(self, model: Path) -> Cost:
        """What an ONNX file costs against the float model."""
        return cost(answers(model, self.batches, self.as_stated), self.answers, self.task, self.limits, self.gold)

    def distance(self, model: Path) -> float:
        """Mean distance of an ONNX file's answers to the float model's."""
        return float(distances(answers(model, self.batches, self.as_stated), self.answers, self.task).mean())

    def some(self, count: int) -> _Reference:
        """About `count` of the rows, evenly spread."""
        rows = range(0, len(self.batches), -(-len(self.batches) // count))
        return replace(self, batches=[self.batches[i] for i in rows], answers=[self.answers[i] for i in rows])


def dynamic(source: Path, target: Path, calibration: Calibration, *, reduce_range: bool) -> dict:
    """Weights to INT8 now, activations at run time. Works on the graph with fused attention.

    All rows of `calibration` evaluate it. Without rows or a `judge`, every product is INT8.
    Returns what was found, for the artefact's details: `_evaluated`.
    """
    batches, task, judge = calibration.batches, calibration.task, calibration.judge
    quantization = onnxruntime_quantization()

    def make(model: Path, out: Path, left: Sequence[str]) -> None:
        with quantiser_errors("onnxruntime"):
            quantization.quantize_dynamic(
                model,
                out,
                per_channel=True,
                reduce_range=reduce_range,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=[*left, *(f"{name}{OF_GEMM}" for name in left), *_convolutions(model)],
                extra_options={"DefaultTensorType": 1},  # FLOAT, for outputs of fused nodes whose type is not inferred
            )

    with tempfile.TemporaryDirectory() as scratch:
        plain = _without_value_info(source, Path(scratch))
        make(plain, target, [])
        if judge is None or not batches:
            return {}
        gold = judge.gold(task, range(len(batches)))
        return _evaluated(plain, target, make, _Reference(batches, answers(plain, batches), task, judge.limits, gold))


def static(
    source: Path,
    target: Path,
    calibration: Calibration,
    *,
    reduce_range: bool = False,
    symmetric: bool = False,
) -> dict:
    """QDQ around MatMul, Gemm and Conv; three quarters of the rows give the ranges, the rest evaluate.

    Min-max, percentile, entropy, and min-max after SmoothQuant are tried. Other operators stay in float: quantising
    them too measured slower and less accurate on this kind of model. The one nearest to the float model is kept; with a
    `judge`, products go back to float for what it costs. Returns what was found.
    `symmetric`: the graph that TensorRT takes, S8 x S8 with zero point 0, float biases, and Q/DQ at the inputs of the
    products only ("Working with Quantized Types", TensorRT's developer guide); judged in the arithmetic it states.
    """
    batches, task, judge = calibration.batches, calibration.task, calibration.judge
    quantization = onnxruntime_quantization()
    of_target: dict = {"DefaultTensorType": 1, "MatMulConstBOnly": True}
    if symmetric:
        of_target |= {"ActivationSymmetric": True, "QuantizeBias": False}
        of_target |= {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
    if not batches:
        raise InputError("static INT8 needs calibration rows; give at least one training row")
    apart = (judge or Int8Evaluator()).parts(len(batches))
    calibrating, judging = ([batches[i] for i in part] for part in apart)
    methods = {
        "min-max": (quantization.CalibrationMethod.MinMax, False, calibrating),
        "percentile": (quantization.CalibrationMethod.Percentile, False, _of_one_length(calibrating)[:SLOW_ROWS]),
        "entropy": (quantization.CalibrationMethod.Entropy, False, _of_one_length(calibrating)[:SLOW_ROWS]),
        "smoothquant": (quantization.CalibrationMethod.MinMax, True, calibrating),
    }

    def make(model: Path, out: Path, left: Sequence[str], method: str, scratch: Path) -> None:
        queue = iter(methods[method][2])

        class Reader(quantization.CalibrationDataReader):
            def get_next(self):  # pyright: ignore[reportIncompatibleMethodOverride]
                return next(queue, None)

        with quantiser_errors("onnxruntime"), contextlib.redirect_stdout(io.StringIO()):  # its histograms talk
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
                nodes_to_exclude=[*left],
                extra_options=of_target,
                calibration_cache_path=scratch / f"{method}.ranges",  # rows are run once, however often it is made
            )

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        plain = _without_value_info(source, scratch)
        smoothed = smooth(plain, scratch / "smoothed.onnx", calibrating[:SLOW_ROWS])
        gold = judge.gold(task, apart[1]) if judge else None
        limits = judge.limits if judge else Int8()
        reference = _Reference(judging, answers(plain, judging), task, limits, gold, symmetric)
        tried: dict[str, float] = {}
        for method, (_, smoothly, _) in methods.items():
            out = scratch / f"{method}.onnx"
            make(smoothed if smoothly else plain, out, [], method, scratch)
            tried[method] = reference.distance(out)
        chosen = min(tried, key=lambda method: tried[method])
        shutil.copyfile(scratch / f"{chosen}.onnx", target)
        found = {"calibration": chosen, "calibration_kl": tried}
        if judge is None:
            return found
        base = smoothed if methods[chosen][1] else plain
        remake = partial(make, method=chosen, scratch=scratch)
        return found | _evaluated(base, target, remake, reference)


def openvino_static(
    source: Path,
    target: Path,
    calibration: Calibration,
    *,
    reduce_range: bool,
    transformer: bool = True,
) -> dict:
    """OpenVINO IR to INT8 IR by NNCF's post-training quantisation, for transformers with SmoothQuant.

    Left to itself NNCF gives matrix products the whole range of INT8 (its fix for overflow is for first convolutions).
    With a `judge` a quarter of the rows does not calibrate but tells what INT8 costs; every product stays INT8.
    """
    batches, task, judge = calibration.batches, calibration.task, calibration.judge
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise missing_extra(error.name or "nncf", "cpu") from None
    if not batches:
        raise InputError("static INT8 needs calibration rows; give at least one training row")
    nncf.set_log_level(logging.ERROR)
    apart = judge.parts(len(batches)) if judge else (range(len(batches)), ())
    calibrating, judging = ([batches[i] for i in part] for part in apart)
    model = openvino.Core().read_model(source)
    theirs = openvino_answers(model, judging)
    with quantiser_errors("nncf"), contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        quantised = nncf.quantize(
            model,
            nncf.Dataset(calibrating),
            model_type=nncf.ModelType.TRANSFORMER if transformer else None,
            subset_size=len(calibrating),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.ENABLE if reduce_range else None
            ),
        )
    openvino.save_model(quantised, target, compress_to_fp16=False)
    if judge is None:
        return {}
    found = cost(openvino_answers(quantised, judging), theirs, task, judge.limits, judge.gold(task, apart[1]))
    return said(found, found)


@contextlib.contextmanager
def quantiser_errors(whose: str) -> Iterator[None]:
    """What a quantiser raises as one line; it has asserts and bare classes for what it cannot do. SAID is not said."""
    log = logging.getLogger()
    log.addFilter(_worth_saying)
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = one_line(error)
        raise StepError(f"{whose}'s quantiser gave up: {reason}; check the weights for values out of range") from error
    finally:
        log.removeFilter(_worth_saying)


def _worth_saying(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in SAID)


def _evaluated(
    base: Path, target: Path, make: Callable[[Path, Path, Sequence[str]], None], reference: _Reference
) -> dict:
    """What INT8 costs against `reference`; where that is too much, the products that cost most go back to float.

    `make(model, out, left)` quantises all but the products `left`: once more at most, since the variants that are tried
    are put together from `base` and `target`. At most half of the products go back, and only where that brings the
    cost under the limit, or halves it. Returns `products`, `left_in_float`, `int8_cost` and how much was tried.
    """
    import onnx

    before = reference.cost(target)
    plain, int8 = onnx.load(base), onnx.load(target)
    nodes = products(plain, int8)
    names = [node.name for node in nodes]
    few = reference.some(RANKING_ROWS)
    variants = 0
    after, left = before, []
    with tempfile.TemporaryDirectory() as scratch:
        variant = Path(scratch) / "variant.onnx"

        def with_float(products: Sequence[str]) -> Path:
            nonlocal variants
            variants += 1
            onnx.save(composed(plain, int8, {*products}), variant)
            return variant

        def harm(in_int8: Sequence[str]) -> float:
            return few.distance(with_float([name for name in names if name not in in_int8]))

        def affordable(in_float: Sequence[str]) -> bool:
            return not reference.cost(with_float(in_float)).too_much

        if before.too_much:
            left = left_in_float(groups_of(nodes), harm, affordable, len(nodes) // 2)
        if left:
            made = Path(scratch) / "made.onnx"
            make(base, made, left)
            after = reference.cost(made)
            if after.too_much and not after.value <= before.value / 2:
                after, left = before, []
            else:
                shutil.copyfile(made, target)
    return {
        "products": len(nodes),
        "left_in_float": [name for name in names if name in left],
        **said(before, after),
        "variants_tried": variants,
    }


def _of_one_length(batches: Batches) -> Batches:
    """Those of at least median length, truncated to it: ONNX Runtime's histograms need activations of one shape."""
    if "input_ids" not in batches[0]:  # images are of one size
        return batches
    length = int(np.median([batch["input_ids"].shape[1] for batch in batches]))
    long = [batch for batch in batches if batch["input_ids"].shape[1] >= length]
    return [{name: array[:, :length] for name, array in batch.items()} for batch in long]


def _convolutions(model: Path) -> list[str]:
    """Names of those nodes, whose ranges are not to be found at run time: ConvInteger takes no signed weights."""
    import onnx

    return [node.name for node in onnx.load(model, load_external_data=False).graph.node if node.op_type == "Conv"]


def onnxruntime_quantization():
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise missing_extra(error.name or "onnxruntime", "cpu") from None
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
