"""The fixtures of a task from its recipe to the bundle; a test module says which in `PROJECT`."""

from pathlib import Path

import pytest
from conftest import paredown
from projects import Project


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the module's project: data, a trained teacher, and recipe.yaml."""
    project, path = request.module.PROJECT, tmp_path_factory.mktemp("home")
    assert isinstance(project, Project)
    project.write(path)
    return path


@pytest.fixture(scope="module")
def ran(home: Path, same_process: None) -> Path:
    """The same directory with the recipe's run in `run`."""
    done = paredown("run", "recipe.yaml", "--output-dir", "run", cwd=home)
    assert done.returncode == 0, done.stderr
    return home
