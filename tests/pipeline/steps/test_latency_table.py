from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TASK, make_checkpoint

from paredown.compress.config import Prune, Timed
from paredown.compress.models.loading import Checkpoint, load, save
from paredown.compress.models.structure import cut
from paredown.compress.pruning.latency_allocation import LatencyTable
from paredown.compress.pruning.prune import shape_of
from paredown.pipeline.steps import latency_table
from paredown.pipeline.steps.latency_table import Stopwatch
from paredown.runtime.errors import InputError


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


@pytest.mark.parametrize(
    ("cuts", "words"),
    [
        ([(Prune(speedup=4), 3)], None),
        ([(Prune(speedup=5.5), 3)], r"4\.73 ms \(5\.5x\).*5\.00 ms \(5\.2x faster than 26\.00 ms\)"),
        ([(Prune(speedup=4), 1)], r"10\.00 ms\)"),  # one layer is left, and takes 10 ms
        ([(Prune(speedup=2), 3), (Prune(speedup=2), 3)], None),
        ([(Prune(speedup=2), 3), (Prune(speedup=3), 3)], r"2\.6x faster than 13\.00 ms"),
        ([(Prune(latency_ms=12), 3), (Prune(speedup=3), 3)], r"2\.4x faster than 12\.00 ms"),
        ([(Prune(speedup=4, multiple=64), 3)], r"7\.00 ms"),
    ],
)
def test_what_no_cut_can_reach_is_known_from_the_table(
    cuts: list, words: str | None, teacher: Checkpoint, files: dict
) -> None:
    # a head takes 1 ms, 16 neurons 1 ms, the rest 2 ms; the smallest shape has one head and 32 neurons
    table = LatencyTable("onnxruntime", "fp32", 1, 2.0, {n: float(n) for n in range(1, 5)}, {32: 2.0, 64: 4.0})
    watch = Stopwatch(teacher, TASK, [[2, 5, 3]], Timed(), 32)
    with nullcontext() if words is None else pytest.raises(InputError, match=words):
        watch.check(table, cuts)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_a_stand_in_knows_only_the_tokens_of_its_rows_and_answers_them_as_the_checkpoint_does(
    kind: str, tmp_path: Path
) -> None:
    source = make_checkpoint(tmp_path / "whole", kind)
    rows = [[2, 7, 3], [2, 9, 11, 3]]
    watch = Stopwatch(source, TASK, rows, Timed(), 32)
    stand_in = watch._stand_in(watch.full, tmp_path / "stand-in")
    assert stand_in.config["vocab_size"] < source.config["vocab_size"]
    assert [len(row) for row in watch._known] == [3, 4]
    for row, known in zip(rows, watch._known, strict=True):
        wanted, found = (
            load(model, TASK)(torch.tensor([ids])).logits for model, ids in ((source, row), (stand_in, known))
        )
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"heads_ms": {}}', '{"heads_ms": {}, "ffn_ms": {}, "base_ms": 1}', "0.5"]
)
def test_a_damaged_memory_is_measured_again(
    damage: str, teacher: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    watch = Stopwatch(teacher, TASK, [[2, 5, 3]], Timed(), 32)
    table = LatencyTable("onnxruntime", "fp32", 1, 2.0, {1: 1.0}, {32: 2.0})

    def remembered(measured):
        return watch._remembered("table", measured, LatencyTable.from_json)

    assert remembered(table.to_json) == table
    memory = next((tmp_path / "paredown").iterdir())
    whole = memory.read_text()
    memory.write_text(damage)
    assert remembered(table.to_json) == table
    assert memory.read_text() == whole
    assert remembered(dict) == table  # from the memory: an empty table is nothing that can be read


def test_a_share_of_time_that_is_remembered_is_a_number_above_zero() -> None:
    assert latency_table._share(0.5) == 0.5
    for damaged in (0.0, -1.0, float("nan"), "0.5", None, True, [0.5]):
        with pytest.raises(ValueError, match="not a share"):
            latency_table._share(damaged)
