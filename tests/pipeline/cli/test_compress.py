"""Each stage alone: a checkpoint directory in, a directory out."""

import json
import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer
from conftest import make_checkpoint, paredown, refused

from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.export.artifact import read_artifact
from paredown.pipeline.cli import main as cli
from paredown.pipeline.cli.train import epoch_notes
from paredown.pipeline.steps import tune as tuning
from paredown.runtime.errors import StepError


def test_a_chain_of_stages(files: dict, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    config = json.loads((base.path / "config.json").read_text())
    (base.path / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"], "id2label": None}))
    data = ["--train", files["train"], "--validation", files["validation"]]

    def stage(*words: object) -> str:
        done = paredown(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    tuned, cut, small = (tmp_path / name for name in ("tuned", "cut", "small"))
    said = stage("finetune", base.path, *data, "--output-dir", tuned, "--epochs", "10", "--learning-rate", "0.002")
    assert float(said.split("accuracy ")[1].split()[0]) > 85
    assert open_checkpoint(tuned).labels == ("negative", "positive")
    stage("prune", tuned, *data, "--heads", "0.6", "--ffn", "0.5", "--recover-epochs", "0.5", "--output-dir", cut)
    assert (cut / "structure.json").exists()
    stage(
        "distill",
        cut,
        *data,
        "--unlabeled",
        files["unlabeled"],
        "--layers",
        "0,2",
        "--epochs",
        "1",
        "--output-dir",
        small,
    )
    assert open_checkpoint(small).config["num_hidden_layers"] == 2
    assert len(json.loads((small / "structure.json").read_text())["layers"]) == 2
    stage("quantize", small, "--output-dir", tmp_path / "dynamic")
    assert read_artifact(tmp_path / "dynamic").precision == "int8-dynamic"
    assert (tmp_path / "dynamic" / "config.json").exists()
    stage(
        "quantize",
        small,
        "--method",
        "static",
        "--train",
        files["train"],
        "--rows",
        "20",
        "--output-dir",
        tmp_path / "st",
    )
    said = stage("export", small, "--to", "openvino", "--output-dir", tmp_path / "ov")
    assert "logits differ" in said
    assert read_artifact(tmp_path / "ov").runtime == "openvino"


def test_small_vocabularies_and_students(
    teacher: Checkpoint, untrained: Checkpoint, files: dict, tmp_path: Path
) -> None:
    data = ["--train", files["train"], "--validation", files["validation"]]

    def stage(*words: object) -> str:
        done = paredown(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = stage("trim", teacher.path, *data, "--frequent", 0, "--output-dir", tmp_path / "trimmed")
    assert "0.00% of the held-out tokens changed" in said
    rare = ["--frequent", 0, "--min-count", 300, "--output-dir", tmp_path / "rare"]
    assert int(stage("trim", teacher.path, *data, *rare).split(" tokens")[0].split()[-1]) < 30
    said = stage("truncate", teacher.path, *data, "--first", 4, "--last", 4, "--output-dir", tmp_path / "ends")
    assert "% of the training rows are longer" in said
    assert open_checkpoint(tmp_path / "ends").truncation == (4, 4)
    wider = ("--first", 5, "--last", 3, "--output-dir", tmp_path / "wider")
    refused(paredown("truncate", tmp_path / "ends", *data, *wider), "the first 4 and the last 4 tokens already")
    quick = ["--static", "--epochs", 6, "--learning-rate", 0.02]
    said = stage("distill", teacher.path, *data, *quick, "--output-dir", tmp_path / "static")
    assert float(said.split("accuracy ")[1].split()[0]) > 85
    narrow = [
        "--layers",
        1,
        "--width",
        16,
        "--relation-weight",
        1,
        "--epochs",
        4,
        "--learning-rate",
        0.005,
        "--patience",
        3,
    ]
    stage("distill", teacher.path, *data, *narrow, "--teacher", teacher.path, "--output-dir", tmp_path / "narrow")
    assert open_checkpoint(tmp_path / "narrow").config["hidden_size"] == 16
    assert not (tmp_path / "narrow" / "structure.json").exists()
    other = ["--student", untrained.path, "--epochs", 4, "--learning-rate", 0.005]
    said = stage("distill", teacher.path, *data, *other, "--output-dir", tmp_path / "other")
    assert float(said.split("accuracy ")[1].split()[0]) > 60  # from random weights, in four passes


def test_a_cut_to_a_time_says_what_was_promised_and_measured(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    words = ["prune", teacher.path, "--train", files["train"], "--latency-ms", 1000, "--precision", "fp32"]
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = paredown(*words, "--output-dir", tmp_path / "cut", env=env)
    assert done.returncode == 0, done.stderr
    assert "promised 1.00x in onnxruntime fp32, measured" in done.stdout
    assert len(list((tmp_path / "cache" / "paredown").glob("latency-*.json"))) == 1
    words[4:6] = ["--latency-ms", 0.0001]
    done = paredown(*words, "--output-dir", tmp_path / "fast", env=env)
    assert done.returncode == 2
    assert "cannot be reached by pruning" in done.stderr
    assert not (tmp_path / "fast").exists()


def test_a_pruned_model_outlives_the_recovery_that_fails_and_can_be_repeated(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    words = ["--train", files["train"], "--heads", 0.6, "--recover-epochs", 1, "--learning-rate", "1e30"]
    done = paredown("prune", teacher.path, *words, "--output-dir", tmp_path / "cut")
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("error: prune, recover: the loss is ")
    assert f"{tmp_path / 'cut'} holds the pruned model before this step" in said
    command = said.split("to repeat the step: paredown ")[1].replace("DIR", str(tmp_path / "healed")).split()
    assert (tmp_path / "cut" / "structure.json").exists()
    done = paredown(*command, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "healed" / "structure.json").exists()
    done = paredown(
        "distill",
        teacher.path,
        "--train",
        files["train"],
        "--learning-rate",
        "1e30",
        "--output-dir",
        tmp_path / "student",
    )
    assert done.returncode == 1
    assert "error: distill: the loss is " in done.stderr
    assert not (tmp_path / "student").exists()


def test_what_a_stage_refuses(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    out = ["--output-dir", tmp_path / "out"]
    train = ["--train", files["train"]]
    refused(paredown("prune", teacher.path, *train, *out, "--heads", "1.5"), "--heads", "1.5")
    refused(paredown("distill", teacher.path, *train, *out, "--layers", "a,b"), "--layers a,b")
    refused(paredown("distill", teacher.path, *train, *out, "--task", "text-clasification"), "did you mean")
    refused(paredown("export", teacher.path, *out, "--precision", "int4"), "int4", "int8-dynamic")
    refused(paredown("quantize", teacher.path, *out, "--method", "static"), "--train")
    refused(paredown("prune", teacher.path, *train, *out, "--speedup", "2", "--heads", "0.5"), "error: a time", "out")
    refused(paredown("prune", teacher.path, *train, *out, "--runtime", "tensorrt"), "--runtime", "'tensorrt'")
    refused(paredown("prune", teacher.path, *train, *out, "--runtime", "openvino"), "openvino has no int8-dynamic")
    refused(paredown("prune", teacher.path, *train, *out, "--speedup", "2", "--latency-ms", "3"), "not both")
    refused(paredown("distill", teacher.path, *train, *out, "--static", "--layers", "2"), "--static")
    refused(paredown("distill", teacher.path, *train, *out, "--patience", "2"), "--validation")
    refused(
        paredown("distill", teacher.path, *train, *out, "--unlabeled", files["validation"]),
        "validation.csv", "unlabelled text is expected", "'label'",
    )  # fmt: skip
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    refused(paredown("export", teacher.path, *out), "exists already")
    assert (tmp_path / "out" / "mine").read_text() == "keep"
    done = paredown("distill", teacher.path, *train, "--output-dir", tmp_path / "deep", "--layers", "9")
    assert done.returncode == 2
    assert "--layers: 9 is not a choice of the 3 layers" in done.stderr
    assert not (tmp_path / "deep").exists()


def test_a_study_belongs_to_its_data_checkpoint_and_settings(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    """tune is stopped in its search; only the same command continues the study that it left."""
    studies = []

    def stopped(*args: Any, **more: Any) -> dict:
        studies.append(next(arg for arg in args if isinstance(arg, Path) and arg.name.endswith(".log")))
        studies[-1].touch()
        raise StepError("stopped")

    def tune(train: Path, *more: object) -> str:
        data = ["--train", train, "--validation", files["validation"], "--minutes", 1]
        done = paredown("tune", teacher.path, *data, "--output-dir", tmp_path / "best", *more)
        assert done.returncode == 1
        return done.stderr

    with mock.patch.object(tuning, "tune_checkpoint", stopped):
        assert "a new study starts" not in tune(files["train"])
        assert "a new study starts" not in tune(files["train"], "--minutes", 2)  # more time continues it
        assert "is of other data, another checkpoint or other settings; a new study starts" in tune(files["test"])
        tune(files["train"], "--learning-rate", 1e-3)
        tune(files["train"], "--seed", 1)
    assert studies[0] == studies[1]
    assert len(set(studies)) == 4
    assert all(path.parent == tmp_path and path.name.startswith("best.study-") for path in studies)


def test_a_stage_is_not_judged_on_rows_that_it_learns_from(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    lines = files["train"].read_text().splitlines(keepends=True)
    (tmp_path / "some.csv").write_text("".join([*lines[:1], *lines[5:50]]))
    data = ["--train", files["train"], "--validation", tmp_path / "some.csv", "--output-dir", tmp_path / "out"]
    for verb in ("finetune", "prune", "distill", "trim", "truncate", "tune"):
        more = ["--minutes", 1] if verb == "tune" else []
        refused(paredown(verb, teacher.path, *data, *more), "some.csv: 45 of 45 rows", "also stand in", "train.csv")
    assert not (tmp_path / "out").exists()
    validation = files["validation"].read_text().splitlines(keepends=True)
    text, _, label = lines[1].rpartition(",")
    (tmp_path / "few.csv").write_text("".join([*validation, f"{text.upper()},{label}"]))
    data[3] = tmp_path / "few.csv"
    done = paredown("trim", teacher.path, *data)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[0])["text"].startswith(f"{tmp_path / 'few.csv'}: 1 of 201 rows")


@pytest.mark.parametrize("command", ["finetune", "trim", "truncate", "prune", "distill", "quantize", "augment"])
def test_columns_of_other_names_can_be_named(command: str, teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    for name in ("train", "validation"):
        text = files[name].read_text().replace("text,label", "Body,Kind", 1)
        (tmp_path / f"{name}.csv").write_text("".join(text.splitlines(keepends=True)[:41]))
    source = [] if command == "augment" else [teacher.path]
    out = ["--output", tmp_path / "more.jsonl"] if command == "augment" else ["--output-dir", tmp_path / "out"]
    ask = [command, *source, "--train", tmp_path / "train.csv", *out]
    ask += ["--validation", tmp_path / "validation.csv"] if command not in ("quantize", "augment") else []
    ask += ["--epochs", 1] if command in ("finetune", "distill") else ["--ffn", 0.5] if command == "prune" else []
    refused(paredown(*ask), "no text column among Body, Kind", "--text-column")
    refused(paredown(*ask, "--text-column", "body"), "no column 'body'; did you mean 'Body'?")
    done = paredown(*ask, "--text-column", "Body", "--label-column", "Kind")
    assert done.returncode == 0, done.stderr


def test_every_command_that_reads_rows_takes_the_names_of_columns() -> None:
    """The error that asks for a name says with which option."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        options = {parameter.name for parameter in command.params}
        if options & {"train", "data"}:
            assert "text_column" in options, name
            assert "label_column" in options or name in ("load", "predict", "pack"), name


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([], None),
        ([0.5], None),
        ([0.5, 0.4], "still falling: more --epochs"),
        ([0.5, 0.4, 0.45], "lowest after epoch 2: fewer --epochs"),
        ([0.5, 0.4, 0.399], "0.399"),
    ],
)
def test_what_the_loss_after_each_epoch_says(losses: list[float], words: str | None) -> None:
    found = epoch_notes(losses)
    assert (not found) if words is None else words in found[0]
    assert losses != [0.5, 0.4, 0.399] or "--epochs" not in found[0]


def test_finetune_says_the_validation_loss_after_each_epoch(files: dict, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    ask = ["--train", files["train"], "--validation", files["validation"], "--epochs", 2]
    done = paredown("finetune", base.path, *ask, "--output-dir", tmp_path / "tuned")
    assert done.returncode == 0, done.stderr
    notes = [json.loads(line)["text"] for line in done.stderr.splitlines() if '"note"' in line]
    (losses,) = [note for note in notes if note.startswith("validation loss after each epoch: ")]
    assert len(re.findall(r"\d\.\d{3}", losses)) == 2


def test_finetune_in_two_processes(files: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_checkpoint(tmp_path / "base")
    ask = ["finetune", base.path, "--train", files["train"], "--validation", files["validation"], "--epochs", 2]
    ask += ["--output-dir", tmp_path / "tuned", "--training-processes", 2]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    under = paredown(*ask)
    assert under.returncode == 2
    assert "leave torchrun out, and give training_processes" in under.stderr
    assert not (tmp_path / "tuned").exists()
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    done = paredown(*ask, "--learning-rate", 0.005)
    assert done.returncode == 0, done.stderr
    assert "validation loss after each epoch: 0." in done.stderr
    assert open_checkpoint(tmp_path / "tuned").labels == ("negative", "positive")
    assert float(re.findall(r"accuracy ([\d.]+) on validation", done.stdout)[0]) > 90
