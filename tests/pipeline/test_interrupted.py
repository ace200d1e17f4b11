"""Ctrl+C, sent to the real program and everything that it has started: exit code 130 and one line."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SMALL, paredown, write_recipe
from serving import PATIENCE_S, eventually
from strangers import endless, openers

from paredown.compress.models.loading import Checkpoint

pytestmark = pytest.mark.usefixtures("same_process")
BEGINNING = "nothing is kept, and the same command starts from the beginning"


def begun(home: Path, *words: object) -> subprocess.Popen:
    """The program, in a directory and a process group of its own, as a terminal starts it."""
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "paredown", *map(str, words)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts these tests may ignore it
    try:
        with (home / "out").open("w") as out, (home / "err").open("w") as err:
            return subprocess.Popen(command, stdout=out, stderr=err, cwd=home, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted(process: subprocess.Popen, home: Path, when: Callable[[], object]) -> str:
    """The one line of a program that is interrupted then."""
    try:
        eventually(lambda: when() or process.poll() is not None)
        assert process.poll() is None, (home / "err").read_text()
        for pid in [process.pid, *openers(process.pid)]:
            subprocess.run(["kill", "-INT", str(pid)], check=False)
        assert process.wait(PATIENCE_S) == 130, (home / "err").read_text()
    finally:
        process.kill()
        process.wait()
    said = (home / "err").read_text().splitlines()
    lines = [line for line in said if not line.startswith(("{", "warning: "))]
    assert len(lines) == 1, lines
    return lines[0]


def test_while_the_program_is_imported(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "typer.py").write_text("import pathlib, time\npathlib.Path('here').touch()\ntime.sleep(60)\n")
    process = begun(home, "verify", "x")
    assert interrupted(process, home, (home / "here").exists) == f"stopped by Ctrl+C; {BEGINNING}"


def test_a_run_says_that_it_goes_on_and_does(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    recipe, home = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL), tmp_path / "home"
    run_dir, slow = tmp_path / "run", {**SMALL, "min_seconds: 0.05": "min_seconds: 60"}
    process = begun(home, "run", write_recipe(tmp_path / "slow.yaml", teacher, files, **slow), "--output-dir", run_dir)
    line = interrupted(process, home, lambda: any((run_dir / "steps").glob(".tmp-measure-1-*")))
    assert line.endswith("finished steps are kept in the run directory, and the same command continues after them")
    assert not list(run_dir.rglob(".tmp-*"))
    again = paredown("run", recipe, "--output-dir", run_dir)
    assert again.returncode == 0, again.stderr
    assert '"cached"' in again.stderr


@pytest.mark.parametrize("command", ["finetune", "bench"])
def test_while_it_works(command: str, teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    home, rows = tmp_path / "home", files["train"]
    words = {
        "finetune": ["--train", rows, "--epochs", "10000", "--output-dir", tmp_path / "out"],
        "bench": ["--data", rows, "--min-seconds", "100"],
    }[command]
    process = begun(home, command, teacher.path, *words)
    line = interrupted(process, home, lambda: '"event"' in (home / "err").read_text())
    assert line == f"stopped by Ctrl+C; {BEGINNING}"
    assert not list(tmp_path.glob("*out*"))


def test_verify_of_a_model_that_never_comes_back(finished: Path, tmp_path: Path) -> None:
    bundle, home = endless(finished / "bundle", tmp_path / "endless"), tmp_path / "home"
    process = begun(home, "verify", bundle)
    assert interrupted(process, home, lambda: openers(process.pid)) == f"stopped by Ctrl+C; {BEGINNING}"
    assert "OK" not in (home / "out").read_text()


def test_a_server(finished: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = begun(home, "serve", finished / "bundle", "--port", "0")
    line = interrupted(process, home, lambda: '"serving"' in (home / "err").read_text())
    assert line == "stopped by Ctrl+C; requests that were under way have been answered"
