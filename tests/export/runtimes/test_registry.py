"""Every runtime of the table keeps the protocol and the docs, and answers as PyTorch does or says why it cannot."""

import inspect
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import TASK, make_checkpoint

from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load
from paredown.export.artifact import read_artifact
from paredown.export.hardware import gpus, importable
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes import litert
from paredown.export.runtimes.base import ExportJob, Runtime
from paredown.export.runtimes.registry import RUNTIMES
from paredown.export.runtimes.tensorrt_config import Engine
from paredown.runtime import session
from paredown.runtime.errors import InputError
from paredown.runtime.formats import FORMATS
from paredown.runtime.preprocessor import run_rows
from paredown.runtime.session import CannotRunHere
from paredown.tasks.registry import TASKS

ROWS = [[2, 5, 11, 20, 3], [2, 6, 3], [2, *range(4, 24), 3]]
FUNCTIONS = ("precisions", "available", "export", "open")
MATRIX = Path(__file__).resolve().parents[3] / "docs" / "compression.md"
COLUMNS = {"single": TASK, "seq2seq": TASKS["text-to-text"], "causal_lm": TASKS["text-generation"]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", layers=1)


@pytest.fixture(scope="module")
def plain(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_onnx(checkpoint, TASK, tmp_path_factory.mktemp("plain") / "plain.onnx")


def documented(name: str) -> list[tuple[str, ...]]:
    """The precisions of a runtime in the table of docs/compression.md, by column."""
    (row,) = re.findall(rf"^\| `{re.escape(name)}` \|(.*)\|$", MATRIX.read_text(), re.MULTILINE)
    return [tuple(re.findall(r"[\w-]+", cell)) for cell in row.split("|")[1:]]


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_of_the_table(name: str, checkpoint: Checkpoint, plain: Path, tmp_path: Path) -> None:
    runtime = RUNTIMES[name]
    assert runtime.SPEC.name == name
    for function in FUNCTIONS:
        expected = inspect.signature(partial(getattr(Runtime, function), None))
        assert inspect.signature(getattr(runtime, function)) == expected, function
    assert [runtime.precisions(task) for task in COLUMNS.values()] == documented(name)

    installed = importable(runtime.SPEC.module)
    converts = name != "litert" or litert.converter() is not None
    reason, no_build = runtime.available(), runtime.available(building=True)
    assert (no_build is None) == (installed and converts and not (runtime.SPEC.builds_on_gpu and not gpus()))
    if not gpus():
        assert (reason is None) == (installed and not runtime.SPEC.gpu)
    assert all("\n" not in said for said in (reason, no_build) if said is not None)

    engine = Engine(batch_sizes=[4], compute_capabilities=[86])
    job = ExportJob(plain, checkpoint, TASK, tmp_path / "out", 32, engine=engine)
    if no_build is not None:
        with pytest.raises(InputError, match=f"^{re.escape(no_build)}$"):
            runtime.export(job)
        assert not (tmp_path / "out").exists()
        return
    artifact = runtime.export(job)
    assert read_artifact(tmp_path / "out") == artifact
    assert (artifact.runtime, artifact.precision) == (name, "fp32")
    if reason is not None:
        with pytest.raises((CannotRunHere, InputError), match=f"^{re.escape(reason)}$"):
            open_artifact(artifact, 1)
        return
    wanted = run_rows(partial(forward, load(checkpoint, TASK)), ROWS, checkpoint.pad_id, "logits")
    found = run_rows(open_artifact(artifact, 1), ROWS, checkpoint.pad_id, "logits")
    np.testing.assert_allclose(found, wanted, atol=5e-3 if runtime.SPEC.gpu else 1e-5)


def test_what_runs_in_bundles_has_a_format_and_is_opened_there() -> None:
    for name, known in FORMATS.items():
        assert set(RUNTIMES[name].SPEC.all_precisions) <= known.tolerance.keys(), name
    deployed = {name for name, runtime in RUNTIMES.items() if runtime.SPEC.in_bundles}
    assert deployed == FORMATS.keys() == session.RUNTIMES.keys()
    assert {runtime.SPEC.gpu for name, runtime in RUNTIMES.items() if name in session.PROVIDERS} == {True}


def test_an_export_without_its_graph_says_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain_onnx"):
        RUNTIMES["onnxruntime"].export(ExportJob(None, checkpoint, TASK, tmp_path / "out", 32))
