import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import tagging
import torch
from conftest import LABELS, TASK, make_checkpoint

from paredown.benchmarks.statistics.thresholds import threshold_for
from paredown.compress.config import Static
from paredown.compress.data import dataset
from paredown.compress.distillation.static_student import initial_student, static_student
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.types import TrainingData
from paredown.export.artifact import Artifact
from paredown.export.onnx.cascade import combined, join
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import run_rows
from paredown.tasks.registry import TASKS


@pytest.fixture(scope="module")
def both(teacher: Checkpoint, files: dict, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """A static student and its teacher, exported."""
    home = tmp_path_factory.mktemp("cascade")
    ids = teacher.encoder().ids(dataset.read(str(files["train"]), names=LABELS).texts)
    student = static_student(load(teacher, TASK), TrainingData(ids), Static(width=8, epochs=6, learning_rate=0.02))
    static = save(student, teacher, home / "static-checkpoint")
    return tuple(
        RUNTIMES["onnxruntime"].export(ExportJob(plain_onnx(c, TASK, home / f"{name}.onnx"), c, TASK, home / name, 32))
        for name, c in (("static", static), ("teacher", teacher))
    )  # type: ignore[return-value]


def logits(artifact: Artifact, ids: list[list[int]], batch_size: int = 8) -> np.ndarray:
    return run_rows(open_artifact(artifact, 1), ids, 0, "logits", batch_size=batch_size)


def confidence(outputs: np.ndarray) -> np.ndarray:
    return TASK.confidence(outputs, [1] * len(outputs))


@pytest.mark.parametrize("batch_size", [1, 8])
def test_every_row_is_answered_by_the_model_that_it_belongs_to(both, files: dict, batch_size: int, tmp_path) -> None:
    first, then = both
    ids = first.encoder().ids(dataset.read(str(files["validation"]), names=LABELS).texts)
    quick, slow = logits(first, ids), logits(then, ids)
    threshold = float(np.median(confidence(quick)))
    joined = join(first, then, threshold, tmp_path / "joined")
    onnx.checker.check_model(onnx.load(joined.path / "model.onnx"))
    want = combined(quick, slow, confidence(quick) >= threshold)
    np.testing.assert_allclose(logits(joined, ids, batch_size), want, atol=1e-4)
    asked = confidence(quick) < threshold
    assert 0.3 < asked.mean() < 0.7
    np.testing.assert_allclose(want[asked], slow[asked])


def checkpoint_of(task: str, path: Path) -> Checkpoint:
    """An untrained one."""
    if task == "token-classification":
        return tagging.untrained(path)
    made = make_checkpoint(path)
    config = json.loads((path / "config.json").read_text()) | {"problem_type": "multi_label_classification"}
    (path / "config.json").write_text(json.dumps(config))
    return open_checkpoint(made.path, TASKS[task])


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("name", ["token-classification", "multi-label-classification"])
def test_tags_and_several_labels_are_answered_where_all_of_them_are_sure(
    name: str, batch_size: int, tmp_path: Path
) -> None:
    task, source = TASKS[name], checkpoint_of(name, tmp_path / "source")
    settings = Static(width=8, pairs=64, convolution=3, convolution_layers=2, max_pooling=True)
    student = initial_student(load(source, task), settings, seed=0)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter)
    static = save(student, source, tmp_path / "static-checkpoint")
    first, then = (
        RUNTIMES["onnxruntime"].export(
            ExportJob(plain_onnx(c, task, tmp_path / f"{kind}.onnx"), c, task, tmp_path / kind, 32)
        )
        for kind, c in (("static", static), ("teacher", source))
    )
    rng = np.random.default_rng(0)
    lengths = [5, 11, 3, 7, 22, 9, 4, 2]
    ids = [[2, *rng.integers(4, source.config["vocab_size"], length - 2).tolist(), 3] for length in lengths]
    quick, slow = (logits(artifact, ids, 1) for artifact in (first, then))
    sure = task.confidence(quick, lengths)
    assert sure.shape == (8,)
    assert sure[-1] == 1.0 or not task.per_token  # a text without words
    for threshold in (float(np.median(sure)), 2.0, 0.0):
        joined = join(first, then, threshold, tmp_path / f"at-{threshold}")
        onnx.checker.check_model(onnx.load(joined.path / "model.onnx"))
        rows = sure >= threshold
        want = combined(quick, slow, np.repeat(rows, lengths) if task.per_token else rows)
        np.testing.assert_allclose(logits(joined, ids, batch_size), want, atol=1e-4)
    behind = join(then, then, 2.0, tmp_path / "behind")
    three = join(first, behind, float(np.median(sure)), tmp_path / "three")
    rows = sure >= np.median(sure)
    want = combined(quick, slow, np.repeat(rows, lengths) if task.per_token else rows)
    np.testing.assert_allclose(logits(three, ids, batch_size), want, atol=1e-4)


