from functools import partial
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch
from conftest import LABELS, TASK
from transformers import PreTrainedModel

from paredown.compress.config import Static
from paredown.compress.data import dataset
from paredown.compress.distillation.static_student import initial_student, static_student
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.types import TrainingData
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.preprocessor import run_rows

SMALL = {"width": 8, "epochs": 8, "learning_rate": 0.02}
FULL = {"pairs": 64, "convolution": 3, "convolution_layers": 2, "max_pooling": True}


@pytest.mark.parametrize("parts", [{"pairs": 64}, {"convolution": 3}, {"max_pooling": True}, FULL], ids=str)
def test_it_learns_and_loads_again(teacher: Checkpoint, files: dict, tmp_path: Path, parts: dict) -> None:
    ids = dataset.encode(teacher.encoder(), dataset.read(str(files["train"]), labelled=False))
    held_out = dataset.read(str(files["validation"]), names=LABELS)
    check = teacher.encoder().ids(held_out.texts)
    student = static_student(load(teacher, TASK), TrainingData(ids), Static(**SMALL, **parts), seed=0)
    logits = run_rows(partial(forward, student), check, 0, "logits")
    assert TASK.metric(logits, held_out.gold) > 85
    save(student, teacher, tmp_path / "static")
    again = load(open_checkpoint(tmp_path / "static", TASK), TASK)
    np.testing.assert_array_equal(run_rows(partial(forward, again), check, 0, "logits"), logits)


def random_student(checkpoint: Checkpoint) -> PreTrainedModel:
    """A full student whose every parameter counts."""
    student = initial_student(load(checkpoint, TASK), Static(width=8, **FULL), seed=0)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter)
    return student


@pytest.mark.parametrize(
    ("runtime", "precision", "rounding"),
    [("onnxruntime", "fp32", 1e-4), ("onnxruntime", "int8-dynamic", 0.15), ("openvino", "fp32", 1e-4)],
)
def test_exported_it_answers_as_in_pytorch_alone_and_in_a_batch(
    teacher: Checkpoint, tmp_path: Path, runtime: str, precision: str, rounding: float
) -> None:
    """A row's answer may not change with the padding that longer rows give it."""
    saved = save(random_student(teacher), teacher, tmp_path / "static")
    rows = [[2, 5, 11, 3], [2, 6, 3], [2, 6, 12, 13, 7, 8, 9, 3], [2, 3]]
    want = np.concatenate([forward(load(saved, TASK), saved.encoder().pad([row]))["logits"] for row in rows])
    np.testing.assert_allclose(run_rows(partial(forward, load(saved, TASK)), rows, 0, "logits"), want, atol=1e-5)
    graph = plain_onnx(saved, TASK, tmp_path / "plain.onnx")
    artifact = RUNTIMES[runtime].export(ExportJob(graph, saved, TASK, tmp_path / "out", 32, precision))
    scale = np.abs(want).max()
    for batch_size in (1, 4):
        got = run_rows(open_artifact(artifact, 1), rows, 0, "logits", batch_size=batch_size)
        np.testing.assert_allclose(got / scale, want / scale, atol=rounding)


def test_a_convolution_has_a_middle_and_further_ones_a_width() -> None:
    with pytest.raises(pydantic.ValidationError, match="an odd number of tokens, not 4: 3, for example"):
        Static(convolution=4)
    with pytest.raises(pydantic.ValidationError, match="convolution_layers: 2 need the width of a convolution"):
        Static(convolution_layers=2)
