"""The fixtures of a task from its recipe to the bundle; a test module says which in `PROJECT`."""

from pathlib import Path
from unittest import mock

import pytest
from conftest import paredown
from projects import Project
from same_process import SameProcess

from paredown.benchmarks.measuring import interleaved


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the module's project: data, a trained teacher, and recipe.yaml."""
    project, path = request.module.PROJECT, tmp_path_factory.mktemp("home")
    assert isinstance(project, Project)
    project.write(path)
    return path


@pytest.fixture(scope="module")
def ran(home: Path) -> Path:
    """The same directory with the recipe's run in `run`; timing is in this process, for no time is compared here."""
    with mock.patch.object(interleaved, "Worker", SameProcess):
        done = paredown("run", "recipe.yaml", "--output-dir", "run", cwd=home)
    assert done.returncode == 0, done.stderr
    return home
