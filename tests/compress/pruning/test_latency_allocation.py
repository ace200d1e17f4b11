import itertools

import numpy as np
import pytest

from paredown.compress.pruning.latency_allocation import (
    Damage,
    LatencyTable,
    allocate,
    allocate_even,
    grid,
    least_ms,
    reachable,
)
from paredown.runtime.errors import InputError

TABLE = LatencyTable("onnxruntime", "fp32", 1, 1.0, {1: 0.5, 2: 1.0, 4: 2.0}, {16: 0.4, 32: 0.8, 64: 1.6})
FULL = [(4, 64)] * 3


def random_damage(seed: int) -> list[Damage]:
    rng = np.random.default_rng(seed)
    return [
        Damage(
            {h: float(x) for h, x in zip((4, 2, 1), np.sort(rng.random(3)), strict=True)},
            {f: float(x) for f, x in zip((64, 32, 16), np.sort(rng.random(3)), strict=True)},
            float(rng.random() * 4),
        )
        for _ in range(3)
    ]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("budget", [2.5, 5.0, 8.0])
def test_nothing_within_the_budget_does_less_damage(seed: int, budget: float) -> None:
    """Against every combination, tried one by one."""
    damage = random_damage(seed)

    def cost(shapes) -> float:
        return sum(d.without if s is None else d.heads[s[0]] + d.ffn[s[1]] for d, s in zip(damage, shapes, strict=True))

    options = [None, *itertools.product((4, 2, 1), (64, 32, 16))]
    least = min(
        cost(shapes)
        for shapes in itertools.product(options, repeat=3)
        if any(shapes) and TABLE.predict([s for s in shapes if s]) <= budget
    )
    found = allocate(TABLE, damage, budget)
    assert TABLE.predict([s for s in found if s]) <= budget
    assert cost(found) <= least + 0.02  # time is rounded up to a two-thousandth of the budget


def test_even_shapes_are_even_and_fit() -> None:
    found = allocate_even(TABLE, random_damage(1), 6.0, 4)
    shapes = {shape for shape in found if shape}
    assert len(shapes) == 1
    assert TABLE.predict([s for s in found if s]) <= 6.0


def test_what_cannot_be_reached_says_what_can() -> None:
    with pytest.raises(
        InputError, match=r"0\.50 ms \(23\.6x\) cannot be reached.*1\.90 ms \(6\.2x faster than 11\.80 ms\)"
    ):
        reachable(TABLE, TABLE.predict(FULL), least_ms(TABLE, (4, 2, 1), (64, 16)), 0.5)
    reachable(TABLE, TABLE.predict(FULL), least_ms(TABLE, (4, 2, 1), (64, 16)), 2.0)
    with pytest.raises(InputError, match="cannot be reached"):
        reachable(TABLE, TABLE.predict(FULL), least_ms(TABLE, [4], (64, 16)), 2.0)


def test_a_table_reads_back_and_interpolates() -> None:
    again = LatencyTable.from_json(TABLE.to_json())
    assert again == TABLE
    assert again.predict([(3, 48)]) == pytest.approx(1.0 + 1.5 + 1.2)


def test_a_table_agrees_with_what_was_measured() -> None:
    layers = [(2, 32), (4, 16)]
    agreed = TABLE.agreeing(FULL, layers, 0.8)
    assert agreed.predict(FULL) == pytest.approx(TABLE.predict(FULL))
    assert agreed.predict(layers) == pytest.approx(0.8 * TABLE.predict(FULL))
    assert TABLE.agreeing(FULL, FULL, 1.1) == TABLE  # noise on the unpruned model says nothing


def test_the_grid_snaps_and_holds_the_full_size() -> None:
    widths = grid(1536, 64)
    assert widths[0] == 1536
    assert all(width % 64 == 0 for width in widths)
    assert grid(12)[-1] == 1
    assert grid(20, 64) == [20]
