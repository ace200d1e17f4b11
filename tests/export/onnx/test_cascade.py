import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import LABELS, TASK

from paredown.benchmarks.statistics.thresholds import threshold_for
from paredown.compress.config import Static
from paredown.compress.data import dataset
from paredown.compress.distillation.static_student import static_student
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, save
from paredown.compress.types import TrainingData
from paredown.export.artifact import Artifact
from paredown.export.onnx.cascade import combined, confidence, join
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import run_rows


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


@pytest.mark.parametrize("batch_size", [1, 8])
def test_every_row_is_answered_by_the_model_that_it_belongs_to(both, files: dict, batch_size: int, tmp_path) -> None:
    first, then = both
    ids = first.encoder().ids(dataset.read(str(files["validation"]), names=LABELS).texts)
    quick, slow = logits(first, ids), logits(then, ids)
    threshold = float(np.median(confidence(quick)))
    joined = join(first, then, threshold, tmp_path / "joined")
    onnx.checker.check_model(onnx.load(joined.path / "model.onnx"))
    want = combined(quick, slow, threshold)
    np.testing.assert_allclose(logits(joined, ids, batch_size), want, atol=1e-4)
    asked = confidence(quick) < threshold
    assert 0.3 < asked.mean() < 0.7
    np.testing.assert_allclose(want[asked], slow[asked])


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
    np.testing.assert_allclose(logits(joined, ids, 1), combined(quick, slow, outer), atol=1e-4)
    rounding = 1e-4 if precision == "fp32" else 0.1  # dynamic INT8 rounds by what else is in the batch
    np.testing.assert_allclose(logits(joined, ids, 8), combined(quick, slow, outer), atol=rounding)
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
