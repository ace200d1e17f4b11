"""`paredown bench` of what others made: figures that can be believed, or one clear line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import TASK, paredown, refused, write_csv
from onnx import helper, numpy_helper

from paredown.compress.models.loading import Checkpoint
from paredown.export.artifact import read_artifact
from paredown.export.bundle.writer import Contents, write_bundle
from paredown.export.hardware import gpus
from paredown.export.loading import adopt
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.onnx.static_shapes import shaped
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.pipeline.results.side_by_side import other_order

pytestmark = pytest.mark.usefixtures("same_process")
QUICK = ("--min-seconds", "0.05", "--min-repeats", "20", "--processes", "2", "--rounds", "2", "--threads", "1")


@pytest.fixture
def theirs(teacher: Checkpoint, tmp_path: Path) -> Path:
    """Another tool's export of a checkpoint that has not kept its labels' names."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    shutil.copyfile(teacher.path / "tokenizer.json", folder / "tokenizer.json")
    config = json.loads((teacher.path / "config.json").read_text())
    config |= {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    return plain_onnx(teacher, TASK, folder / "model.onnx")


def test_labels_without_names_are_the_datas_where_there_are_as_many(
    theirs: Path, teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    file = tmp_path / "b.json"
    done = paredown("bench", teacher.path, theirs, "--data", files["test"], "--json", file, *QUICK)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    ours, other = result["artifacts"]
    assert ours["metric"] == other["metric"]
    (note,) = result["notes"]
    assert (
        note
        == f"{theirs}: its config.json does not name its labels; LABEL_0 for negative, LABEL_1 for positive is assumed"
    )
    assert note in done.stdout
    three = write_csv(tmp_path / "three.csv", [("a good film", "good"), ("a bad film", "bad"), ("a plot", "none")])
    done = paredown("bench", theirs, "--data", three, "--json", file, *QUICK)
    assert done.returncode == 0, done.stderr
    assert json.loads(file.read_text())["artifacts"][0]["metric"] is None
    assert "no metric: its config.json does not name its 2 labels, and the data has 3" in done.stdout


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_ratios_and_control_are_of_the_first_that_can_run(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    plain = plain_onnx(teacher, TASK, tmp_path / "plain.onnx")
    able = RUNTIMES["onnxruntime"].export(ExportJob(plain, teacher, TASK, tmp_path / "able", 32))
    unable = tmp_path / "unable"
    shutil.copytree(able.path, unable)
    replace(able, path=unable, runtime="onnxruntime-cuda").write()
    file = tmp_path / "b.json"
    done = paredown("bench", unable, able.path, teacher.path, "--data", files["test"], "--json", file, *QUICK)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    first, second, third = result["artifacts"]
    assert first["cannot_run"] == "needs an NVIDIA GPU"
    assert second["ratio"] == 1
    assert third["p50_ms"] > 0
    assert third["drop"] == 0
    assert result["reference"] == str(able.path)
    assert result["control"]["ratio"] > 0
    said = " ".join(done.stdout.split())
    assert f"{unable} cannot run here: ratios and drops are against {able.path}" in said
    assert "drop (95 %)" in said
    assert f"control, {able.path} against itself:" in said
    done = paredown("bench", unable, "--data", files["test"], "--json", file, *QUICK)
    assert done.returncode == 1
    assert "none of the artefacts can run here" in done.stderr


def test_a_directory_in_the_place_of_the_json_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    refused(
        paredown("bench", tmp_path / "no", "--data", "no.csv", "--json", tmp_path), f"--json {tmp_path}: a directory"
    )


def test_a_bundle_of_one_shape_is_measured_as_it_is_served(finished: Path, files: dict, tmp_path: Path) -> None:
    made = next(finished.glob("steps/teacher-onnxruntime-fp32-*/artifact.json")).parent
    fixed = shaped(read_artifact(shutil.copytree(made, tmp_path / "fixed")), [32], 2)
    choice = json.loads((finished / "choice.json").read_text())
    bundle = write_bundle(tmp_path / "bundle", fixed, Contents("one", choice, ["a good film"]))
    done = paredown("bench", bundle, made, "--data", files["test"], "--json", tmp_path / "b.json", *QUICK)
    assert done.returncode == 0, done.stderr
    ours, plain = json.loads((tmp_path / "b.json").read_text())["artifacts"]
    assert ours["metric"] == plain["metric"]
    adopted = adopt(bundle, tmp_path / "scratch", TASK, 128)
    assert (adopted.lengths, adopted.batch_size, adopted.details) == ((32,), 2, fixed.details)


@pytest.mark.parametrize("named", [{"0": "positive", "1": "negative"}, {"0": "LABEL_0", "1": "LABEL_1"}])
def test_outputs_in_another_order_are_called_out(
    named: dict[str, str], teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    """Another tool's model whose first output means "positive"; the data's labels are "negative", "positive"."""
    plain = onnx.load(plain_onnx(teacher, TASK, tmp_path / "plain.onnx"))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (entry,) = plain.graph.output
    entry.name = "swapped"
    swap = numpy_helper.from_array(np.array([1, 0]), "swap")
    plain.graph.initializer.append(swap)
    plain.graph.node.append(helper.make_node("Gather", ["logits", "swap"], ["swapped"], axis=1))
    onnx.save(plain, theirs / "model.onnx")
    shutil.copyfile(teacher.path / "tokenizer.json", theirs / "tokenizer.json")
    config = json.loads((teacher.path / "config.json").read_text())
    for names, right in ((named, named["0"] == "positive"), ({"0": "negative", "1": "positive"}, False)):
        config |= {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}
        (theirs / "config.json").write_text(json.dumps(config))
        done = paredown("bench", theirs / "model.onnx", "--data", files["test"], *QUICK)
        assert done.returncode == 0, done.stderr
        said = "if the model's labels stood in this order: positive, negative" in done.stdout + done.stderr
        assert said != right


@pytest.mark.parametrize("count", [2, 3, 8])
def test_labels_in_another_order_are_called_out(count: int) -> None:
    rng = np.random.default_rng(0)
    gold = rng.integers(0, count, 200)
    order = np.roll(np.arange(count), 1)  # output i means label order[i]
    said = np.where(rng.random(200) < 0.9, np.argsort(order)[gold], rng.integers(0, count, 200))
    names = [f"label{i}" for i in range(count)]
    note = other_order(TASK, np.eye(count)[said], gold, names)
    assert "accuracy is no better than chance" in note
    assert f"in this order: {', '.join(names[i] for i in order)}" in note
    assert other_order(TASK, np.eye(count)[gold], gold, names) == ""  # right as they stand
    assert other_order(TASK, np.eye(count)[rng.integers(0, count, 200)], gold, names) == ""  # chance
    few = slice(0, 4)
    assert other_order(TASK, np.eye(count)[said[few]], gold[few], names) == ""  # too few rows to say


def test_one_answer_to_everything_is_no_other_order() -> None:
    gold = np.array([0] * 150 + [1] * 50)
    assert other_order(TASK, np.eye(2)[np.ones(200, dtype=int)], gold, ["a", "b"]) == ""


def test_bench_notes_a_foreign_model_whose_labels_are_in_another_order(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    """Its config.json names them the other way round, and the graph is as it was."""
    done = paredown("export", teacher.path, "--output-dir", tmp_path / "ours")
    assert done.returncode == 0, done.stderr
    foreign = shutil.copytree(teacher.path, tmp_path / "foreign", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copyfile(tmp_path / "ours" / "model.onnx", foreign / "model.onnx")
    config = json.loads((foreign / "config.json").read_text())
    config["id2label"] = {"0": "positive", "1": "negative"}
    (foreign / "config.json").write_text(json.dumps(config | {"label2id": {"positive": 0, "negative": 1}}))
    done = paredown("bench", foreign / "model.onnx", "--data", files["test"], "--json", tmp_path / "b.json", *QUICK)
    assert done.returncode == 0, done.stderr
    (note,) = json.loads((tmp_path / "b.json").read_text())["notes"]
    assert "in this order: negative, positive; does its config.json name them in another one?" in note
    assert note in done.stdout.replace("\n", " ")
