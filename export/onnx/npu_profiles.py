"""What a compiler of an NPU takes, from npu_profiles.yaml, and whether a graph keeps to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from paredown.runtime.errors import InputError

if TYPE_CHECKING:
    from onnx import ModelProto

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
    symmetric: bool  # activations have zero point 0
    types: Mapping[int, Sequence[str]]  # of activations and weights
    unverified: str
    operators: Mapping[int, Sequence[str]]

    def check(self, model: ModelProto, bits: int) -> None:
        """InputError where a node is no operator of the profile, or the opset is another."""
        found: dict[str, list[str]] = {}
        for node in model.graph.node:
            kind = f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            if kind not in self.operators[bits]:
                found.setdefault(kind, []).append(node.name or node.output[0])
        if found:
            raise InputError(
                f"layout npu: profile {self.name} has no {'; no '.join(f'{k} ({_some(v)})' for k, v in found.items())} "
                f"with {bits}-bit activations ({self.source}); take another profile or another candidate"
                + (", or --embedding outside" if "Gather" in found else "")
            )
        opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if opset != self.opset:
            raise InputError(f"layout npu: the graph has opset {opset}, profile {self.name} has {self.opset}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


@cache
def profiles() -> dict[str, Profile]:
    """All of the file, by name."""
    found = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: Profile(name, **entry) for name, entry in found.items()}
