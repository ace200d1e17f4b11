import math

import numpy as np
import pytest

from paredown.compress.training.batches import IDLE, Batches, Rows

LENGTHS = [3 + i % 7 for i in range(33)]


@pytest.mark.parametrize(("micro", "count"), [(16, 1), (3, 1), (8, 2), (3, 2), (1, 3), (6, 3)])
def test_the_parts_of_all_processes_are_the_batches_of_one(micro: int, count: int) -> None:
    """Each row once, the last batch with its single row too; nobody computes more than `micro` rows at a time."""
    alone = Batches(LENGTHS, 16, 16, seed=5)
    for _ in range(2):  # epochs, whose orders differ
        whole = list(alone)
        assert [len(batch) for batch in whole] == [16, 16, 1]
        assert sorted(row for batch in whole for row in batch) == list(range(33))
    several = [list(Batches(LENGTHS, 16, micro, seed=5, rank=rank, count=count)) for rank in range(count)]
    turns = math.ceil(16 / (micro * count))
    first = list(Batches(LENGTHS, 16, 16, seed=5))
    for parts in several:
        assert len(parts) == len(Batches(LENGTHS, 16, micro, seed=5, count=count)) == 2 * turns + 1
        assert all(1 <= len(part) <= micro for part in parts)
    for number, batch in enumerate(first):
        mine = [parts[number * turns : (number + 1) * turns] for parts in several]
        assert sorted(row for parts in mine for part in parts for row in part if row >= 0) == sorted(batch)


def test_a_row_that_does_not_count_says_so() -> None:
    rows = Rows([{"input_ids": [2, 3]}, {"input_ids": [2, 5, 3]}])
    last = [list(Batches([2, 3], 2, 1, seed=0, rank=rank, count=4)) for rank in range(4)]
    assert sorted(row >= 0 for parts in last for part in parts for row in part) == [False, False, True, True]
    assert rows[~1] == {"input_ids": [2, 5, 3], IDLE: True}
    assert rows[1] == {"input_ids": [2, 5, 3]}
    assert np.all([len(parts) == 1 for parts in last])
