from collections.abc import Sequence

import pytest
from onnx import helper

from paredown.compress.quantization.sensitivity import MOST_GROUPS, groups_of, left_in_float


def nodes(*named: str):
    return [helper.make_node(kind, [], [], name=name) for name, kind in (entry.split("=") for entry in named)]


def test_groups_are_layers_by_part() -> None:
    found = groups_of(
        nodes(
            "EmbedLayerNormalization_0=EmbedLayerNormalization",
            "Attention_0=Attention",
            "/model/bert/encoder/layer.0/attention/output/dense/MatMul=MatMul",
            "/model/bert/encoder/layer.0/intermediate/dense/MatMul=MatMul",
            "/model/bert/encoder/layer.0/output/dense/MatMul=MatMul",
            "Attention_1=Attention",
            "/model/bert/encoder/layer.1/attention/output/dense/MatMul=MatMul",
            "/model/bert/encoder/layer.1/output/dense/MatMul=MatMul",
            "/model/bert/pooler/dense/Gemm=Gemm",
            "/model/classifier/Gemm=Gemm",
        )
    )
    assert [len(group) for group in found] == [1, 2, 2, 2, 1, 2]
    assert found[3] == ["Attention_1", "/model/bert/encoder/layer.1/attention/output/dense/MatMul"]
    assert found[-1] == ["/model/bert/pooler/dense/Gemm", "/model/classifier/Gemm"]


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (["/m/layers.0/attn/Wqkv/MatMul", "/m/layers.0/mlp/Wi/MatMul", "/m/layers.1/attn/Wqkv/MatMul"], [1, 1, 1]),
        (["/d/transformer/layer.0/attention/q_lin/MatMul", "/d/transformer/layer.0/ffn/lin1/MatMul"], [1, 1]),
        (["/t/block.0/layer.0/SelfAttention/q/MatMul", "/t/block.0/layer.1/DenseReluDense/wi/MatMul"], [1, 1]),
        (["/r/encoder/stages.0/layers.0/conv/Conv", "/r/encoder/stages.0/layers.1/conv/Conv"], [1, 1]),
        (["/v/embeddings/patch_embeddings/projection/Conv", "/v/classifier/Gemm"], [1, 1]),
        ([f"/m/layer.{i}/attention/MatMul" for i in range(80)], [3] * 26 + [2]),
    ],
)
def test_groups_of_other_architectures(names: list[str], sizes: list[int]) -> None:
    found = groups_of(nodes(*(f"{name}={name.rpartition('/')[2]}" for name in names)))
    assert [len(group) for group in found] == sizes
    assert len(found) <= MOST_GROUPS


GROUPS = [[f"{group}{i}" for i in range(4)] for group in "abcdefgh"]


class Bench:
    """Products with a harm each, which add up; INT8 may do `most` of it."""

    def __init__(self, harms: dict[str, float], most: float) -> None:
        self.harms, self.most, self.alone, self.asked = harms, most, 0, 0

    def harm(self, names: Sequence[str]) -> float:
        self.alone += 1
        return sum(self.harms.get(name, 0.01) for name in names)

    def affordable(self, names: Sequence[str]) -> bool:
        self.asked += 1
        every = [name for group in GROUPS for name in group]
        return sum(self.harms.get(name, 0.01) for name in every if name not in names) <= self.most

    def left(self, most: int = 16) -> set[str]:
        return set(left_in_float(GROUPS, self.harm, self.affordable, most))


def test_one_product_that_hurts_goes_back_alone() -> None:
    bench = Bench({"c2": 5.0}, 1.0)
    assert bench.left() == {"c2"}
    assert bench.alone == len(GROUPS) + 4
    assert bench.asked <= 1 + 3 + 2  # log2 of 8 groups, and of 4 products


def test_products_of_several_groups_go_back() -> None:
    bench = Bench({"c2": 5.0, "c3": 5.0, "f0": 4.0, "a1": 3.0}, 1.0)
    assert bench.left() == {"c2", "c3", *GROUPS[0], *GROUPS[5]}  # only the worst group is refined
    assert bench.asked <= 1 + 3 + 2


def test_what_half_of_the_products_do_not_mend_is_said_by_those_that_hurt_most() -> None:
    bench = Bench({name: 1.0 for group in GROUPS for name in group} | {"h1": 2.0}, 1.0)
    left = bench.left()
    assert len(left) == 16
    assert "h1" in left
    assert bench.asked == 1


def test_groups_larger_than_half_are_taken_apart() -> None:
    assert left_in_float([["a", "b", "c"]], lambda names: float("b" in names), lambda names: "b" in names, 1) == ["b"]
    assert left_in_float([["a"]], lambda names: 1.0, lambda names: True, 0) == []
