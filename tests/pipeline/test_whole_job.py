import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import make_checkpoint, paredown, refused

from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.pipeline.job import prepare
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.whole_job import FOUND_RECIPE, WholeJob, _texts, fitting_length, name_of
from paredown.tasks.registry import TASKS
from paredown.tasks.rows import Rows


@pytest.fixture(scope="module")
def finished_job(
    same_process: None, teacher: Checkpoint, files: dict, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The run directory of `paredown compress`, and what the command printed."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    done = paredown(
        "compress", teacher.path, "--train", files["train"], "--validation", files["validation"], "--test",
        files["test"], "--minutes", 1, "--max-length", 32, "--budget", "size_mb=50", "--output-dir", run_dir,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return run_dir, done.stdout


def test_checkpoint_and_files_are_enough(finished_job: tuple[Path, str]) -> None:
    run_dir, printed = finished_job
    choice = json.loads((run_dir / "choice.json").read_text())
    assert choice["chosen"]["runtime"] == "onnxruntime"
    assert choice["rule"]["budgets"] == {"size_mb": 50}
    assert choice["certificate"]["split"] == "test"
    assert (run_dir / "bundle" / "manifest.json").is_file()
    assert "more minutes would go into" in printed


def test_the_recipe_that_was_found_repeats_no_step(finished_job: tuple[Path, str]) -> None:
    run_dir, _ = finished_job
    found = read_recipe(run_dir / FOUND_RECIPE)
    assert found.search is None
    assert found.data.recombined == 10 * len(
        prepare(found, try_models=False).train
    )  # the tiny checkpoint answers them in no time
    assert len((run_dir / FOUND_RECIPE).read_text().splitlines()) < 120
    done = paredown("run", run_dir / FOUND_RECIPE, "--output-dir", run_dir)
    assert done.returncode == 0, done.stderr
    started = [json.loads(line)["step"] for line in done.stderr.splitlines() if '"event": "start"' in line]
    assert started == []


def test_the_first_bundle_comes_before_the_search(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    """What the first run of two is asked for has neither a search nor trained models, and fewer processes measure."""
    job = WholeJob(str(teacher.path), {"train": str(files["train"]), "validation": str(files["validation"])})
    keys = job.models()
    assert [list(step) for model in keys["models"] for step in model["steps"]] == [["trim"]]
    assert 0 < keys["search"]["minutes"] < job.minutes
    assert job.search_minutes(1.0) > keys["search"]["minutes"] > job.search_minutes(10.0)  # what the first one has left
    assert job.search_minutes(100.0) > 0
    recipe = job.recipe(**keys)
    assert [(t.runtime, t.precision) for t in recipe.targets] == [("onnxruntime", "int8-dynamic")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--minutes", 0), ("minutes: 0: more than 0 are expected",)),
        (("--budget", "size=10"), ("--budget size=10", "size_mb")),
        (("--budget", "size_mb=small"), ("a number is expected, as in size_mb=20",)),
        (("--task", "texts"), ("task: 'texts' is no task", "did you mean")),
    ],
)
def test_wrong_options_are_refused(
    teacher: Checkpoint, files: dict, tmp_path: Path, options: tuple, words: tuple[str, ...]
) -> None:
    data = ("--train", files["train"], "--validation", files["validation"])
    refused(paredown("compress", teacher.path, *data, *options, "--output-dir", tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


def test_init_writes_the_recipe_of_the_whole_job(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    data = ("--train", files["train"], "--validation", files["validation"])
    for name, options in (("short", ()), ("full", ("--full",))):
        done = paredown("init", teacher.path, *data, *options, "--output", tmp_path / f"{name}.yaml")
        assert done.returncode == 0, done.stderr
    assert len((tmp_path / "short.yaml").read_text().splitlines()) <= 45
    short, full = read_recipe(tmp_path / "short.yaml"), read_recipe(tmp_path / "full.yaml")
    assert short == full
    assert short.search is not None
    assert yaml.safe_load((tmp_path / "full.yaml").read_text())["seed"] == 13


def test_the_maximum_length_is_what_the_rows_need(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "teacher")
    config = json.loads((checkpoint.path / "config.json").read_text())
    for positions, words, length in ((512, 20, 128), (512, 200, 256), (512, 600, 512), (200, 600, 200)):
        (checkpoint.path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": positions}))
        texts = ["good film"] * 990 + ["film " * words] * 30
        assert fitting_length(open_checkpoint(checkpoint.path), texts) == length
        assert fitting_length(open_checkpoint(checkpoint.path), texts[:-25]) == 128


def test_a_name_is_made_of_the_directory() -> None:
    assert name_of("/models/my film critic (v2)") == "my-film-critic-v2"
    assert name_of("/") == "model"


@pytest.mark.parametrize(
    ("rows", "throughput", "given", "wanted"),
    [
        (1500, 200.0, 0, {"recombined": 15_000}),  # ten times as many texts at most
        (9000, 600.0, 0, {"recombined": 90_000}),
        (9000, 80.0, 0, {"recombined": 9000}),  # 14,400 are answered in a tenth of the minutes
        (9000, 200.0, 50_000, {"recombined": 0}),  # the user's own texts are more
        (30_000, 80.0, 0, {"distillation_rows": 14_400}),  # fewer than there are
        (3000, 6.7, 0, {"distillation_rows": 2000}),  # never less
        (1500, 2.2, 0, {"distillation_rows": 1500}),
    ],
)
def test_students_learn_from_what_the_teacher_answers_in_a_tenth_of_the_minutes(
    rows: int, throughput: float, given: int, wanted: dict[str, int]
) -> None:
    task = TASKS["text-classification"]
    job = SimpleNamespace(
        train=Rows("train", tuple(map(str, range(rows))), None, ("a", "b")), unlabeled=["text"] * given, task=task
    )
    baseline = SimpleNamespace(throughput_per_s=throughput)
    first = SimpleNamespace(job=job, choice=SimpleNamespace(baseline=baseline))
    assert _texts(WholeJob("teacher", {}, minutes=30), first) == wanted  # type: ignore[arg-type]
