"""The golden check on answers that are made up: what it must refuse whatever the model is."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundling import bundled
from conftest import paredown
from onnx import helper, numpy_helper
from tagging import untrained

from paredown.export.onnx.exporter import plain_onnx
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.formats import FORMATS
from paredown.runtime.manifest import BundleError, write_manifest
from paredown.runtime.selftest import check_golden, largest_tolerance
from paredown.tasks.registry import TASKS

IDS, ANSWER = [2, 5, 3], np.array([[-0.5, 7.0], [-1.0, 5.0], [-0.1, 3.0]])
MANIFEST = {
    "outputs": ["scores"], "labels": ["log-probability", "token"], "golden": "golden.json", "runtime": "onnxruntime",
    "precision": "fp32", "task": "text-generation", "answer": "next_token",
    "model": "model/model.onnx", "inputs": ["input_ids"],
    "generation": {},
}  # fmt: skip


class Tokens:
    """An encoder that knows one text."""

    def ids(self, texts: list[str]) -> list[list[int]]:
        return [IDS for _ in texts]

    def pad(self, rows: list[list[int]]) -> dict[str, np.ndarray]:
        return {"input_ids": np.array(rows)}


class Decodes:
    """A session that says the same of every text, all at once and through its cache."""

    def __init__(self, cached: np.ndarray) -> None:
        self.cached = cached

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"scores": ANSWER[None]}

    def through_the_cache(self, ids: list[int]) -> np.ndarray:
        return self.cached


def write(path: Path, tolerance: float, output: list = ANSWER.tolist(), answer: object = (7, 5, 3)) -> Path:  # noqa: B008
    row = {"text": "a", "input_ids": IDS, "output": output, "answer": list(answer)}  # type: ignore[call-overload]
    golden = {"tolerance": {"onnxruntime": tolerance}, "rows": [row]}
    (path / "golden.json").write_text(json.dumps(golden))
    return path


def test_nan_through_the_cache_is_not_good(tmp_path: Path) -> None:
    write(tmp_path, 1e-3)
    near = ANSWER + np.array([1e-4, 0])
    assert check_golden(tmp_path, MANIFEST, Decodes(near), Tokens()) == pytest.approx(1e-4)  # type: ignore[arg-type]
    for position in range(3):
        cached = ANSWER.copy()
        cached[position, 0] = np.nan
        with pytest.raises(BundleError, match="golden row 0: off by nan"):
            check_golden(tmp_path, MANIFEST, Decodes(cached), Tokens())  # type: ignore[arg-type]


@pytest.mark.parametrize("tolerance", [float("inf"), float("nan"), 1e9, 0.0011, -1e-3])
def test_a_tolerance_that_proves_nothing_is_refused(tolerance: float, tmp_path: Path) -> None:
    write(tmp_path, tolerance)
    with pytest.raises(BundleError, match=r"golden\.json: a tolerance of .* proves nothing; at most 0\.001"):
        check_golden(tmp_path, MANIFEST, Decodes(ANSWER), Tokens())  # type: ignore[arg-type]


def test_the_largest_tolerance_follows_runtime_precision_and_the_unit_of_numbers() -> None:
    for runtime, known in FORMATS.items():
        for precision, most in known.tolerance.items():
            assert largest_tolerance(MANIFEST | {"runtime": runtime, "precision": precision}, []) == most
    numbers = MANIFEST | {"answer": "number"}
    assert largest_tolerance(numbers, [[-50.0], [20.0]]) == pytest.approx(1e-3 * 4 * 50)
    assert largest_tolerance(numbers, [[0.0]]) == 1e-3
    assert largest_tolerance(numbers, [[float("nan")], [1.0, 2.0]]) == pytest.approx(1e-3 * 4 * 2)  # damaged ones too
    writes = {"generation": {"decoder": "model/decoder.onnx"}}
    assert largest_tolerance(MANIFEST | writes, []) == 0
    assert largest_tolerance(MANIFEST | writes | {"precision": "int8-dynamic"}, []) == 0.5


def nan(model: onnx.ModelProto) -> None:
    """Every output is NaN: infinity less infinity."""
    rewired(
        model, [helper.make_node("Div", ["inner", "zero"], ["far"]), helper.make_node("Sub", ["far", "far"], ["out"])]
    )


def shorter(model: onnx.ModelProto) -> None:
    """The last token is left out."""
    rewired(model, [helper.make_node("Slice", ["inner", "start", "end", "axis"], ["out"])])


def rewired(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    (entry,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["inner" if name == entry.name else name for name in node.output]
    for node in nodes:
        node.output[:] = [entry.name if name == "out" else name for name in node.output]
    model.graph.node.extend(nodes)
    numbers = {"start": [0], "end": [-1], "axis": [1]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), k) for k, v in numbers.items())
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))


@pytest.mark.parametrize(("change", "word"), [(nan, "off by nan"), (shorter, "off by inf")])
def test_a_runtime_that_computes_something_else_is_seen_at_every_door(change, word: str, tmp_path: Path) -> None:
    """As with ONNX Runtime on some machines: NaN in place of numbers, or an output of another length."""
    source, task = untrained(tmp_path / "checkpoint"), TASKS["token-classification"]
    plain = plain_onnx(source, task, tmp_path / "plain.onnx")
    artifact = RUNTIMES["onnxruntime"].export(ExportJob(plain, source, task, tmp_path / "made", 32))
    bundle = bundled(artifact, tmp_path / "bundle", ["bob went to paris", "the plot"])
    model = bundle / "model" / "model.onnx"
    graph = onnx.load(model)
    change(graph)
    onnx.save(graph, model)
    manifest = json.loads((bundle / "manifest.json").read_text())
    raw = model.read_bytes()
    manifest["files"]["model/model.onnx"] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    write_manifest(bundle, manifest)
    for door in (("verify",), ("predict", "--text", "bob"), ("serve", "--port", 0)):
        done = paredown(door[0], bundle, *door[1:])
        assert done.returncode == 1, door
        assert "golden row 0: " in done.stderr
        assert word in done.stderr
    alone = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True, check=False)
    assert alone.returncode == 1
    assert alone.stderr.startswith("FAILED: golden row 0: ")
