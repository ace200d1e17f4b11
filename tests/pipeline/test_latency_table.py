from pathlib import Path

import numpy as np
import pytest
from conftest import TASK, make_checkpoint
from paredown.compress.checkpoint import load, save
from paredown.compress.prune import shape_of
from paredown.compress.settings import Timed
from paredown.compress.structure import cut
from paredown.pipeline.latency_table import Stopwatch


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "modernbert"])
def test_a_model_that_was_cut_before_has_stand_ins_of_every_shape(kind: str, tmp_path: Path) -> None:
    """A second round: the first block has few heads, the last few neurons, and a shape may want both there."""
    source = make_checkpoint(tmp_path / "whole", kind)
    model = load(source, TASK)
    heads, neurons = [2, 4, 3], [64, 32, 16]
    cut(model, [np.arange(n) for n in heads], [np.arange(n) for n in neurons])
    once = save(model, source, tmp_path / "once")
    watch = Stopwatch(once, TASK, [[2, 5, 3]], Timed(), 32)
    assert watch.full == list(zip(heads, neurons, strict=True))
    for number, shapes in enumerate(([(4, 64)] * 3, [(4, 16), (1, 64)], watch.full)):
        stand_in = watch._stand_in(shapes, tmp_path / str(number))
        assert shape_of(load(stand_in, TASK)) == shapes
