"""Bad input: one clear line, exit code 2, nothing half-written. And the commands that read a finished run."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import paredown, refused, write_csv, write_recipe

from paredown.compress.models.loading import Checkpoint
from paredown.pipeline.store import lock
from paredown.runtime.selftest import selftest

pytestmark = pytest.mark.usefixtures("same_process")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train", b"", ["train.csv", "empty file"]),
        ("train", b"text,label\na good film,positive\n", ["only one class, 'positive'"]),
        ("validation", b"text,label\na good film,positve\n", ["line 2", "unknown label 'positve'", "a good film"]),
        ("test", b"words,label\na good film,positive\n", ["no text column", "words, label"]),
        ("train", b"text,label\ncaf\xe9,positive\n", ["line 2", "not UTF-8"]),
        ("train", b"text,label\nzzz,positive\nyyy,negative\n", ["no row has a token"]),
        ("train", None, ["no such file"]),
    ],
)
def test_bad_data(
    teacher: Checkpoint, files: dict, tmp_path: Path, file: str, content: bytes | None, words: list
) -> None:
    bad = tmp_path / f"{file}.csv"
    if content is not None:
        bad.write_bytes(content)
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, {**files, file: bad})
    refused(paredown("run", recipe, "--output-dir", tmp_path / "run"), str(bad), *words)
    assert not (tmp_path / "run").exists()


def test_layers_that_do_not_exist_are_refused_before_minutes_are_spent(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    for wrong in ("4", "[0, 3]", "[2, 1]", "[]", "0"):
        recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **{"layers: 1,": f"layers: {wrong},"})
        refused(paredown("run", recipe, "--dry-run"), "'distil-1', distill.layers", "of the 3 layers")
    chain = "layers: 2, epochs: 2, learning_rate: 0.005}\n      - distill: {layers: 3,"
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **{"layers: 1,": chain})
    refused(paredown("run", recipe, "--dry-run"), "of the 2 layers")


@pytest.mark.parametrize("damage", ["missing", "truncated", "pickle", "auto_map", "head"])
def test_bad_checkpoint(copy_of_teacher: Path, files: dict, tmp_path: Path, damage: str) -> None:
    weights, config = copy_of_teacher / "model.safetensors", copy_of_teacher / "config.json"
    words = {"missing": "no such directory", "truncated": "truncated", "pickle": "pickle", "auto_map": "auto_map",
             "head": "paredown finetune"}[damage]  # fmt: skip
    if damage == "missing":
        shutil.rmtree(copy_of_teacher)
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "pickle":
        weights.rename(copy_of_teacher / "pytorch_model.bin")
    elif damage == "auto_map":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {}}))
    else:
        config.write_text(config.read_text().replace("ForSequenceClassification", "ForMaskedLM"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"checkpoint: {copy_of_teacher}\ndata: {{train: {files['train']}, validation: {files['test']}}}\n"
    )
    refused(paredown("run", recipe, "--output-dir", tmp_path / "run"), words)
    refused(paredown("export", copy_of_teacher, "--output-dir", tmp_path / "out"), words)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out").exists()


def test_choose_picks_again_without_running_again(finished: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished, tmp_path / "run")
    before = json.loads((run_dir / "choice.json").read_text())
    done = paredown("choose", run_dir, "--rule", "lambda", "--value-per-point", "1000")
    assert done.returncode == 0, done.stderr
    choice = json.loads((run_dir / "choice.json").read_text())
    assert choice["rule"]["rule"] == "lambda"
    best = max(c["metric_validation"] for c in choice["candidates"] if c["rejected_because"] is None)
    assert choice["chosen"]["metric_validation"] >= best - 3
    manifest = json.loads((run_dir / "bundle" / "manifest.json").read_text())
    assert manifest["source"]["candidate"] == choice["chosen"]["name"]
    selftest(run_dir / "bundle")
    sizes = sorted(c["size_mb"] for c in before["candidates"] if c["rejected_because"] is None)
    done = paredown("choose", run_dir, "--rule", "knee", "--size-mb", sizes[1])
    assert done.returncode == 0, done.stderr
    choice = json.loads((run_dir / "choice.json").read_text())
    assert choice["chosen"]["size_mb"] <= sizes[1]
    assert any("size_mb" in (c["rejected_because"] or "") for c in choice["candidates"])
    done = paredown("choose", run_dir, "--no-limit", "size_mb")
    assert done.returncode == 0, done.stderr
    choice = json.loads((run_dir / "choice.json").read_text())
    assert "size_mb" not in choice["rule"]["budgets"]
    assert not any("size_mb" in (c["rejected_because"] or "") for c in choice["candidates"])
    done = paredown("choose", run_dir, "--size-mb", "0.0001")
    assert done.returncode == 1
    assert "no candidate keeps the budgets" in done.stderr
    again = paredown("run", finished.parent / "recipe.yaml", "--output-dir", run_dir)
    assert again.returncode == 0
    assert json.loads((run_dir / "choice.json").read_text())["rule"] == before["rule"]


def test_choose_refuses_what_it_cannot_use(finished: Path, tmp_path: Path) -> None:
    refused(paredown("choose", tmp_path), "measurements.json", "paredown run")
    run_dir = shutil.copytree(finished, tmp_path / "run")
    refused(paredown("choose", run_dir, "--rule", "lambda"), "--value-per-point")
    refused(paredown("choose", run_dir, "--value-per-point", "1"), "--rule lambda")
    refused(paredown("choose", run_dir, "--rule", "knee", "--max-drop", "1"), "--rule cheapest", "--gate")
    refused(paredown("choose", run_dir, "--p95-ms", "0"), "--p95-ms")
    refused(paredown("choose", run_dir, "--no-limit", "memory_mb"), "memory_mb: the recipe limits size_mb")
    refused(paredown("choose", run_dir, "--gate", "p99_ms <= 20"), "has no unit", "p99_ms <= 20 ms")
    refused(paredown("choose", run_dir, "--gate", "p99_ms 20 ms"), "has no direction")
    done = paredown("choose", run_dir, "--gate", "payback_requests <= -1 requests")
    assert done.returncode == 1
    assert "payback_requests" in done.stderr
    assert (run_dir / "bundle").exists()


def test_report_writes_the_same_page_again(finished: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished, tmp_path / "run")
    (run_dir / "report.html").unlink()
    done = paredown("report", run_dir)
    assert done.returncode == 0, done.stderr
    assert "times as fast" in (run_dir / "report.html").read_text()
    (run_dir / "choice.json").unlink()
    refused(paredown("report", run_dir), "choice.json", "paredown choose")
    refused(paredown("report", run_dir, "--format", "md", "--output", tmp_path), "a directory")


def test_damaged_files_of_a_run_are_one_line(finished: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("steps", "bundle*"))
    choice, measurements = (json.loads((run_dir / name).read_text()) for name in ("choice.json", "measurements.json"))
    for damaged in ([], {"card": 1}, {**choice, "chosen": {"name": "nobody"}}, {**choice, "candidates": []}):
        (run_dir / "choice.json").write_text(json.dumps(damaged))
        refused(paredown("report", run_dir), "choice.json", "paredown choose")
    base = measurements["candidates"][0]
    silent = {**base, "timing": {**base["timing"], "turns": {"single_stream": [], "offline": []}}}
    for damaged in (
        [],
        {"schema": 3},
        {**measurements, "prices": {**measurements["prices"], "price_per_hour": -3}},
        {**measurements, "candidates": [silent, *measurements["candidates"][1:]]},
    ):
        (run_dir / "measurements.json").write_text(json.dumps(damaged))
        refused(paredown("choose", run_dir), "measurements.json", "run the recipe again")


def test_verify_and_predict_a_bundle_and_its_archive(finished: Path, files: dict) -> None:
    chosen = json.loads((finished / "choice.json").read_text())["chosen"]
    for bundle in (finished, finished / "bundle", finished / "bundle.tar.gz"):
        done = paredown("verify", bundle, "--data", files["test"])
        assert done.returncode == 0, done.stderr
        figure = f"{chosen['metric_test']:.2f}"
        assert f": {figure} (200 rows); the manifest says {figure} on test" in done.stdout
    done = paredown("predict", finished / "bundle", "--text", "a brilliant moving film", "--text", "dull awful weak")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["label"] for a in answers] == ["positive", "negative"]
    assert abs(sum(answers[0]["scores"].values()) - 1) < 1e-6
    refused(paredown("verify", finished / "nothing"), "no such bundle")


def test_verify_fails_on_a_metric_that_chance_does_not_explain(finished: Path, files: dict, tmp_path: Path) -> None:
    lines = files["test"].read_text().splitlines()
    wrong = {"negative": "positive", "positive": "negative"}
    swapped = [f"{text},{wrong[label]}" for text, _, label in (line.rpartition(",") for line in lines[1:])]
    (tmp_path / "swapped.csv").write_text("\n".join([lines[0], *swapped]))
    done = paredown("verify", finished / "bundle", "--data", tmp_path / "swapped.csv")
    assert done.returncode == 1
    assert "(200 rows); the manifest says" in done.stderr
    (tmp_path / "one.csv").write_text("\n".join([lines[0], swapped[0]]))  # one wrong answer proves nothing
    done = paredown("verify", finished / "bundle", "--data", tmp_path / "one.csv")
    assert done.returncode == 0, done.stderr


def test_bench_puts_anything_side_by_side(finished: Path, teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    artifact = next(finished.glob("steps/teacher-onnxruntime-fp32-*/artifact.json")).parent
    paths = [teacher.path, artifact, artifact / "model.onnx", finished / "bundle", finished / "bundle.tar.gz"]
    quick = ["--min-seconds", "0.05", "--min-repeats", "20", "--processes", "2", "--rounds", "2", "--threads", "1"]
    done = paredown("bench", *paths, "--data", files["test"], "--json", tmp_path / "b.json", *quick)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "b.json").read_text())
    assert result["machine"]["cores"] >= 1
    entries = result["artifacts"]
    assert [e["path"] for e in entries] == [str(p) for p in paths]
    assert [e["runtime"] for e in entries[:3]] == ["pytorch", "onnxruntime", "onnxruntime"]
    keys = {
        "path",
        "runtime",
        "precision",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "ratio",
        "ratio_ci",
        "throughput_per_s",
        "metric",
    }
    assert all(e.keys() >= keys for e in entries)
    assert entries[0]["ratio"] == 1
    assert entries[0]["metric"] == entries[1]["metric"] == entries[2]["metric"]
    assert entries[3]["metric"] == entries[4]["metric"]
    refused(paredown("bench", tmp_path / "no.onnx", "--data", files["test"]), "no such artefact")


def test_a_run_goes_to_the_directory_of_its_name(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    """`init` writes `name` into a file that is called recipe.yaml, whatever the checkpoint is."""
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files)
    for changed, expected in (({}, "tiny"), ({"name: tiny\n": ""}, "recipe")):
        write_recipe(recipe, teacher, files, **changed)
        with lock(tmp_path / "runs" / expected):
            refused(paredown("run", recipe, cwd=tmp_path), f"runs/{expected}: in use by")
        assert [path.name for path in (tmp_path / "runs").iterdir()] == [expected]
        shutil.rmtree(tmp_path / "runs")


def test_init_writes_a_recipe_that_runs(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    given = ["--train", files["train"], "--validation", files["validation"], "--test", files["test"]]
    done = paredown("init", teacher.path, *given, "--output", recipe)
    assert done.returncode == 0, done.stderr
    assert "# " in recipe.read_text()
    done = paredown("run", recipe, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "search" in done.stdout
    assert "Then what the search has found is exported and measured." in done.stdout
    refused(paredown("init", teacher.path, *given, "--output", recipe), "exists already")
    one = write_csv(tmp_path / "one.csv", [("a good film", "positive")])
    refused(
        paredown("init", teacher.path, "--train", one, "--validation", one, "--output", tmp_path / "x"),
        "only one class",
    )


def test_init_says_what_it_saw_and_takes_names_of_columns(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    renamed = {}
    for name, file in files.items():
        renamed[name] = tmp_path / file.name
        renamed[name].write_text(file.read_text().replace("text,label", "Body,Kind", 1))
    ask = ["init", teacher.path, "--train", renamed["train"], "--validation", renamed["validation"]]
    refused(paredown(*ask, "--output", tmp_path / "r.yaml"), "no text column among Body, Kind", "--text-column")
    ask += ["--text-column", "Body", "--label-column", "Kind", "--output", tmp_path / "r.yaml"]
    done = paredown(*ask)
    assert done.returncode == 0, done.stderr
    for said in ("train: ", "tokens in the median", "validation: ", "checkpoint: accuracy "):
        assert said in done.stderr
    done = paredown("run", tmp_path / "r.yaml", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_doctor_names_the_machine_and_what_is_missing() -> None:
    done = paredown("doctor", "--json")
    found = json.loads(done.stdout)
    assert found["machine"]["cores"] >= 1
    assert found["parts"]["onnxruntime"]["version"]
    missing = [part for part in found["parts"].values() if part["version"] is None]
    assert all(part["get"].startswith("pip install 'paredown[") for part in missing)
    assert found["advice"]
    assert "exactly one" in paredown("doctor").stdout
