import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import BAD, GOOD, TASK, make_checkpoint, paredown, refused, sentences

from paredown.compress.attribution import by_word, integrated_gradients, rollout
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load

TEXT = "the film was lovely and brilliant"


def test_gradients_add_up_to_the_rise_of_the_logit_and_point_at_the_telling_words(teacher: Checkpoint) -> None:
    model, encoding = load(teacher, TASK), teacher.encoder().tokenizer.encode(TEXT)
    values = integrated_gradients(model, encoding.ids, 1, 0)
    nothing = [encoding.ids[0], *[0] * (len(encoding.ids) - 2), encoding.ids[-1]]
    rows = np.array([encoding.ids, nothing])
    full, empty = forward(model, {"input_ids": rows, "attention_mask": np.ones_like(rows)})["logits"][:, 1]
    assert values.sum() == pytest.approx(full - empty, rel=0.05, abs=0.05)
    words = by_word(TEXT, encoding, values)
    telling = [i for i, word in enumerate(TEXT.split()) if word in GOOD + BAD]
    assert set(np.argsort(words)[-2:]) == set(telling)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert", "deberta-v2"])
def test_rollout_is_a_distribution_and_leaves_the_model_as_it_was(tmp_path: Path, kind: str) -> None:
    checkpoint = make_checkpoint(tmp_path / kind, kind, layers=2)
    model = load(checkpoint, TASK)
    was = model.config._attn_implementation
    reach = rollout(model, [2, 5, 11, 20, 3])
    assert reach is not None
    assert reach.sum() == pytest.approx(1, abs=1e-4)
    assert (reach >= 0).all()
    assert model.config._attn_implementation == was


def test_a_word_past_the_longest_input_is_not_read(teacher: Checkpoint) -> None:
    encoder = teacher.encoder(5)
    encoding = encoder.tokenizer.encode(TEXT)
    values = by_word(TEXT, encoding, np.ones(len(encoding.ids)))
    read = len(encoding.ids) - 2
    assert read < len(TEXT.split())
    assert np.isnan(values).sum() == len(TEXT.split()) - read
    assert np.nansum(values) == read


def test_teacher_and_students_side_by_side(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    quick = ["--static", "--epochs", 2, "--output-dir", tmp_path / "static"]
    assert paredown("distill", teacher.path, "--train", files["train"], *quick).returncode == 0
    page = tmp_path / "explain.html"
    words = [
        "explain",
        teacher.path,
        tmp_path / "static",
        "--text",
        TEXT,
        "--text",
        "<b>awful</b> plot",
        "--output",
        page,
    ]
    done = paredown(*words)
    assert done.returncode == 0, done.stderr
    html = page.read_text()
    assert html.count("<tr>") == 4
    assert "&lt;b&gt;awful" in html
    assert "<script" not in html
    assert "rank correlation with" in done.stdout
    refused(paredown(*words), "explain.html", "new file")


def test_groups_are_told_apart(teacher: Checkpoint, finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "who"])
        for i, (text, label) in enumerate(sentences(120, 9)):
            wrong = {"negative": "positive", "positive": "negative"}[label]
            writer.writerow([text, label if i % 3 else wrong, "a" if i % 3 else "b"])
    done = paredown(
        "fairness", teacher.path, finished / "bundle", "--data", path, "--group", "who", "--json", tmp_path / "f.json"
    )
    assert done.returncode == 0, done.stderr
    first, _ = json.loads((tmp_path / "f.json").read_text())["models"]
    assert first["groups"]["a"]["rows"] == 80
    assert first["groups"]["a"]["accuracy"] > 85 > 15 > first["groups"]["b"]["accuracy"]
    assert first["apart"]["accuracy"] == pytest.approx(
        first["groups"]["a"]["accuracy"] - first["groups"]["b"]["accuracy"]
    )
    refused(paredown("fairness", teacher.path, "--data", path, "--group", "whom"), "whom", "did you mean 'who'?")
