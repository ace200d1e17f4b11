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
from .unfused import MASKED, OWN, Nodes, replace_nodes, unfuse

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

IDS, MASK, ROWS = "input_ids", "attention_mask", "inputs_embeds"
FORBIDDEN = -1e4  # scores below it say "never"; they become MASKED, so that rounding keeps the bits for the others
NO_ID = -1  # of a token; compared with that of the padding, never looked up
SAME = ("Cast", "Identity")
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
    another length, one whose answers hang on the ids in another way, or with an operator that the profile has not.
    """
    import onnx
    from onnx import version_converter

    model = onnx.load(source)
    unfuse(model, wanted.length, wanted.masked)
    _one_shape(model, wanted.length)
    table = _ids(model, wanted)
    _read_as(model, MASK, onnx.TensorProto.FLOAT if wanted.outside else onnx.TensorProto.INT32)
    _drop_unread(model)
    model = _folded(model)
    _bound_scores(model, wanted.masked)
    used = {node.domain for node in model.graph.node} | {""}
    for entry in [entry for entry in model.opset_import if entry.domain not in used]:
        model.opset_import.remove(entry)
    with _as_input_error("its opset cannot be changed"):
        model = version_converter.convert_version(model, wanted.profile.opset)
    _constants_as_initializers(model)
    _in_forms_of(model, wanted)
    del model.graph.value_info[:]
    with _as_input_error("the graph is not sound"):
        onnx.checker.check_model(model)
        model.graph.value_info.extend(_static_values(model))
    wanted.profile.check(model, wanted.bits)
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
        if sizes[0] != 1 or (len(sizes) == 2 and sizes[1] != length):
            raise InputError(
                f"layout npu: one row of {length} tokens is wanted, and {entry.name} has the shape "
                f"({', '.join(map(str, sizes))}) in this model; give its --length, or pack a candidate of any shape"
            )


def _ids(model: ModelProto, wanted: Wanted) -> np.ndarray | None:
    """Let the ids be read as int32 by the table of embeddings alone, or not at all: see `npu_graph`.

    What compares them with the padding, for positions, reads a row without padding: positions of padding are masked.
    """
    from onnx import TensorProto, helper, numpy_helper

    _constants_as_initializers(model)

    graph = model.graph
    if IDS not in {entry.name for entry in graph.input}:
        return None
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
    if not wanted.outside:
        _read_as(model, IDS, TensorProto.INT32)
        return None
    read = {node.input[0] for node in tables}
    if others or len(read) != 1:
        kinds = ", ".join(sorted({node.op_type for node in others})) or f"{len(read)} tables"
        raise InputError(
            f"--embedding outside: the ids of this model are for one table of embeddings and nothing else, and here "
            f"{kinds} read them; leave the option out"
        )
    table = numpy_helper.to_array(constants[tables[0].input[0]])
    for lookup in tables:
        _rename(model, lookup.output[0], ROWS)
        graph.node.remove(lookup)
    graph.input.remove(next(entry for entry in graph.input if entry.name == IDS))
    for node in [node for node in graph.node if node.op_type in SAME and node.input[0] in names]:
        graph.node.remove(node)
    shape = [1, wanted.length, table.shape[1]]
    graph.input.insert(0, helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, shape))
    return table.astype(np.float32)


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
            if values.size and values.min() < FORBIDDEN:
                bounded = np.where(values < FORBIDDEN, np.float32(masked), values)
                tensor.CopyFrom(numpy_helper.from_array(bounded, tensor.name))


def _is_float(tensor: Any) -> bool:
    from onnx import TensorProto

    return tensor.data_type == TensorProto.FLOAT


def _in_forms_of(model: ModelProto, wanted: Wanted) -> None:
    """GELU and layer norms as the profile has them, and a lookup of one constant position as Slice and Squeeze."""
    from onnx import helper

    kept = list[Any]()
    for number, node in enumerate(list(model.graph.node)):
        node.name = node.name or f"{node.op_type}_{number}"
        nodes = Nodes(model.graph, f"npu.form.{number}")
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Gelu" and node.domain == OWN:
            _gelu(nodes, node, wanted)
        elif node.op_type == "LayerNormalization" and "LayerNormalization" not in wanted.operators:
            _layer_norm(nodes, node, given, wanted.length)
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
    (x,), output = node.input, node.output[0]
    if "Gelu" in wanted.operators and wanted.profile.opset >= 20:  # the first that has it
        nodes.add("Gelu", [x], output)
    elif f"{OWN}:Gelu" in wanted.operators:
        nodes.made.append(node)
    else:
        error = nodes.add("Erf", [nodes.add("Mul", [x, nodes.constant(2**-0.5)])])
        product = nodes.add("Mul", [x, nodes.add("Add", [error, nodes.constant(1)])])
        nodes.add("Mul", [product, nodes.constant(0.5)], output)


def _layer_norm(nodes: Nodes, node: NodeProto, given: dict[str, Any], length: int) -> None:
    """Of (1, length, width): each token is a channel of InstanceNormalization."""
    x, scale, *shift = node.input
    channels = [nodes.constant(np.full(length, value)) for value in (1, 0)]
    scaled = nodes.add("InstanceNormalization", [x, *channels], epsilon=given.get("epsilon", 1e-5))
    product = nodes.add("Mul", [scaled, scale], "" if shift else node.output[0])
    if shift:
        nodes.add("Add", [product, *shift], node.output[0])


def _static_values(model: ModelProto) -> Sequence[Any]:
    """What the graph computes on its way, with types and shapes. InputError where a shape is missing or open."""
    import onnx

    probe = onnx.ModelProto.FromString(model.SerializeToString())
    for node in probe.graph.node:
        if node.op_type == "Gelu" and node.domain == OWN:  # onnx does not know its shape
            node.op_type, node.domain = "Identity", ""
    graph = onnx.shape_inference.infer_shapes(probe, check_type=True, strict_mode=True, data_prop=True).graph
    known = {
        entry.name
        for entry in (*graph.value_info, *graph.input, *graph.output)
        if all(dim.HasField("dim_value") for dim in entry.type.tensor_type.shape.dim)
    }
    values = [entry.name for entry in graph.input] + [name for node in graph.node for name in node.output if name]
    if unknown := [name for name in values if name not in known]:
        raise InputError(f"layout npu: the shape of {unknown[0]} is not static")
    return graph.value_info
