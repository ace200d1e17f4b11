"""What a compiler of an NPU takes, from npu_profiles.yaml, and whether a graph keeps to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from paredown.compress.quantization.qdq import onnx_opset
from paredown.runtime.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

FILE = Path(__file__).with_name("npu_profiles.yaml")
SHOWN = 3  # nodes that an error names of each operator


@dataclass(frozen=True)
class Profile:
    """An entry of the file, with its name. Mappings are by the bits of the activations."""

    name: str
    title: str
    source: str  # address of the page that the operators are from
    version: str  # of what the page is about
    opset: int  # of ONNX, which graphs are written in
    opset_reason: str
    qualcomm: bool  # quantised as QNN wants it (compress/quantization/qdq.py)
    symmetric: bool  # activations have zero point 0
    types: Mapping[int, Sequence[str]]  # of activations and weights
    unverified: str
    operators: Mapping[int, Sequence[str]]

    def check(self, model: ModelProto, bits: int, *, outside_helps: bool = False) -> None:
        """InputError where a node is no operator of the profile, or the opset is another. `outside_helps`: with the
        embeddings looked up outside there is no Gather."""
        kinds: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            kind = f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            kinds.setdefault(kind, []).append(node)
        if missing := {kind: nodes for kind, nodes in kinds.items() if kind not in self.operators[bits]}:
            advice = [f"--activations {one}" for one, known in self.operators.items() if kinds.keys() <= set(known)]
            if outside_helps and _read_inputs(model, missing):
                advice.append("--embedding outside")
            others = [
                name
                for name, profile in profiles().items()
                if name != self.name and any(missing.keys() <= set(known) for known in profile.operators.values())
            ]
            if others:
                advice.append(f"--profile {' or '.join(others)}")
            named = ", ".join(f"{kind} ({_some(nodes)})" for kind, nodes in missing.items())
            raise InputError(
                f"layout npu: profile {self.name} does not support {named} with {bits}-bit activations "
                f"({self.source}); take {', '.join([*advice, ''])}{'or ' if advice else ''}another candidate"
            )
        opset = onnx_opset(model).version
        if opset != self.opset:
            raise InputError(f"layout npu: the graph has opset {opset}, profile {self.name} has {self.opset}")


def _read_inputs(model: ModelProto, missing: Mapping[str, Sequence[NodeProto]]) -> bool:
    """Whether all are lookups and casts of the graph's inputs, which outside are float32 and looked up."""
    inputs = {entry.name for entry in model.graph.input}
    return missing.keys() <= {"Gather", "Cast"} and all(
        inputs.intersection(node.input) for nodes in missing.values() for node in nodes
    )


def _some(nodes: Sequence[NodeProto]) -> str:
    more = f" and {len(nodes) - SHOWN} more" if len(nodes) > SHOWN else ""
    return f"{', '.join(node.name or node.output[0] for node in nodes[:SHOWN])}{more}"


@cache
def profiles() -> dict[str, Profile]:
    """All of the file, by name."""
    found = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: Profile(name, **entry) for name, entry in found.items()}
