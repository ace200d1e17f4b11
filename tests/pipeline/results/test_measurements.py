"""What measurements.json is made of."""

import re
import subprocess
from pathlib import Path

from conftest import write_recipe

from paredown.compress.models.loading import Checkpoint
from paredown.pipeline.engine import Results
from paredown.pipeline.failures import Failure
from paredown.pipeline.job import prepare
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.results.measurements import commit_of, hosts_of
from paredown.pipeline.store import Done


def test_every_machine_that_did_a_step_is_named(untrained: Checkpoint, files: dict, tmp_path: Path) -> None:
    """First the one that measured; a step that two models share, and a failure that costs two steps, count once."""
    job = prepare(read_recipe(write_recipe(tmp_path / "recipe.yaml", untrained, files)), try_models=False)

    def done(name: str, host: str) -> Done:
        return Done(Path(name), {}, 1.0, host=host)

    failure = Failure("c-1-distill", "nan", Path("c"), host="unlucky")
    steps = {"a-1-distill": done("a", "big"), "b-1-distill": done("a", "big"), "measure-1": done("m", "edge")}
    results = Results(steps, {"c-1-distill": failure, "c-onnxruntime-fp32": failure}, 3)
    before = Results({"adapt-1": done("adapt-1", "tuner"), "old": done("old", "")}, {}, 1)
    assert [*hosts_of(job, results, before).items()] == [("edge", 1), ("big", 1), ("unlucky", 1), ("tuner", 1)]


def test_the_commit_of_a_working_directory(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    assert commit_of(tmp_path) is None
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    commit = commit_of(tmp_path)
    assert commit is not None
    assert re.fullmatch("[0-9a-f]{12}", commit)
    (tmp_path / "a").write_text("2")
    assert commit_of(tmp_path) == f"{commit}+"
