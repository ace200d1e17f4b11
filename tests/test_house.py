"""Who may import whom, what stays light, and what the wheel holds."""

import ast
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("pipeline", "benchmarks", "serve", "export", "compress")
MAY_IMPORT = {
    "pipeline": {"benchmarks", "serve", "export", "compress"},
    "benchmarks": {"export", "compress"},
    "serve": {"export"},
    "export": {"compress"},
    "compress": set(),
}


def imports(path: Path) -> set[str]:
    """Rooms that a file imports from, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == 2:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paredown"):
            found.add("paredown by its absolute name")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_run_downwards_only(room: str) -> None:
    for path in (ROOT / room).glob("*.py"):
        assert imports(path) <= MAY_IMPORT[room], path


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.cli.main",
        "pipeline.results.publish",
        "runtime.session",
        "export.bundle.writer",
        "export.predictor",
        "serve.app",
        "benchmarks.worker",
    ],
)
def test_these_import_without_torch(module: str) -> None:
    code = f"import sys, paredown.{module}; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_wheel_holds_paredown_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    code = [name for name in names if ".dist-info/" not in name]
    assert all(name.split("/")[:2][0] == "paredown" and name.split("/")[1] in ROOMS for name in code), code
    for room in ROOMS:
        assert f"paredown/{room}/py.typed" in names
    expected = {f"paredown/{p.relative_to(ROOT)}" for room in ROOMS for p in (ROOT / room).glob("*.py")}
    assert {n for n in code if n.endswith(".py")} == expected
    assert "paredown/benchmarks/report.html" in names
    base = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    light = {"numpy", "tokenizers", "pydantic", "pyyaml", "typer", "rich"}
    light |= {"jinja2", "packaging", "cyclonedx-python-lib"}  # report and SBOM, which a base install writes again
    assert {line.split()[1].split(">")[0].lower() for line in base} == light


def test_constraints_hold_torch() -> None:
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
    assert "--constraint constraints.txt" in (ROOT / "Makefile").read_text()


def test_machine_is_plain_json() -> None:
    from paredown.export.hardware import machine

    assert json.loads(json.dumps(machine())) == machine()
