"""Every bash and python block of the README and the docs runs, in one directory per page with a tiny checkpoint."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import paredown
from typer.main import get_command

from paredown.benchmarks.results.notebook import executed
from paredown.compress.models.architectures import EXPORTABLE
from paredown.compress.models.loading import Checkpoint
from paredown.export.runtimes.registry import RUNTIMES
from paredown.pipeline.cli.main import app
from paredown.tasks.base import Feature
from paredown.tasks.registry import TASKS

ROOT = Path(__file__).resolve().parents[1]
SLOW = {"choosing.md", "compression.md", "loop.md", "tasks.md"}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] * (p.name in SLOW)) for p in PAGES], ids=lambda p: p.name
)
def test_blocks_run(page: Path, finished: Path, teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    shutil.copytree(teacher.path, tmp_path / "checkpoint")
    shutil.copytree(finished, tmp_path / "runs" / "demo")
    for name, file in files.items():
        shutil.copyfile(file, tmp_path / f"{name}{file.suffix}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for kind, code in BLOCK.findall(page.read_text()):
        for command in _commands(kind, code):
            if command[0] == "paredown":
                done = paredown(*command[1:], cwd=tmp_path)
            else:
                done = subprocess.run(
                    command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False
                )
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def _commands(kind: str, code: str) -> Iterator[list[str]]:
    """What a block runs: `paredown` alone on its line in this process (see conftest), everything else by its shell."""
    shell = ["bash", "-euo", "pipefail", "-c"]
    if kind == "python":
        yield [sys.executable, "-W", "ignore", "-c", code]
    elif "&\n" in code:  # a job in the background: its block is one shell's
        yield [*shell, code]
    else:
        for ours, lines in itertools.groupby(code.splitlines(), lambda line: line.startswith("paredown ")):
            if ours:
                yield from (shlex.split(line, comments=True) for line in lines)
            else:
                yield [*shell, "\n".join(lines)]


def test_the_notebook_runs(finished: Path, teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    shutil.copytree(teacher.path, tmp_path / "checkpoint")
    shutil.copytree(finished, tmp_path / "runs" / "demo")
    for name in ("train", "test"):
        shutil.copyfile(files[name], tmp_path / f"{name}.csv")
    done = executed(tmp_path)
    assert any("image/png" in str(output) for cell in done.cells for output in cell.get("outputs", ()))


FEATURES = {
    "search": Feature.SEARCH,
    "prune": Feature.PRUNE,
    "static student": Feature.STATIC,
    "cascade": Feature.CASCADE,
    "trim": Feature.TRIM,
}


def test_what_the_readme_says_is_supported() -> None:
    """The matrix of tasks, and the names of architectures, runtimes and versions of Python below it."""
    part = (ROOT / "README.md").read_text().partition("## What is supported")[2]
    table, _, below = part.partition("- **Architectures**")
    head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.split("\n") if line[:1] == "|"]
    assert [row[0].split("`")[1] for row in rows] == list(TASKS)
    for name, *cells in rows:
        task, said = TASKS[name.split("`")[1]], dict(zip(head[1:], cells, strict=True))
        precisions = RUNTIMES["onnxruntime"].precisions(task)
        assert {key: said[key] for key in FEATURES} == {
            key: "yes" if task.supports(feature) else "" for key, feature in FEATURES.items()
        }
        assert said["INT8"] == ("yes" if "int8-dynamic" in precisions else "weights"), name
        assert said["TensorRT"] == ("built" if task.supports(Feature.GPU) and task.graph == "single" else ""), name
    architectures, runtimes, python = below.split("- **")[:3]
    assert set(re.findall(r"`([\w-]+)`", architectures)) == {name for kinds in EXPORTABLE.values() for name in kinds}
    assert set(re.findall(r"`([\w-]+)`", runtimes)) == set(RUNTIMES)
    listed = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert re.findall(r"\b3\.\d+", python)[:3] == listed


def shown() -> Iterator[tuple[str, str]]:
    """Every other command of ours in the pages: lines of blocks that are not run, and code within sentences."""
    for page in PAGES:
        for code in re.findall(r"^```(?:text|console)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in code.replace("\\\n", " ").splitlines():
                yield page.name, line.removeprefix("$ ").partition("  #")[0]
        for code in re.findall(r"`(paredown [^`]+)`", page.read_text()):
            yield page.name, code


@pytest.mark.parametrize(
    ("page", "line"), [(p, line) for p, line in shown() if line.startswith("paredown ") and "..." not in line]
)
def test_commands_that_are_shown_can_be_typed(page: str, line: str) -> None:
    _, name, *words = shlex.split(line)
    rest = list(itertools.takewhile(lambda word: word not in (">", "|"), words))  # the rest is the shell's
    command = get_command(app).commands[name]  # pyright: ignore[reportAttributeAccessIssue]
    command.make_context(name, rest, resilient_parsing=not rest)


def test_links_inside_the_repository_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
