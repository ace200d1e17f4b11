"""Steps before compression, and the verbs that do the same alone."""

import json
from pathlib import Path

import pytest
from conftest import SMALL, paredown, refused, write_csv, write_recipe

from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.pipeline.results.compare_baseline import Comparison, JudgedRows, verdict

pytestmark = pytest.mark.usefixtures("same_process")


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """Rows that came later, of a label that the checkpoint does not know, among some that it does."""
    import random

    rng = random.Random(5)
    rows = [(" ".join(rng.choices(["the", "was", "is", "of", "in"], k=6)), "question") for _ in range(60)]
    rows += [(f"{'good ' * i}lovely film", "positive") for i in range(3, 8)]
    rows += [(f"{'awful ' * i}dull plot", "negative") for i in range(3, 8)]
    rng.shuffle(rows)
    return write_csv(tmp_path / "later.csv", rows)


ADAPT = """max_length: 32
adapt:
  - augment: {{kinds: [swap, deletion]}}
  - finetune: {{epochs: 0.5, learning_rate: 0.002, peft: {{kind: lora}}, class_weights: balanced}}
  - update: {{new: {new}, epochs: 12, learning_rate: 0.001, batch_size: 8, freeze_embeddings: false}}
"""


def test_a_recipe_that_adapts_its_checkpoint_first(
    teacher: Checkpoint, files: dict, later: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL, **{f", test: {files['test']}": ""})
    recipe.write_text(recipe.read_text().replace("max_length: 32\n", ADAPT.format(new=later.name)))
    done = paredown("run", recipe, "--output-dir", tmp_path / "run", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "adapt-3-update" in done.stdout
    held_out = f"{files['validation']}: no test rows are given, so 67 of 200 rows are held out for the certificate"
    assert f"note: {held_out}" in done.stdout
    assert "measure" not in done.stdout.split("Then what this leaves")[0]
    done = paredown("run", recipe, "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "measurements.json").read_text())
    assert found["labels"] == ["negative", "positive", "question"]
    changed = found["adapt"]["adapt-3-update"]
    assert changed["new_labels"] == ["question"]
    assert changed["new_after"] > changed["new_before"] + 40
    assert changed["forgetting"] < 10
    assert changed["said"] in done.stdout
    assert "Before compression" in (tmp_path / "run" / "report.html").read_text()
    assert found["rows"]["validation"] == 133 + 14  # not augmented
    assert found["rows"]["test"] == 67
    assert found["certificate_split"] == "held-out validation"
    assert found["data"]["test"].startswith(f"{files['validation']} (a third, held out)")
    first, last = found["notes"][0], found["notes"][-1]
    assert first.startswith(held_out)
    assert "later.csv (a fifth, held out): too few rows to hold a third out; the certificate is of the old" in last
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [event["text"] for event in events if event["event"] == "note"] == found["notes"]
    copies = found["adapt"]["adapt-1-augment"]["rows"]
    assert 400 + copies + 56 - 5 <= found["rows"]["train"] <= 400 + copies + 56  # without copies that are judged too
    assert json.loads((tmp_path / "run" / "bundle" / "manifest.json").read_text())["labels"][2] == "question"
    done = paredown("run", recipe, "--output-dir", tmp_path / "run")
    assert "Nothing to do" in done.stdout
    done = paredown("run", recipe, "--output-dir", tmp_path / "run", "--dry-run")
    assert "to do" not in done.stdout
    assert "measure" in done.stdout


@pytest.mark.slow
def test_the_verbs(teacher: Checkpoint, files: dict, later: Path, tmp_path: Path) -> None:
    data = ["--train", files["train"], "--validation", files["validation"]]
    done = paredown(
        "update", teacher.path, *data, "--new", later, "--epochs", 5, "--learning-rate", 0.005, "--retrain", 1,
        "--ewc", 1, "--output-dir", tmp_path / "updated",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "forgetting" in done.stdout
    assert open_checkpoint(tmp_path / "updated").labels == ("negative", "positive", "question")
    found = json.loads((tmp_path / "updated" / "update.json").read_text())
    assert found["retrain"]["estimated"] is False
    assert found["rows"] == 5 * 2 * 56  # a fifth of the 70 is held out, and as many old rows come again
    tuned = ["--peft", "lora", "--rank", 4, "--epochs", 1, "--class-weights", "balanced", "--patience", 2]
    done = paredown(
        "finetune", teacher.path, *data, *tuned, "--adversarial", "fgm", "--schedule", "cosine",
        "--output-dir", tmp_path / "tuned",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("accuracy ")[1].split()[0]) > 85


def test_augment_writes_rows_that_can_be_trained_on(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    done = paredown("augment", "--train", files["train"], "--output", tmp_path / "more.jsonl", "--kind", "typos")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text().splitlines()]
    assert 700 < len(rows) <= 800
    assert {row["label"] for row in rows} == {"negative", "positive"}
    done = paredown("augment", "--train", files["unlabeled"], "--output", tmp_path / "text.jsonl")
    assert done.returncode == 0, done.stderr
    assert set(json.loads((tmp_path / "text.jsonl").read_text().splitlines()[0])) == {"text"}
    more = ["--output", tmp_path / "x.jsonl"]
    refused(paredown("augment", "--train", files["train"], *more, "--kind", "synonyms"), "synonyms needs synonyms")
    refused(paredown("augment", "--train", files["train"], "--output", tmp_path / "x.csv"), ".jsonl")


def test_what_is_refused(teacher: Checkpoint, files: dict, later: Path, tmp_path: Path) -> None:
    out = ["--output-dir", tmp_path / "out"]
    train = ["--train", files["train"]]
    refused(paredown("finetune", teacher.path, *train, *out, "--peft", "lorra"), "--peft", "lora")
    refused(paredown("finetune", teacher.path, *train, *out, "--rank", 4), "--rank", "--peft")
    refused(paredown("finetune", teacher.path, *train, *out, "--patience", 2), "--validation")
    refused(paredown("update", teacher.path, *train, *out, "--new", tmp_path / "none.csv"), "no such file")
    same = ["--new", files["validation"], "--validation", files["validation"]]
    refused(paredown("update", teacher.path, *train, *out, *same), "the same rows")
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)
    text = recipe.read_text()
    for adapt, words in (
        ("- finetune: {class_weights: {posittive: 2}}", ["posittive", "did you mean 'positive'?"]),
        (f"- update: {{new: {files['validation']}}}", ["the same rows"]),
        ("- update: {}", ["'adapt.0.update.new' is missing"]),
        ("- {}", ["exactly one of"]),
    ):
        recipe.write_text(text.replace("max_length: 32\n", f"max_length: 32\nadapt:\n  {adapt}\n"))
        refused(paredown("run", recipe, "--output-dir", tmp_path / "run"), *words)
    recipe.write_text(
        text.replace("max_length: 32\n", f"teachers: [{teacher.path}]\nadapt:\n  - update: {{new: {later}}}\n")
    )
    refused(paredown("run", recipe, *out), "'question'", "teachers")


def test_an_old_run_is_kept_where_nothing_is_surely_better(finished: Path, files: dict, tmp_path: Path) -> None:
    recipe = finished.parent / "recipe.yaml"
    again = tmp_path / "again"
    done = paredown("run", recipe, "--output-dir", again, "--baseline", finished)
    assert done.returncode == 0, done.stderr
    steps = [path for path in (again / "steps").iterdir() if not path.name.startswith(".")]
    assert steps
    for path in steps:  # taken from the old run, not done again
        assert (path / "step.json").read_text() == (finished / "steps" / path.name / "step.json").read_text()
    found = json.loads((again / "replace.json").read_text())
    assert found["drop"] == 0
    assert found["mcnemar_p"] == 1
    assert found["rows"] == {"split": "test", "count": 200}
    assert found["why"] == "the same model, byte for byte"  # an interval of its times lies beside 1 once in twenty runs
    assert f"keep {finished}" in " ".join(done.stdout.split())
    refused(paredown("run", recipe, "--output-dir", finished, "--baseline", finished), "would overwrite it")
    refused(paredown("run", recipe, "--output-dir", again, "--baseline", files["train"]), "--baseline", "no bundle")


@pytest.mark.parametrize(
    ("drop", "upper", "p", "interval", "replace", "why"),
    [
        (-2.0, -1.0, 0.01, [0.9, 1.1], True, "better: +2.00 points"),
        (-2.0, -1.0, 0.01, [1.9, 2.1], True, "mind the time"),
        (3.0, 4.0, 0.01, [0.1, 0.2], False, "worse: -3.00"),
        (0.2, 0.9, 0.6, [0.4, 0.5], True, "faster and not worse"),
        (0.2, 1.9, 0.6, [0.4, 0.5], False, "no difference"),
        (-0.5, 0.9, 0.6, [0.9, 1.1], False, "no difference"),
    ],
)
def test_the_verdict(drop: float, upper: float, p: float, interval: list, replace: bool, why: str) -> None:
    found = Comparison(
        old="old",
        new="new",
        rows=JudgedRows(split="test", count=400),
        metric="accuracy",
        metric_old=80.0,
        metric_new=80.0 - drop,
        drop=drop,
        drop_upper_95=upper,
        mcnemar_p=p,
        latency_ratio=sum(interval) / 2,
        latency_ratio_ci=(interval[0], interval[1]),
        noisy=False,
        max_drop=1.0,
        same_model=False,
    )
    replaced, said = verdict(found)
    assert replaced is replace
    assert why in said
