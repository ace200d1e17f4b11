"""What measurements.json is made of."""

import re
import subprocess
from pathlib import Path

from paredown.pipeline.results.measurements import commit_of


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
