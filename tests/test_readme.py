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

from paredown.compress.models.loading import Checkpoint

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


def test_links_inside_the_repository_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