@pytest.mark.parametrize(("threshold", "who"), [(0.0, 0), (2.0, 1)])
def test_the_ends_of_the_threshold(both, threshold: float, who: int, tmp_path) -> None:
    ids = [[2, 5, 11, 3], [2, 6, 12, 13, 3]]
    joined = join(both[0], both[1], threshold, tmp_path / "joined")
    np.testing.assert_allclose(logits(joined, ids), logits(both[who], ids), atol=1e-5)


def test_models_that_cut_text_differently_are_not_joined(both, tmp_path) -> None:
    first, then = both
    other = replace(first, path=shutil.copytree(first.path, tmp_path / "other"))
    (other.path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="different tokenizers; trim both or neither"):
        join(other, then, 0.5, tmp_path / "joined")
    with pytest.raises(InputError, match="different labels"):
        join(replace(first, labels=("a", "b")), then, 0.5, tmp_path / "joined")


@pytest.mark.parametrize("precision", ["fp32", "int8-dynamic"])
def test_a_cascade_of_three_answers_each_row_by_the_model_that_it_belongs_to(
    both, teacher: Checkpoint, files: dict, tmp_path: Path, precision: str
) -> None:
    """The second and the third are the same weights here, which the file has once."""
    first, plain = both[0], plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    then = RUNTIMES["onnxruntime"].export(ExportJob(plain, teacher, TASK, tmp_path / "then", 32, precision))
    ids = first.encoder().ids(dataset.read(str(files["validation"]), names=LABELS).texts)
    quick, slow = logits(first, ids, 1), logits(then, ids, 1)
    outer, inner = (float(np.median(confidence(answers))) for answers in (quick, slow))
    behind = join(then, then, inner, tmp_path / "behind", asked=[0.5])
    assert behind.size_mb() < 1.7 * then.size_mb()
    joined = join(first, behind, outer, tmp_path / "joined", asked=[0.5, 0.2])
    onnx.checker.check_model(onnx.load(joined.path / "model.onnx"))
    np.testing.assert_allclose(logits(joined, ids, 1), combined(quick, slow, confidence(quick) >= outer), atol=1e-4)
    rounding = 1e-4 if precision == "fp32" else 0.1  # dynamic INT8 rounds by what else is in the batch
    np.testing.assert_allclose(logits(joined, ids, 8), combined(quick, slow, confidence(quick) >= outer), atol=rounding)
    details = joined.details["cascade"]
    assert (details["answered_by_first"], details["asked"]) == (0.5, [0.5, 0.2])
    assert details["then"]["cascade"]["threshold"] == inner
    shifted = join(joined, then, 2.0, tmp_path / "never")  # whose first model is a cascade: the second answers all
    np.testing.assert_allclose(logits(shifted, ids, 1), slow, atol=1e-4)


def test_a_cascade_scores_as_forward_does_with_both(both, teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    rows = dataset.read(str(files["validation"]), names=LABELS)
    ids = teacher.encoder().ids(rows.texts)
    theirs = run_rows(partial(forward, load(teacher, TASK)), ids, 0, "logits")
    quick = logits(both[0], ids)
    first, then = (TASK.correct(answers, rows.gold) for answers in (quick, theirs))
    threshold = threshold_for(confidence(quick), first, then, TASK.regrets(list(quick), list(theirs)), 0.5)
    joined = join(both[0], both[1], threshold, tmp_path / "joined")
    drop = TASK.metric(theirs, rows.gold) - TASK.metric(logits(joined, ids), rows.gold)
    assert drop <= 0.5
    assert (confidence(quick) >= threshold).mean() > 0.2
