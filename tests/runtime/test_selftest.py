"""The golden check on answers that are made up: what it must refuse whatever the model is."""

import json
from pathlib import Path

import numpy as np
import pytest

from paredown.runtime.manifest import BundleError
from paredown.runtime.selftest import GOLDEN_TOLERANCE, check_golden, largest_tolerance

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
    for runtime, precisions in GOLDEN_TOLERANCE.items():
        for precision, most in precisions.items():
            assert largest_tolerance(MANIFEST | {"runtime": runtime, "precision": precision}, []) == most
    numbers = MANIFEST | {"answer": "number"}
    assert largest_tolerance(numbers, [[-50.0], [20.0]]) == pytest.approx(1e-3 * 4 * 50)
    assert largest_tolerance(numbers, [[0.0]]) == 1e-3
    assert largest_tolerance(numbers, [[float("nan")], [1.0, 2.0]]) == pytest.approx(1e-3 * 4 * 2)  # damaged ones too
    writes = {"generation": {"decoder": "model/decoder.onnx"}}
    assert largest_tolerance(MANIFEST | writes, []) == 0
    assert largest_tolerance(MANIFEST | writes | {"precision": "int8-dynamic"}, []) == 0.5
