"""A manifest that keeps to the schema, and manifests of bundles changed."""

from __future__ import annotations

import json
from pathlib import Path

from paredown.runtime.manifest import write_manifest

EMPTY_FILE = {"sha256": "0" * 64, "bytes": 0}
EXAMPLE = {
    "schema": 3, "name": "a", "version": "1", "task": "t", "answer": "label", "runtime": "r", "precision": "fp32",
    "model": "model/m.onnx",
    "inputs": ["i"], "outputs": ["o"], "labels": ["a", "b"], "max_length": 8, "pad_id": 0, "batch_size": None,
    "length_policy": {"truncate": "right", "pad": "right", "pad_to": "longest"}, "golden": "golden.json",
    "serving": {"instances": 2, "threads": 1, "batch_size": 8, "sorted_by_length": True},
    "requirements": {"numpy": "2"}, "environment": {"numpy": {"version": "2", "bytes": 3}}, "tool": {"paredown": "0"},
    "opset": {"ai.onnx": 17}, "isa": {"needs_one_of": [], "packed_on": ["avx2"]},
    "source": {"checkpoint": "c", "candidate": "x", "details": {}},
    "metric": {"metric": "accuracy", "metric_validation": 1.5, "metric_validation_ci": [1.0, 2.0], "metric_test": None,
               "metric_test_ci": None},
    "packed_on": {}, "files": dict.fromkeys(("model/m.onnx", "golden.json", "tokenizer.json"), EMPTY_FILE),
}  # fmt: skip


def change_manifest(bundle: Path, **values: object) -> None:
    write_manifest(bundle, json.loads((bundle / "manifest.json").read_text()) | values)
