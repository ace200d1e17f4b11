"""A small bundle that layouts are made of."""

from pathlib import Path

import pytest
from bundling import bundle_of
from conftest import TASK

from paredown.compress.models.loading import Checkpoint


@pytest.fixture(scope="module")
def made(untrained: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(untrained, TASK, tmp_path_factory.mktemp("made"))
