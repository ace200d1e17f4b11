"""A cascade in one ONNX file: the first model answers where it is confident, the second answers the other rows.

An `If` around the second model: a call whose rows are all sure never enters it. The second model may be a cascade too.
Weights that both models have are in the file once. The runtime sees one ordinary model.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from paredown.runtime.errors import InputError, StepError
from paredown.runtime.preprocessor import MARKED
from paredown.tasks.registry import task_named

from ..artifact import Artifact
from .metadata import finish

SHARED = 1024  # bytes of a tensor that is worth keeping once


def combined(first: np.ndarray, then: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """What a cascade answers: logits of `first` where `sure`, (lines of the outputs,) bool, else those of `then`."""
    return np.where(sure[:, None], first, then)


def _of_label(node: Callable, constant: Callable, logits: str, mask: str) -> None:
    node("Softmax", [logits], "probabilities", axis=-1)
    node("ReduceMax", ["probabilities"], "confidence", axes=[-1], keepdims=0)


def _of_labels(node: Callable, constant: Callable, logits: str, mask: str) -> None:
    node("Abs", [logits], "decided")
    node("Sigmoid", ["decided"], "probabilities")
    node("ReduceMin", ["probabilities"], "confidence", axes=[-1], keepdims=0)


def _of_tokens(node: Callable, constant: Callable, logits: str, mask: str) -> None:
    from onnx import TensorProto

    node("Softmax", [logits], "probabilities", axis=-1)
    node("ReduceMax", ["probabilities"], "of_each_token", axes=[-1], keepdims=0)
    two, whole = (constant(n, TensorProto.INT64, [1], [v]) for n, v in (("two", 2), ("whole", np.iinfo(np.int64).max)))
    ends = constant("ends", TensorProto.INT64, [4], [0, 1, 0, 1])
    node("Slice", [mask, two, whole, "one"], "inner_tokens")  # special tokens do not count, nor does padding
    node("Pad", ["inner_tokens", ends], "inner_mask")
    node("Cast", ["inner_mask"], "inner", to=TensorProto.BOOL)
    certain = constant("certain", TensorProto.FLOAT, [], [1.0])
    node("Where", ["inner", "of_each_token", certain], "of_inner_tokens")
    node("ReduceMin", ["of_inner_tokens"], "confidence", axes=[1], keepdims=0)


CONFIDENCE = {"label": _of_label, "labels": _of_labels, "tokens": _of_tokens}  # `Task.confidence` by `Task.certainty`


def join(
    first: Artifact,
    then: Artifact,
    threshold: float,
    out: Path,
    *,
    asked: Sequence[float] | None = None,
    first_metric: float | None = None,
) -> Artifact:
    """Write the cascade of two ONNX Runtime artefacts to the directory `out`. They must share tokenizer and labels.

    `asked`: the share of the validation rows, 0..1, that each model behind the first is asked about; `first_metric`:
    the metric on those that the first one answers, points (None: it answers none). Both are kept in the artefact's
    details.
    """
    import onnx
    from onnx import TensorProto, helper

    if (first.path / "tokenizer.json").read_bytes() != (then.path / "tokenizer.json").read_bytes():
        raise InputError(
            f"cascade: {first.path.name} and {then.path.name} have different tokenizers; trim both or neither"
        )
    if first.labels != then.labels:
        raise InputError(f"cascade: {first.path.name} and {then.path.name} have different labels")
    (output,) = then.outputs
    quick, slow = onnx.load(first.path / first.files[0]), onnx.load(then.path / then.files[0])
    _prefix(quick.graph, "first.")
    _prefix(slow.graph, "then.")
    ids, mask = then.inputs
    int64, constants, nodes = TensorProto.INT64, [], []

    def constant(name: str, kind: int, dims: Sequence[int], values: Sequence[float]) -> str:
        constants.append(helper.make_tensor(name, kind, dims, values))
        return name

    def node(kind: str, inputs: list[str], result: str, into: list, **attributes) -> str:
        into.append(helper.make_node(kind, inputs, [result], name=f"cascade.{result}", **attributes))
        return result

    zero, one = constant("zero", int64, [1], [0]), constant("one", int64, [1], [1])
    flat = constant("flat", int64, [1], [-1])
    limit = constant("threshold", TensorProto.FLOAT, [], [threshold])
    logits = f"first.{output}"
    for name in first.inputs:
        node("Identity", [name], f"first.{name}", nodes)
    nodes.extend(quick.graph.node)
    task = task_named(then.task)
    CONFIDENCE[task.certainty](partial(node, into=nodes), constant, logits, mask)
    node("Less", ["confidence", limit], "unsure", nodes)
    node("NonZero", ["unsure"], "unsure_rows", nodes)
    node("Reshape", ["unsure_rows", flat], "rows", nodes)
    node("Size", ["rows"], "count", nodes)
    node("Cast", ["count"], "any_unsure", nodes, to=TensorProto.BOOL)
    ask: list = []
    node("Gather", [mask, "rows"], "their_mask", ask, axis=0)
    node("Gather", [ids, "rows"], "their_ids", ask, axis=0)
    node("ReduceSum", ["their_mask", one], "lengths", ask, keepdims=0)
    node("ReduceMax", ["lengths"], "longest", ask, keepdims=0)
    node("Reshape", ["longest", flat], "end", ask)
    node("Slice", ["their_ids", zero, "end", one], f"then.{ids}", ask)  # what only the sure rows needed is padding
    node("Slice", ["their_mask", zero, "end", one], f"then.{mask}", ask)
    ask.extend(slow.graph.node)
    node("Unsqueeze", ["rows", one], "places", ask)
    answers, axes = f"then.{output}", [axis for _, axis in sorted(task.output_axes.items())]
    if len(axes) > 1:  # of each token: padding again, as the first model has it
        node("Gather", [logits, "rows"], "their_first_answers", ask, axis=0)
        node("Slice", ["their_first_answers", "end", "whole", one], "their_padding", ask)
        answers = node("Concat", [answers, "their_padding"], "their_answers", ask, axis=1)
    node("ScatterND", [logits, "places", answers], "answers_both", ask)
    shape = [*axes, len(then.labels)]
    float_of = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    yes = helper.make_graph(ask, "unsure", [], [float_of("answers_both")], list(slow.graph.initializer))
    keep: list = []
    node("Identity", [logits], "answers_first", keep)
    no = helper.make_graph(keep, "sure", [], [float_of("answers_first")])
    node("If", ["any_unsure"], output, nodes, then_branch=yes, else_branch=no)
    inputs = [helper.make_tensor_value_info(name, int64, ["batch", "length"]) for name in then.inputs]
    graph = helper.make_graph(nodes, "cascade", inputs, [float_of(output)], [*constants, *quick.graph.initializer])
    opsets = {entry.domain: entry.version for model in (quick, slow) for entry in model.opset_import}
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=max(quick.ir_version, slow.ir_version),
    )
    for entry in (quick, slow):
        if any(opsets[o.domain] != o.version for o in entry.opset_import):
            raise StepError("cascade: the two models were exported for different opsets")
    _share_weights(model.graph)
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out / "model.onnx")
    how = {"task": then.task, "labels": then.labels, "source": then.source, "precision": then.precision}
    finish(out / "model.onnx", **how)
    how = {"threshold": threshold, "first_metric": first_metric}
    if asked is not None:
        how |= {"answered_by_first": 1 - asked[0], "asked": list(asked)}
    return _artifact(first, then, how, out)


def _prefix(graph, prefix: str) -> None:
    """Put a prefix before every name of a graph and its branches. (`onnx.compose.add_prefix` of ONNX 1.23 leaves out
    what a branch reads of the graph around it, where that is an initializer.)"""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = prefix + value.name
    for node in graph.node:
        node.name = node.name and prefix + node.name
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = name and prefix + name  # empty: an optional input that is left out
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _prefix(attribute.g, prefix)


def _share_weights(graph, outer: Mapping[bytes, str] | None = None, renamed: Mapping[str, str] | None = None) -> None:
    """Drop the tensors of a branch that a graph around it has too, which it sees: those of SHARED bytes and more.

    `outer`: names of those tensors, by content; `renamed`: what the tensors that were dropped are called there.
    """
    known, names, own = dict(outer or {}), dict(renamed or {}), []
    for weight in graph.initializer:
        content = repr((weight.data_type, list(weight.dims))).encode() + weight.raw_data
        key = hashlib.sha256(content).digest()
        if len(weight.raw_data) < SHARED or known.setdefault(key, weight.name) == weight.name:
            own.append(weight)
        else:
            names[weight.name] = known[key]
    if len(own) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(own)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _share_weights(attribute.g, known, names)


def _artifact(first: Artifact, then: Artifact, how: dict, out: Path) -> Artifact:
    """artifact.json and tokenizer of a cascade."""
    for file in then.path.iterdir():
        if file.is_file() and file.name not in (*then.files, "artifact.json", "step.json"):
            shutil.copyfile(file, out / file.name)
    details = {key: then.details[key] for key in (MARKED,) if key in then.details}
    details |= {"cascade": {**how, "first": first.details, "then": then.details, "first_source": first.source}}
    return replace(then, path=out, name=f"cascade-{then.name}", files=("model.onnx",), details=details).write()
