"""ONNX Runtime's fused operators written in ONNX's own: the way back from `fusion.fuse`, for compilers of NPUs.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from paredown.runtime.errors import InputError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

OWN = "com.microsoft"
# Added to the attention scores of padding, by the bits that the scores are rounded to. The usual -10000 would leave no
# bits for the scores themselves; of 8 bits the steps have to be smaller still.
MASKED = {8: -12.0, 16: -50.0}


class Nodes:
    """New nodes of a graph, in order; constants go into the graph at once. Names stay unique by a prefix."""

    def __init__(self, graph: GraphProto, prefix: str) -> None:
        self.graph, self.prefix, self.made = graph, prefix, list[Any]()
        self.constants = {tensor.name: tensor for tensor in graph.initializer}

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a new initializer."""
        from onnx import numpy_helper

        name = f"{self.prefix}.constant.{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str = "", domain: str = "", **attributes: Any) -> str:
        """The name of the output of a new node."""
        from onnx import helper

        name = f"{self.prefix}.{kind}.{len(self.made)}"
        output = output or name
        self.made.append(helper.make_node(kind, list(inputs), [output], name, domain=domain, **attributes))
        return output

    def value(self, name: str) -> np.ndarray:
        """An initializer as an array; InputError where the weight is computed."""
        from onnx import numpy_helper

        if name not in self.constants:
            raise InputError(f"layout npu: {name} is no constant of the model; nothing is known of such a graph")
        return numpy_helper.to_array(self.constants[name])


def unfuse(model: ModelProto, length: int, masked: float) -> None:
    """Attention, EmbedLayerNormalization, BiasGelu and Sum as other nodes, in place, for one row of `length` tokens.
    Gelu stays com.microsoft's. `masked`: see MASKED. InputError for attention of another kind than an encoder's."""
    from onnx import helper

    kept, masks = list[Any](), dict[str, str]()
    makers = {name: node for node in model.graph.node for name in node.output}
    for number, node in enumerate(model.graph.node):
        nodes = Nodes(model.graph, f"npu.{number}")
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Attention" and node.domain == OWN:
            mask = _mask_behind(makers, node)
            if mask and mask not in masks:
                masks[mask] = _additive(nodes, mask, masked)
            _attention(nodes, node, given, length, masks.get(mask, ""))
        elif node.op_type == "EmbedLayerNormalization":
            _embeddings(nodes, node, given, length)
        elif node.op_type == "BiasGelu":
            nodes.add("Gelu", [nodes.add("Add", node.input)], node.output[0], OWN)
        elif node.op_type == "Sum":
            total = node.input[0]
            for i, other in enumerate(node.input[1:], 2):
                total = nodes.add("Add", [total, other], node.output[0] if i == len(node.input) else "")
        else:
            nodes.made.append(node)
        kept += nodes.made
    replace_nodes(model.graph, kept)


def replace_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Give a graph these nodes, which may be its own."""
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _mask_behind(makers: Mapping[str, NodeProto], attention: NodeProto) -> str:
    """The mask, (1, length), that an Attention reads itself or as the number of tokens of each row; "" of none."""
    mask = attention.input[3] if len(attention.input) > 3 else ""
    maker = makers.get(mask)
    if maker is not None and maker.op_type == "ReduceSum":
        return maker.input[0]
    if maker is not None and maker.op_type == "EmbedLayerNormalization":
        return maker.input[7]
    return mask


def _additive(nodes: Nodes, mask: str, masked: float) -> str:
    """(1, length), 1 for a token and 0 for padding -> (1, 1, 1, length), 0 and `masked`."""
    from onnx import TensorProto

    mask = nodes.add("Cast", [mask], to=TensorProto.FLOAT)
    scaled = nodes.add("Mul", [mask, nodes.constant(-masked)])
    added = nodes.add("Add", [scaled, nodes.constant(masked)])
    return nodes.add("Unsqueeze", [added, nodes.constant([1, 2], np.int64)])


def _attention(nodes: Nodes, node: NodeProto, given: dict[str, Any], length: int, mask: str) -> None:
    """`mask`: added to the scores, (1, 1, 1, length). The scale is in the weights of the query."""
    if given.get("unidirectional") or any(node.input[4:]) or len(node.output) > 1:
        raise InputError(f"layout npu: {node.name or node.op_type}: attention of an encoder is expected")
    heads, (weights, bias) = int(given["num_heads"]), (nodes.value(name) for name in node.input[1:3])
    sizes = given.get("qkv_hidden_sizes") or [weights.shape[1] // 3] * 3
    scale, ends = given.get("scale") or (sizes[0] // heads) ** -0.5, np.cumsum(sizes)[:2]
    parts = zip(np.split(weights, ends, axis=1), np.split(bias, ends), (scale, 1.0, 1.0), strict=True)
    tokens = nodes.add("Reshape", [node.input[0], nodes.constant([length, weights.shape[0]], np.int64)])
    turned = list[str]()
    for (weight, shift, factor), order in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True):
        product = nodes.add("Gemm", [tokens, nodes.constant(weight * factor), nodes.constant(shift * factor)])
        split = nodes.add("Reshape", [product, nodes.constant([1, length, heads, weight.shape[1] // heads], np.int64)])
        turned.append(nodes.add("Transpose", [split], perm=order))
    query, key, value = turned
    scores = nodes.add("MatMul", [query, key])
    if mask:
        scores = nodes.add("Add", [scores, mask])
    mixed = nodes.add("MatMul", [nodes.add("Softmax", [scores], axis=-1), value])
    together = nodes.add("Transpose", [mixed], perm=[0, 2, 1, 3])
    nodes.add("Reshape", [together, nodes.constant([1, length, int(sizes[2])], np.int64)], node.output[0])


def _embeddings(nodes: Nodes, node: NodeProto, given: dict[str, Any], length: int) -> None:
    ids, types, words, places, kinds, scale, shift, _, positions = (*node.input, *[""] * (9 - len(node.input)))
    at = nodes.add("Gather", [places, positions]) if positions else nodes.constant(nodes.value(places)[None, :length])
    if types and kinds:  # before the words: the sum of constants is one
        at = nodes.add("Add", [at, nodes.add("Gather", [kinds, types])])
    total = nodes.add("Add", [nodes.add("Gather", [words, ids]), at])
    norm = [total, scale, shift]
    nodes.add("LayerNormalization", norm, node.output[0], axis=-1, epsilon=given.get("epsilon", 1e-12))
