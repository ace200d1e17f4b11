"""Every bash and python block of the README and the docs runs, in one directory per page with a tiny checkpoint."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paredown.compress.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_blocks_run(page: Path, finished: Path, teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    shutil.copytree(teacher.path, tmp_path / "checkpoint")
    shutil.copytree(finished, tmp_path / "runs" / "demo")
    for name, file in files.items():
        shutil.copyfile(file, tmp_path / f"{name}{file.suffix}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for kind, code in BLOCK.findall(page.read_text()):
        command = (
            ["bash", "-euo", "pipefail", "-c", code] if kind == "bash" else [sys.executable, "-W", "ignore", "-c", code]
        )
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_links_inside_the_repository_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
