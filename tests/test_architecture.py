"""Who may import whom, what stays light, and what the wheel holds."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("runtime", "tasks", "compress", "export", "benchmarks", "serve", "pipeline")


def test_imports_keep_to_the_contracts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The floors, no circle, and no torch where none may be: [tool.importlinter] in pyproject.toml."""
    monkeypatch.chdir(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.cli.main",
        "pipeline.results.publish",
        "runtime.session",
        "tasks.registry",
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


def test_importing_paredown_is_light() -> None:
    code = "import sys, paredown; print([m for m in ('numpy', 'torch', 'pydantic', 'typer') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_wheel_holds_paredown_and_nothing_else(tmp_path: Path) -> None:
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools keeps modules there that are gone
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    code = {name for name in names if ".dist-info/" not in name and name.endswith(".py")}
    files = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")]
    side_by_side = {ROOT / "benchmarks" / name for name in ("peers", "results")}  # runs of ours, not of the package
    files = [p for p in files if not side_by_side & {*p.parents}]
    assert code == {f"paredown/{p.relative_to(ROOT)}" for p in [*files, *ROOT.glob("*.py")]}
    for folder in FOLDERS:
        assert f"paredown/{folder}/py.typed" in names
    assert {"paredown/benchmarks/report.html", "paredown/runtime/manifest.schema.json"} <= {*names}
    assert "paredown/export/bundle/model_card.md.jinja" in names
    base = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    light = {"numpy", "tokenizers", "pydantic", "pyyaml", "typer", "rich"}
    # Report, model card and SBOM, which a base install writes again.
    light |= {"jinja2", "packaging", "cyclonedx-python-lib", "huggingface-hub"}
    assert {line.split()[1].split(">")[0].lower() for line in base} == light


def test_constraints_hold_torch() -> None:
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
    assert "--constraint constraints.txt" in (ROOT / "Makefile").read_text()


def test_the_machine_is_plain_json() -> None:
    from paredown.export.hardware import machine

    assert json.loads(json.dumps(machine())) == machine()


def test_what_ci_runs_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
