"""`import paredown`: what the commands do, from Python, with rows and models in memory."""

import contextlib
import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import SMALL, write_recipe

import paredown
from paredown.compress.models.loading import Checkpoint, load
from paredown.tasks.registry import TASKS

pytestmark = pytest.mark.usefixtures("same_process")
TASK = TASKS["text-classification"]


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("first", ["import paredown", "import paredown.compress.config, paredown.export.artifact"])
def test_packages_of_the_same_name_are_called(first: str) -> None:
    code = f"{first}; import paredown; print(callable(paredown.compress), callable(paredown.export))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


def test_every_name_is_there_and_documented() -> None:
    for name in paredown.__all__:
        found = getattr(paredown, name)
        assert name == "__version__" or found.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        paredown.prun  # noqa: B018


def test_a_bundle_is_called_and_evaluated(finished: Path, files: dict[str, Path]) -> None:
    choice = json.loads((finished / "choice.json").read_text())
    for path in (finished, str(finished / "bundle"), finished / "bundle.tar.gz"):
        with paredown.load_bundle(path) as model:
            (answer,) = model(["a good film"])
            assert answer["label"] in model.labels
            assert model.manifest.name == "tiny"
            if path == finished:
                found = model.evaluate(files["test"])
                assert found.metric == pytest.approx(choice["chosen"]["metric_test"])
                assert found == model.evaluate(rows_of(files["test"]))
    with pytest.raises(paredown.InputError, match="a list of texts"):
        paredown.load_bundle(finished)("a good film")


def test_a_run_gives_records(teacher: Checkpoint, files: dict[str, Path], tmp_path: Path) -> None:
    recipe = yaml.safe_load(write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL).read_text())
    recipe["data"]["train"] = Path("rows") / files["train"].name  # relative to the current directory
    (tmp_path / "rows").symlink_to(files["train"].parent)
    before = {*tmp_path.iterdir()}
    with contextlib.chdir(tmp_path):
        with pytest.raises(paredown.InputError, match="'cheapest', 'lambda' or 'knee'"):
            paredown.run(recipe | {"choose": {"rule": "cheap"}})
        assert {*tmp_path.iterdir()} == before
        result = paredown.run(recipe, output_dir="run")
    assert {*tmp_path.iterdir()} - before == {tmp_path / "run"}
    assert result.chosen.name == json.loads((tmp_path / "run" / "choice.json").read_text())["chosen"]["name"]
    assert result.chosen.latency_ms.p50 > 0
    assert result.chosen.onnx_path is not None
    assert result.baseline.runtime == "pytorch"
    assert (result.bundle / "manifest.json").is_file()
    assert len(result.table()) == len(result.candidates)
    with pytest.raises(AttributeError, match="it has name"):
        result.chosen.naem  # noqa: B018


def test_stages_take_models_and_rows_in_memory(
    teacher: Checkpoint, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import transformers

    model = load(teacher, TASK)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(teacher.path / "tokenizer.json"), pad_token="[PAD]", unk_token="[UNK]"
    )
    rows = rows_of(files["train"])
    small = paredown.prune((model, tokenizer), rows, ffn=0.5, max_length=32)
    assert small.size_mb < teacher.size_mb()
    student = paredown.distill(small, 1, [row["text"] for row in rows], epochs=1, max_length=32)
    assert student.model.config.num_hidden_layers == 1
    exported = paredown.export(student, precision="int8", data=rows, max_length=32)
    assert (exported.runtime, exported.precision) == ("onnxruntime", "int8-dynamic")
    assert exported.onnx_path is not None
    plain = paredown.quantize(teacher.path, rows, max_length=32, output_dir=tmp_path / "int8")
    assert plain.path == tmp_path / "int8"
    settings = {"processes": 2, "rounds": 2, "min_seconds": 0.02, "min_repeats": 5}
    found = paredown.bench([plain, exported], files["test"], max_length=32, **settings)
    assert [entry.ratio > 0 for entry in found.artifacts] == [True, True]
    assert capsys.readouterr().out == ""  # functions return what commands print


def test_rows_may_be_a_dataset_or_a_frame(teacher: Checkpoint, files: dict[str, Path], tmp_path: Path) -> None:
    import datasets
    import pandas

    rows = rows_of(files["train"])
    names = ["positive", "negative"]  # not the order of the checkpoint's labels
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    numbered = {"text": [row["text"] for row in rows], "label": [names.index(row["label"]) for row in rows]}
    for given in (pandas.DataFrame(rows), datasets.Dataset.from_dict(numbered, features=features)):
        made = paredown.quantize(teacher.path, given, max_length=32, output_dir=tmp_path / type(given).__name__)
        cost = json.loads((made.path / "artifact.json").read_text())["details"]["int8_cost"]
        assert (cost["measure"], cost["before"]) == ("accuracy", pytest.approx(0, abs=5))


def test_the_whole_job_without_a_recipe(teacher: Checkpoint, files: dict[str, Path], tmp_path: Path) -> None:
    splits = {name: files[name] for name in ("train", "validation", "test")}
    quick = {
        "targets": [{"runtime": "onnxruntime"}],
        "latency": {"threads": 1, "processes": 2, "rounds": 2, "min_seconds": 0.02, "min_repeats": 5},
        "robustness_rows": 0,
    }
    result = paredown.compress(
        teacher.path, **splits, minutes=0.05, max_drop=20, max_length=32, recipe=quick, output_dir=tmp_path / "run"
    )
    assert result.certificate is not None
    assert result.certificate.split == "test"
    assert (tmp_path / "run" / "recipe.resolved.yaml").is_file()


def test_columns_are_named(teacher: Checkpoint, files: dict[str, Path], tmp_path: Path) -> None:
    """A column with the name of a second text is refused where it would be ignored, unless the text's is named."""
    rows = [{"text": row["text"], "text_pair": "another", "sort": row["label"]} for row in rows_of(files["train"])]
    calls = [
        lambda **more: paredown.prune(teacher.path, rows, ffn=0.5, max_length=32, **more),
        lambda **more: paredown.distill(teacher.path, 1, rows, epochs=0.1, max_length=32, **more),
        lambda **more: paredown.export(teacher.path, precision="int8", data=rows, max_length=32, **more),
        lambda **more: paredown.quantize(teacher.path, rows, max_length=32, **more),
    ]
    for call in calls:
        with pytest.raises(paredown.InputError, match="second texts"):
            call()
        assert call(text="text", label="sort").path.is_dir()
    with pytest.raises(paredown.InputError, match="second texts"):
        paredown.compress(teacher.path, train=rows, validation=rows, output_dir=tmp_path / "run")
    with pytest.raises(paredown.InputError, match="no column 'nowhere'"):
        paredown.compress(teacher.path, train=rows, validation=rows, text="nowhere", output_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda path: paredown.prune(path, 7), "train: rows are a path"),
        (lambda path: paredown.prune(object(), []), "a model is a checkpoint directory"),
        (lambda path: paredown.prune(path, [{"text": {1, 2}}]), "cannot be written as JSON"),
        (lambda path: paredown.bench(path, []), "a list of models"),
        (lambda path: paredown.load_bundle("nowhere"), "no such bundle"),
    ],
)
def test_bad_input_is_one_error(call, why: str, teacher: Checkpoint) -> None:
    with pytest.raises(paredown.InputError, match=why):
        call(str(teacher.path))
