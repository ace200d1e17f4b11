"""A graph that a compiler of an NPU takes: one row of one length, int32 ids, operators of a profile, no shape open.

What remains to be rounded is float32: `compress.quantization.qdq`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paredown.runtime.errors import InputError, one_line

from .npu_profiles import Profile
from .trace import quiet
from .unfused import MASKED, OWN, Nodes, replace_nodes, unfuse

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

IDS, MASK, EMBEDS = "input_ids", "attention_mask", "inputs_embeds"
FORBIDDEN = -1e4  # scores of at most this say "never"; they become MASKED, so that rounding keeps bits for the others
NO_ID = -1  # of a token; compared with that of the padding, never looked up
SAME = ("Cast", "Identity")
GELUS = ("Gelu", "FastGelu")  # of ONNX Runtime; onnx does not know their shapes
MADE = "gemm_"  # names that ONNX Runtime gives, and gives again to others when it opens the file that it wrote


@dataclass(frozen=True)
class Wanted:
    """What a graph is made for."""

    profile: Profile
    bits: int  # of the activations
    length: int  # tokens; without a meaning for images
    outside: bool = False  # the application looks up the embeddings
    pad_id: int = 0

    @property
    def operators(self) -> Sequence[str]:
        """Names, as the profile has them."""
        return self.profile.operators[self.bits]

    @property
    def masked(self) -> float:
        """See MASKED."""
        return MASKED[self.bits]


def npu_graph(source: Path, target: Path, wanted: Wanted) -> np.ndarray | None:
    """Write the float graph of an ONNX file to `target`; returns the table of embeddings, float32 (tokens, width),
    where they are looked up outside.

    Inputs: `input_ids` and `attention_mask`, int32 (1, length); outside: `inputs_embeds` float32 (1, length, width) and
    `attention_mask` float32 (1, length). Of images float32 (1, channels, height, width). InputError for a graph of
    another length, one whose answers hang on the ids in another way, or with an operator outside the profile.
    """
    import onnx
    from onnx import version_converter

    model = onnx.load(source)
    unfuse(model, wanted.length, wanted.masked)
    _one_shape(model, wanted.length)
    table, only_a_table = _ids(model, wanted)
    _read_as(model, MASK, onnx.TensorProto.FLOAT if wanted.outside else onnx.TensorProto.INT32)
    _drop_unread(model)
    model = _folded(model)
    _fuse_gelu(model)
    _bound_scores(model, wanted.masked)
    used = {node.domain for node in model.graph.node} | {""}
    for entry in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(entry)
    with _as_input_error("its opset cannot be changed"):
        model = version_converter.convert_version(model, wanted.profile.opset)
    _constants_as_initializers(model)
    _in_forms_of(model, wanted)
    del model.graph.value_info[:]
    wanted.profile.check(model, wanted.bits, outside_helps=only_a_table and not wanted.outside)
    with _as_input_error("the graph is not sound"):
        onnx.checker.check_model(model)
        model.graph.value_info.extend(_static_values(model))
    onnx.save(model, target)
    return table


def _one_shape(model: ModelProto, length: int) -> None:
    """Sizes for the names of dimensions that `plain_onnx` gives: one row, `length` tokens."""
    from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

    make_dim_param_fixed(model.graph, "batch", 1)
    make_dim_param_fixed(model.graph, "length", length)
    del model.graph.value_info[:]
    for entry in model.graph.input:
        sizes = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        if sizes[0] != 1:
            raise InputError(
                f"layout npu: one row a call is wanted, and {entry.name} has {sizes[0]} rows in this model; pack a "
                "candidate of any batch size"
            )
        if len(sizes) == 2 and sizes[1] != length:
            raise InputError(
                f"layout npu: one row of {length} tokens is wanted, and {entry.name} has the shape "
                f"({', '.join(map(str, sizes))}) in this model; give its --length, or pack a candidate of any shape"
            )


def _ids(model: ModelProto, wanted: Wanted) -> tuple[np.ndarray | None, bool]:
    """Let the ids be read as int32 by the table of embeddings alone, or not at all: see `npu_graph`. The table, where
    it is outside, and whether one table alone reads the ids.

    What compares them with the padding, for positions, reads a row without padding: positions of padding are masked.
    """
    from onnx import TensorProto, helper, numpy_helper

    _constants_as_initializers(model)

    graph = model.graph
    if IDS not in {entry.name for entry in graph.input}:
        return None, False
    constants = {tensor.name: tensor for tensor in graph.initializer}
    names, tables, others = {IDS}, list[Any](), list[Any]()
    row = numpy_helper.from_array(np.full((1, wanted.length), NO_ID, np.int64), "npu.row")
    graph.initializer.append(row)
    for node in graph.node:
        if not names.intersection(node.input):
            continue
        if node.op_type in SAME:
            names.update(node.output)
        elif node.op_type == "Shape" or (node.op_type == "Equal" and _value_of(constants, node) == wanted.pad_id):
            node.input[:] = [row.name if name in names else name for name in node.input]
        elif node.op_type == "Gather" and node.input[0] in constants and _is_table(constants[node.input[0]]):
            node.input[1] = IDS
            tables.append(node)
        else:
            others.append(node)
    read = {node.input[0] for node in tables}
    only_a_table = not others and len(read) == 1
    if not wanted.outside:
        _read_as(model, IDS, TensorProto.INT32)
        return None, only_a_table
    if not only_a_table:
        kinds = ", ".join(sorted({node.op_type for node in others})) or f"{len(read)} tables"
        raise InputError(
            f"--embedding outside: the ids of this model are for one table of embeddings and nothing else, and here "
            f"{kinds} read them; leave the option out"
        )
    table = numpy_helper.to_array(constants[tables[0].input[0]])
    for lookup in tables:
        _rename(model, lookup.output[0], EMBEDS)
        graph.node.remove(lookup)
    graph.input.remove(next(entry for entry in graph.input if entry.name == IDS))
    for node in [node for node in graph.node if node.op_type in SAME and node.input[0] in names]:
        graph.node.remove(node)
    shape = [1, wanted.length, table.shape[1]]
    graph.input.insert(0, helper.make_tensor_value_info(EMBEDS, TensorProto.FLOAT, shape))
    return table.astype(np.float32), only_a_table


def _constants_as_initializers(model: ModelProto) -> None:
    from onnx import helper

    for node in [node for node in model.graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]:
        tensor = helper.get_attribute_value(node.attribute[0])
        tensor.name = node.output[0]
        model.graph.initializer.append(tensor)
        model.graph.node.remove(node)


def _value_of(constants: Mapping[str, Any], node: NodeProto) -> int | None:
    """The one number that Equal compares with; None of several, or of none."""
    from onnx import numpy_helper

    values = [numpy_helper.to_array(constants[name]) for name in node.input if name in constants]
    return int(values[0].item()) if len(values) == 1 and values[0].size == 1 else None


def _is_table(tensor: Any) -> bool:
    from onnx import TensorProto

    return len(tensor.dims) == 2 and tensor.data_type == TensorProto.FLOAT


def _read_as(model: ModelProto, name: str, kind: int) -> None:
    """Make a graph input of this type; nodes that need the int64 that it had get it by a Cast."""
    from onnx import TensorProto, helper

    entry = next((entry for entry in model.graph.input if entry.name == name), None)
    if entry is None or entry.type.tensor_type.elem_type != TensorProto.INT64:
        return
    entry.type.tensor_type.elem_type = kind
    wide, same = f"npu.{name}", {name}  # of one value: the input, and what Cast makes of it
    takes, dropped = list[Any](), list[Any]()
    for node in model.graph.node:
        if node.op_type in SAME and node.input[0] in same:
            same.add(node.output[0])
            node.input[0] = name
            if node.op_type == "Identity" or helper.get_node_attr_value(node, "to") == kind:
                dropped.append(node)
        elif name in node.input and node.op_type != "Gather":
            takes.append(node)
    for node in dropped:
        _rename(model, node.output[0], name)
        model.graph.node.remove(node)
    for node in takes:
        node.input[:] = [wide if one == name else one for one in node.input]
    if takes:
        model.graph.node.insert(0, helper.make_node("Cast", [name], [wide], wide, to=TensorProto.INT64))


def _rename(model: ModelProto, value: str, name: str) -> None:
    """Let nodes read `name` that read `value`."""
    for node in model.graph.node:
        node.input[:] = [name if one == value else one for one in node.input]


def _drop_unread(model: ModelProto) -> None:
    """Without nodes and initializers that no output hangs on."""
    read = {entry.name for entry in model.graph.output}
    for node in reversed(list(model.graph.node)):
        if read.isdisjoint(node.output):
            model.graph.node.remove(node)
        else:
            read.update(node.input)
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in read]:
        model.graph.initializer.remove(tensor)


def _folded(model: ModelProto) -> ModelProto:
    """What hangs on shapes and constants alone computed, by ONNX Runtime; no operators of its own are made."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as scratch, _as_input_error("ONNX Runtime does not open it in one shape"):
        given, made = Path(scratch) / "given.onnx", Path(scratch) / "made.onnx"
        onnx.save(model, given)
        options.optimized_model_filepath = str(made)
        onnxruntime.InferenceSession(str(given), options, providers=["CPUExecutionProvider"])
        folded = onnx.load(made)
    for names in [entry for node in folded.graph.node for entry in (node.input, node.output)]:
        names[:] = [f"npu.{name}" if name.startswith(MADE) else name for name in names]
    for tensor in folded.graph.initializer:
        tensor.name = f"npu.{tensor.name}" if tensor.name.startswith(MADE) else tensor.name
    return folded


