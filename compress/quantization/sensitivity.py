"""Sensitivity analysis by groups: which matrix products of an INT8 graph go back to float.

A graph in which only some products are INT8 is put together from the float graph and the one that the quantiser made,
so a variant costs no further quantisation.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LOOKED_UP = ("Gather", "EmbedLayerNormalization")  # products with a one-hot row
PRODUCTS = ("MatMul", "Gemm", "Attention", "Conv")
MOST_GROUPS = 32
LAYER = re.compile(r".*[A-Za-z_]+\.\d+(?=[/.])")  # a node's name up to its innermost numbered module


def products(plain: ModelProto, int8: ModelProto) -> list[NodeProto]:
    """The nodes of the float graph that multiply matrices, or look up rows of a constant one, and are INT8 in the other
    graph; in the graph's order."""
    constants = {tensor.name for tensor in plain.graph.initializer if len(tensor.dims) > 1 and tensor.data_type == 1}
    made = {output: (node.op_type, [*node.input]) for node in int8.graph.node for output in node.output}
    return [
        node
        for node in plain.graph.node
        if (node.op_type in PRODUCTS or (node.op_type in LOOKED_UP and not constants.isdisjoint(node.input)))
        and made.get(node.output[0]) != (node.op_type, [*node.input])
    ]


def groups_of(nodes: Sequence[NodeProto]) -> list[list[str]]:
    """Names of the products, grouped: attention and feed-forward part of each layer, the embeddings, the head.

    By the names that the exporter gives; a fused Attention has none of its own and belongs to the layer that follows.
    At most MOST_GROUPS: where there are more, neighbours are put together.
    """
    found: dict[str, list[str]] = {}
    layer = ""
    keys = []
    for node in reversed(nodes):
        named = LAYER.match(node.name)
        layer = named.group() if named else layer
        if node.op_type in LOOKED_UP or "embedding" in node.name.lower():
            keys.append("embeddings")
        elif named is None and node.op_type != "Attention":
            keys.append("head")
        else:
            attends = node.op_type == "Attention" or "att" in node.name[len(layer) :].lower()
            keys.append(f"{layer} {'attention' if attends else 'feed-forward'}")
    for key, node in zip(reversed(keys), nodes, strict=True):
        found.setdefault(key, []).append(node.name)
    groups = [*found.values()]
    each = -(-len(groups) // MOST_GROUPS)
    return [[*chain(*groups[start : start + each])] for start in range(0, len(groups), each)]


def composed(plain: ModelProto, int8: ModelProto, in_float: Collection[str]) -> ModelProto:
    """The INT8 graph with the products `in_float` as they are in the float graph.

    Values have the same names in both, as the quantiser leaves them. Of a graph with Q/DQ nodes the rounding of values
    that no product in INT8 reads or makes is left out too.
    """
    import onnx

    kept = {output: node for node in plain.graph.node if node.name in in_float for output in node.output}
    made = {output: node for node in int8.graph.node for output in node.output}
    in_int8 = [node for node in products(plain, int8) if node.name not in in_float]
    rounded = {name for node in in_int8 for name in (*node.input, *node.output)}
    same: dict[str, str] = {}  # a value that was rounded, and the value itself
    for node in int8.graph.node:
        before = made.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if before is not None and before.op_type == "QuantizeLinear" and before.input[0] not in rounded:
            same[node.output[0]] = before.input[0]
    nodes: list[NodeProto] = []
    used, done = set[str](), set[str]()
    waiting: list[tuple[str, bool]] = [(entry.name, False) for entry in int8.graph.output]
    while waiting:  # depth first, without recursion: graphs are thousands of nodes deep
        value, ready = waiting.pop()
        node = kept.get(value) or made.get(value)
        if node is None:
            used.add(value)
        elif ready and node.output[0] not in done:
            done.update(node.output)
            nodes.append(type(node)())
            nodes[-1].CopyFrom(node)
            nodes[-1].input[:] = [same.get(name, name) for name in node.input]
        elif not ready and node.output[0] not in done:
            waiting.append((value, True))
            waiting += [(same.get(name, name), False) for name in _reads(node)]
    graph = int8.graph
    constants = {tensor.name: tensor for tensor in (*plain.graph.initializer, *graph.initializer)}
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes, graph.name, graph.input, graph.output, [constants[name] for name in used if name in constants]
        ),
        opset_imports=int8.opset_import,
        ir_version=int8.ir_version,
    )


def _reads(node: NodeProto) -> Iterator[str]:
    """What a node reads, in graphs inside it too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)


def left_in_float(
    groups: Sequence[Sequence[str]],
    harm: Callable[[Sequence[str]], float],
    affordable: Callable[[Sequence[str]], bool],
    most: int,
) -> list[str]:
    """Names of the products to leave in float, at most `most`: where even these do not do, those that hurt most.

    `harm(names)`: how far the answers are when only these are INT8. `affordable(names)`: whether INT8 costs little
    enough when these are float. The groups are ranked, the fewest of them found by bisection, and of the worst group
    only the products that are needed are kept. With G groups, W products in the worst one: G + W calls of `harm` at
    most, and 1 + log2 G + log2 W, rounded up, of `affordable`.
    """
    parts = [part for group in groups for part in ([group] if len(group) <= most else [[name] for name in group])]
    ranked = sorted(parts, key=lambda group: -harm(group))
    first = [names for names in accumulate(map(list, ranked)) if len(names) <= most]
    if not first:
        return []
    if not affordable(first[-1]):
        return first[-1]
    kept = first[_least(lambda count: affordable(first[count - 1]), len(first)) - 1]
    worst, rest = ranked[0], kept[len(ranked[0]) :]
    if len(worst) == 1:
        return kept
    inside = sorted(worst, key=lambda name: -harm([name]))
    needed = _least(lambda count: affordable([*inside[:count], *rest]), len(inside))
    return [*inside[:needed], *rest]


def _least(holds: Callable[[int], bool], most: int) -> int:
    """The smallest number from 1 for which something holds, by bisection; it is known to hold for `most`."""
    return 1 + bisect_left(range(1, most), True, key=holds)
