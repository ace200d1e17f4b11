"""Weight-only quantisation in 8 or 4 bits, for decoders, whose time goes into reading weights.

Nothing is calibrated: the activations stay in float. The parity gate and the metric say what the rounding costs.
"""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

from paredown.runtime.errors import missing_extra

BLOCK, GROUP = 32, 64  # weights that share a scale: in ONNX Runtime, in OpenVINO's 4 bits


def onnx_weights(source: Path, target: Path, bits: int) -> dict:
    """Constant matrices of an ONNX file to 8 or 4 bits in blocks of BLOCK rows, each with a scale of its own (and, of 4
    bits, a zero point); inputs and outputs of the products stay in float. Embeddings stay as they are."""
    import onnx

    nbits = _onnxruntime()
    model = _products_alone(onnx.load(source))
    config = nbits.DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=bits == 8, accuracy_level=4, bits=bits, op_types_to_quantize=("MatMul",)
    )
    quantizer = nbits.MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    made = quantizer.model.model
    onnx.save(made, target)
    count = sum(node.op_type == "MatMulNBits" for node in made.graph.node)
    return {"weights": f"{bits} bits in blocks of {BLOCK}", "quantised_products": count}


def _onnxruntime() -> Any:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        from onnxruntime.quantization import matmul_nbits_quantizer
    except ImportError as error:
        raise missing_extra(error.name or "onnxruntime", "cpu") from None
    root.handlers[:], root.level = handlers, level  # importing it makes every logger of the process talk
    matmul_nbits_quantizer.logger.setLevel(logging.WARNING)
    return matmul_nbits_quantizer


def _products_alone(model: Any) -> Any:
    """The model with each plain Gemm as a product and a sum: GPT-2's matrices are in Gemm nodes.

    Others stay as they are: one that scales, or transposes one of its matrices.
    """
    from onnx import helper

    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}  # ONNX's defaults as well
    nodes = []
    for node in model.graph.node:
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type != "Gemm" or plain | given != plain or len(node.input) < 3:
            nodes.append(node)
            continue
        product = f"{node.output[0]}_product"
        nodes.append(helper.make_node("MatMul", list(node.input[:2]), [product], f"{node.name}_product"))
        nodes.append(helper.make_node("Add", [product, node.input[2]], list(node.output), node.name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def openvino_weights(model: Any, target: Path, bits: int) -> None:
    """An OpenVINO model with its weights in 8 bits by channel, or in 4 by group where it can (embeddings and the last
    product in 8), by NNCF."""
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise missing_extra(error.name or "nncf", "cpu") from None
    nncf.set_log_level(logging.ERROR)
    more: dict = {}
    if bits == 4:
        fallback = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
        more = {"group_size": GROUP, "advanced_parameters": fallback}
    mode = nncf.CompressWeightsMode.INT4_SYM if bits == 4 else nncf.CompressWeightsMode.INT8_SYM
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        compressed = nncf.compress_weights(model, mode=mode, **more)
    openvino.save_model(compressed, target, compress_to_fp16=False)