def _fuse_gelu(model: ModelProto) -> None:
    """Each GELU written with Erf as ONNX Runtime's Gelu, for `_gelu`; in place."""
    from onnxruntime.transformers.fusion_gelu import FusionGelu
    from onnxruntime.transformers.onnx_model import OnnxModel

    with quiet():
        found = OnnxModel(model)
        FusionGelu(found).apply()
        found.topological_sort()


@contextlib.contextmanager
def _as_input_error(what: str) -> Any:
    """The classes of onnx and of ONNX Runtime for a graph that they refuse, as one line."""
    try:
        yield
    except (OSError, MemoryError, InputError):
        raise
    except Exception as error:
        raise InputError(f"layout npu: {what}: {one_line(error)}") from None


def _bound_scores(model: ModelProto, masked: float) -> None:
    from onnx import numpy_helper

    masking = {name for node in model.graph.node if node.op_type in ("Add", "Mul", "Where") for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in masking and _is_float(tensor):
            values = numpy_helper.to_array(tensor)
            if values.size and values.min() <= FORBIDDEN:
                bounded = np.where(values <= FORBIDDEN, np.float32(masked), values)
                tensor.CopyFrom(numpy_helper.from_array(bounded, tensor.name))


def _is_float(tensor: Any) -> bool:
    from onnx import TensorProto

    return tensor.data_type == TensorProto.FLOAT


def _in_forms_of(model: ModelProto, wanted: Wanted) -> None:
    """GELU and layer norms as the profile has them, and a lookup of one constant position as Slice and Squeeze."""
    from onnx import helper

    graph, kept = _inferred(model, strict=False), list[Any]()
    shapes = {
        entry.name: [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
        for entry in (*graph.value_info, *graph.input)
    }
    for number, node in enumerate(list(model.graph.node)):
        node.name = node.name or f"{node.op_type}_{number}"
        nodes = Nodes(model.graph, f"npu.form.{number}")
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        shape = shapes.get(node.input[0], []) if node.input else []
        if node.op_type in GELUS and node.domain == OWN:
            _gelu(nodes, node, wanted)
        elif node.op_type == "LayerNormalization" and _is_instance_norm(given, shape, wanted):
            _layer_norm(nodes, node, given, shape[1])
        elif node.op_type == "Gather" and node.input[0] not in nodes.constants and _is_position(nodes, node):
            axis = nodes.constant([given.get("axis", 0)], np.int64)
            at = int(nodes.value(node.input[1]))
            ends = [nodes.constant([one], np.int64) for one in (at, at + 1 if at != -1 else np.iinfo(np.int64).max)]
            nodes.add("Squeeze", [nodes.add("Slice", [node.input[0], *ends, axis]), axis], node.output[0])
        else:
            nodes.made.append(node)
        kept += nodes.made
    replace_nodes(model.graph, kept)
    _drop_unread(model)


def _is_position(nodes: Nodes, node: NodeProto) -> bool:
    return node.input[1] in nodes.constants and not nodes.constants[node.input[1]].dims


def _gelu(nodes: Nodes, node: NodeProto, wanted: Wanted) -> None:
    x, output = nodes.add("Add", node.input) if len(node.input) == 2 else node.input[0], node.output[0]
    if node.op_type == "FastGelu":
        _tanh_gelu(nodes, x, output, wanted)
    elif "Gelu" in wanted.operators and wanted.profile.opset >= 20:  # the first that has it
        nodes.add("Gelu", [x], output)
    elif f"{OWN}:Gelu" in wanted.operators:
        nodes.made.append(node)
    else:
        error = nodes.add("Erf", [nodes.add("Mul", [x, nodes.constant(2**-0.5)])])
        product = nodes.add("Mul", [x, nodes.add("Add", [error, nodes.constant(1)])])
        nodes.add("Mul", [product, nodes.constant(0.5)], output)


def _tanh_gelu(nodes: Nodes, x: str, output: str, wanted: Wanted) -> None:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), https://onnx.ai/onnx/operators/onnx__Gelu.html"""
    if "Gelu" in wanted.operators and wanted.profile.opset >= 20:
        nodes.add("Gelu", [x], output, approximate="tanh")
        return
    root = (2 / np.pi) ** 0.5
    square = nodes.add("Mul", [nodes.add("Mul", [x, x]), nodes.constant(0.044715 * root)])
    inner = nodes.add("Mul", [x, nodes.add("Add", [square, nodes.constant(root)])])
    factor = nodes.add("Add", [nodes.add("Tanh", [inner]), nodes.constant(1)])
    nodes.add("Mul", [nodes.add("Mul", [x, factor]), nodes.constant(0.5)], output)


def _is_instance_norm(given: Mapping[str, Any], shape: Sequence[int], wanted: Wanted) -> bool:
    """Whether InstanceNormalization takes the place of a layer norm: over the last of three dimensions, where the
    profile has no other. One of other dimensions stays, for `Profile.check` to name it."""
    return "LayerNormalization" not in wanted.operators and len(shape) == 3 and given.get("axis", -1) in (-1, 2)


def _layer_norm(nodes: Nodes, node: NodeProto, given: dict[str, Any], tokens: int) -> None:
    """Of (rows, tokens, width), over the width: each token is a channel of InstanceNormalization."""
    x, scale, *shift = node.input
    channels = [nodes.constant(np.full(tokens, value)) for value in (1, 0)]
    scaled = nodes.add("InstanceNormalization", [x, *channels], epsilon=given.get("epsilon", 1e-5))
    product = nodes.add("Mul", [scaled, scale], "" if shift else node.output[0])
    if shift:
        nodes.add("Add", [product, *shift], node.output[0])


def _static_values(model: ModelProto) -> Sequence[Any]:
    """What the graph computes on its way, with types and shapes. InputError where a shape is missing or open."""
    graph = _inferred(model, strict=True)
    known = {
        entry.name
        for entry in (*graph.value_info, *graph.input, *graph.output)
        if all(dim.HasField("dim_value") for dim in entry.type.tensor_type.shape.dim)
    }
    values = [entry.name for entry in graph.input] + [name for node in graph.node for name in node.output if name]
    if unknown := [name for name in values if name not in known]:
        raise InputError(f"layout npu: the shape of {unknown[0]} is not static")
    return graph.value_info


def _inferred(model: ModelProto, *, strict: bool) -> GraphProto:
    """The graph with types and shapes of its values; `strict`: onnx's errors are raised."""
    import onnx

    probe = onnx.ModelProto.FromString(model.SerializeToString())
    for node in probe.graph.node:
        if node.op_type in GELUS and node.domain == OWN:
            del node.input[1:]
            node.op_type, node.domain = "Identity", ""
    return onnx.shape_inference.infer_shapes(probe, check_type=strict, strict_mode=strict, data_prop=True).graph
