import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paredown.export.bundle.drift_reference import count, describe, ks, psi, quantities
from paredown.runtime.selftest import open_encoder

UNKNOWN = 1


def rows(count: int, seed: int, longest: int = 12, first: int = 4) -> tuple[list[list[int]], np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = [[2, *rng.integers(first, first + 20, rng.integers(1, longest)).tolist(), 3] for _ in range(count)]
    probabilities = rng.dirichlet([2, 2], count)
    return ids, probabilities


def again(reference: dict, ids: list, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    edges = {name: list(q.edges) for name, q in quantities(reference).items() if q.edges is not None}
    return count(ids, probabilities, reference["unknown"], reference["words"], edges)


def test_counting_the_same_rows_again_gives_the_reference() -> None:
    ids, probabilities = rows(300, 0)
    reference = json.loads(json.dumps(describe(ids, probabilities, UNKNOWN)))
    found = again(reference, ids, probabilities)
    for name, quantity in quantities(reference).items():
        np.testing.assert_array_equal(found[name], quantity.counts)
        assert psi(quantity.counts, found[name]) == 0
        assert ks(quantity.counts, found[name]) == 0
    for name in ("length", "unknown_share", "confidence", "label"):
        assert found[name].sum() == 300
    assert found["vocabulary"].sum() == sum(map(len, ids))


def test_other_rows_of_the_kind_are_no_drift_and_rows_of_another_kind_are() -> None:
    reference = describe(*rows(500, 0), UNKNOWN)
    expected = quantities(reference)
    for seed in range(1, 9):
        found = again(reference, *rows(300, seed))
        assert all(psi(q.counts, found[name]) < 0.05 for name, q in expected.items())
    longer = again(reference, *rows(300, 9, longest=30))
    assert psi(expected["length"].counts, longer["length"]) > 0.2
    assert ks(expected["length"].counts, longer["length"]) > 0.2
    others = again(reference, *rows(300, 9, first=14))
    assert psi(expected["vocabulary"].counts, others["vocabulary"]) > 0.2
    ids, probabilities = rows(300, 9)
    strange = again(reference, [[UNKNOWN] * len(row) for row in ids], probabilities)
    assert ks(expected["unknown_share"].counts, strange["unknown_share"]) == 1


def test_psi_and_ks_by_hand() -> None:
    p, q = np.array([5000, 5000]), np.array([7500, 2500])
    assert psi(p, q) == pytest.approx(0.25 * math.log(3), abs=1e-3)  # (0.75 - 0.5) ln 1.5 + (0.25 - 0.5) ln 0.5
    assert ks(p, q) == pytest.approx(0.25)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=9), st.data())
def test_they_are_bounded_and_symmetric(first: list[int], data: st.DataObject) -> None:
    second = data.draw(st.lists(st.integers(0, 1000), min_size=len(first), max_size=len(first)))
    p, q = np.array(first), np.array(second)
    assert psi(p, q) >= 0
    assert psi(p, q) == pytest.approx(psi(q, p))
    assert 0 <= ks(p, q) <= 1 + 1e-9


def test_a_bundle_carries_it(finished) -> None:
    manifest = json.loads((finished / "bundle" / "manifest.json").read_text())
    assert "reference.json" in manifest["files"]
    reference = json.loads((finished / "bundle" / "reference.json").read_text())
    assert reference["rows"] == 200
    encoder = open_encoder(finished / "bundle", manifest)
    assert reference["unknown"] == encoder.tokenizer.token_to_id("[UNK]")
