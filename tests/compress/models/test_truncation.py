"""A model that reads the first and the last tokens of a row, wherever it runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, TASK, make_checkpoint

from paredown.compress.attribution import integrated_gradients, rollout
from paredown.compress.config import Prune, Static
from paredown.compress.models.architectures import FAMILIES
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save, with_new_head
from paredown.compress.models.truncation import truncate
from paredown.compress.pruning.prune import prune
from paredown.export.onnx.cascade import combined, join
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.pipeline.inputs import StageInputs
from paredown.pipeline.steps import stages
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import collate
from paredown.tasks.registry import TASKS
from paredown.tasks.rows import Rows

ROWS = [[2, 6, 3], [2, *range(5, 12), 3], [2, *range(4, 24), 3], [2, 9, 8, 7, 6, 5, 4, 3]]
FIRST, LAST = 5, 3
READ = [ROWS[0], [2, 5, 6, 7, 8, 10, 11, 3], [2, 4, 5, 6, 7, 22, 23, 3], ROWS[3]]


def truncated(checkpoint: Checkpoint, out: Path) -> Checkpoint:
    model = load(checkpoint, TASK)
    truncate(model, FIRST, LAST)
    return save(model, checkpoint, out)


@pytest.mark.parametrize("kind", [kind for kind, of in FAMILIES.items() if kind != "vit" and not of.decoder])
def test_a_long_row_is_its_ends_and_a_short_one_itself(kind: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "whole", kind)
    ours = truncated(checkpoint, tmp_path / "ours")
    assert [list(row) for row in ours.read(ROWS)] == READ
    assert checkpoint.read(ROWS) == ROWS
    found = forward(load(ours, TASK), collate(ROWS, ours.pad_id))["logits"]
    wanted = np.concatenate([forward(load(checkpoint, TASK), collate([row], ours.pad_id))["logits"] for row in READ])
    assert np.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("runtime", "precision"), [("onnxruntime", "fp32"), ("onnxruntime", "int8-dynamic"), ("openvino", "fp32")]
)
def test_so_does_what_is_exported_in_batches_of_any_length(runtime: str, precision: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "whole")
    ours = truncated(checkpoint, tmp_path / "ours")
    found = {}
    for name, source in (("ours", ours), ("whole", checkpoint)):
        plain = plain_onnx(source, TASK, tmp_path / f"{name}.onnx")
        job = ExportJob(plain, source, TASK, tmp_path / f"{name}-out", 64, precision, [collate(ROWS[:1], 0)])
        found[name] = open_artifact(RUNTIMES[runtime].export(job), 1)
    for batch in (ROWS, ROWS[:1], ROWS[2:3]):
        wanted = found["whole"](collate(ours.read(batch), 0))["logits"]
        assert np.allclose(
            found["ours"](collate(batch, 0))["logits"], wanted, atol=1e-4 if precision == "fp32" else 0.1
        )


def test_in_a_cascade_each_model_reads_its_own_part_of_a_row(tmp_path: Path) -> None:
    checkpoints = {
        "first": truncated(make_checkpoint(tmp_path / "one", seed=1), tmp_path / "ours"),
        "then": make_checkpoint(tmp_path / "whole"),
    }
    made = {
        name: RUNTIMES["onnxruntime"].export(
            ExportJob(plain_onnx(source, TASK, tmp_path / f"{name}.onnx"), source, TASK, tmp_path / name, 64)
        )
        for name, source in checkpoints.items()
    }
    batch = collate(ROWS, 0)
    first, then = (open_artifact(artifact, 1)(batch)["logits"] for artifact in made.values())
    sure = TASK.confidence(first, [])
    for threshold in (float(np.median(sure)), 2.0, 0.0):
        joined = open_artifact(join(made["first"], made["then"], threshold, tmp_path / f"at-{threshold}"), 1)
        assert np.allclose(joined(batch)["logits"], combined(first, then, sure >= threshold), atol=1e-4)


def test_it_stays_truncated_when_it_is_pruned(tmp_path: Path) -> None:
    ours = truncated(make_checkpoint(tmp_path / "whole"), tmp_path / "ours")
    model = load(ours, TASK)
    prune(model, [collate(ours.read(ROWS), 0)], Prune(heads=0.5, ffn=0.5))
    small = save(model, ours, tmp_path / "small")
    assert small.truncation == (FIRST, LAST)
    whole, read = (forward(load(small, TASK), collate([row], 0))["logits"] for row in (ROWS[2], READ[2]))
    assert np.allclose(whole, read, atol=1e-5)


def test_tokens_that_are_not_read_have_no_attribution(tmp_path: Path) -> None:
    model = load(truncated(make_checkpoint(tmp_path / "whole"), tmp_path / "ours"), TASK)
    for values in (integrated_gradients(model, ROWS[2], 1, 0), rollout(model, ROWS[2])):
        assert values is not None
        assert len(values) == len(ROWS[2])
        assert np.flatnonzero(np.isnan(values)).tolist() == list(range(FIRST, len(ROWS[2]) - LAST))


@pytest.mark.parametrize(
    "window", [True, "longest", [64], [64, 64, 3], [64.0, 64.0], ["64", "64"], [-5, 10], [0, 0], {}]
)
def test_a_config_with_another_window_is_refused(window: object, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "whole").path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncate": window}))
    with pytest.raises(InputError, match=r"config\.json: 'truncate' is .*; two positive whole numbers are expected"):
        open_checkpoint(path.parent)


def test_models_of_other_tasks_are_not_truncated(tmp_path: Path) -> None:
    ours = truncated(make_checkpoint(tmp_path / "whole"), tmp_path / "ours")
    with pytest.raises(InputError, match="truncate is not supported for token-classification"):
        with_new_head(ours, TASKS["token-classification"], ("O", "B-X"), 0)


def test_students_of_a_truncated_model_read_as_much(tmp_path: Path) -> None:
    ours = truncated(make_checkpoint(tmp_path / "whole"), tmp_path / "ours")
    rows = Rows("rows", tuple("good film " * n for n in (2, 3, 9, 12)), np.array([0, 1, 0, 1]), LABELS)
    inputs = StageInputs(TASK, ours, LABELS, rows, None, None, 64, 0)
    stages.distill(inputs, Static(width=4, epochs=1), ours, tmp_path / "static", lambda *_: None)
    static = open_checkpoint(tmp_path / "static", TASK)
    assert static.truncation == (FIRST, LAST)
    whole, read = (forward(load(static, TASK), collate([row], 0))["logits"] for row in (ROWS[2], READ[2]))
    assert np.allclose(whole, read, atol=1e-6)
