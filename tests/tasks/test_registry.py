"""The table of tasks, and a task that an installed package brings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import SMALL, paredown, write_recipe
from serving import starting

from paredown.compress.models.loading import Checkpoint
from paredown.runtime.answers import ANSWERS
from paredown.runtime.errors import InputError
from paredown.tasks.base import Feature, Task
from paredown.tasks.registry import TASKS, task_named, task_of_architecture

pytestmark = pytest.mark.usefixtures("same_process")


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_says_all_that_is_asked_of_it(task: Task) -> None:
    assert task.answer in ANSWERS
    assert task.limits.endswith(".")
    assert task.tensor_types(2)
    for feature in Feature:
        refusal = task.refusal(feature)
        assert task.supports(feature) == (refusal is None)
        if refusal is not None:
            assert task.name in refusal
            with pytest.raises(InputError, match=r"^here: "):
                task.require(feature, "here")


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("GPT2LMHeadModel", "text-generation"),
        ("MarianMTModel", "text-to-text"),
        ("T5ForConditionalGeneration", "text-to-text"),
        ("BertModel", "sentence-embedding"),
        ("BertForMaskedLM", None),
    ],
)
def test_the_longest_ending_of_a_class_names_its_task(architecture: str, name: str | None) -> None:
    found = task_of_architecture(architecture)
    assert (found and found.name) == name


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'text-classification'"):
        task_named("text-clasification")


@pytest.fixture(scope="module")
def with_toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory for PYTHONPATH with an installed package that brings the task of toy_task.py."""
    home = tmp_path_factory.mktemp("site")
    about = home / "toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[paredown.tasks]\nstar-rating = toy_task:StarRating\n")
    return str(home)


def test_a_task_of_another_package_goes_all_the_way(
    with_toy: str, tmp_path: Path, teacher: Checkpoint, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run, bundle, self-test and server know it without a line of ours being changed."""
    paths = [with_toy, str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.syspath_prepend(with_toy)
    recipe, ours = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL), list(TASKS)
    told = yaml.safe_load(recipe.read_text()) | {"task": "star-rating"}
    recipe.write_text(yaml.safe_dump(told))
    done = paredown("run", recipe, "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    choice = json.loads((tmp_path / "run" / "choice.json").read_text())
    assert choice["chosen"]["metric"] == "within one star"
    assert choice["chosen"]["metric_validation"] == 100  # two stars are never more than one apart
    bundle = tmp_path / "run" / "bundle"
    assert json.loads((bundle / "manifest.json").read_text())["task"] == "star-rating"
    alone = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    answered = paredown("predict", bundle, "--text", "a good film")
    assert json.loads(answered.stdout)["stars"] in (1, 2), answered.stderr
    with starting(tmp_path) as start:
        server = start(bundle)
        status, body = server.ask("/predict", {"text": "a good film"})
        assert (status, json.loads(body)["stars"] in (1, 2)) == (200, True)
        inputs = [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a dull film"]}]
        status, body = server.ask("/v2/models/tiny/infer", {"inputs": inputs})
        assert [output["name"] for output in json.loads(body)["outputs"]] == ["stars"]
    assert task_named("star-rating").name == "star-rating"
    assert list(TASKS) == ours
