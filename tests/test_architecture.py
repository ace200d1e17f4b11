"""Who may import whom, what stays light, and what the wheel holds."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paredown.tasks.base import Task

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("runtime", "tasks", "compress", "export", "benchmarks", "serve", "pipeline")
TASK_BRANCHES = 4  # conditions on a task's attributes outside tasks/; lower it when one goes, never raise it
TASK_NAMES = {"task", "_task", "kind", "task_named"}  # what a task is called where it is used


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
        "serve.http.app",
        "benchmarks.measuring.worker",
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
    ours = ("gpu", "peers", "results")  # runs of ours, not of the package
    side_by_side = {ROOT / "benchmarks" / name for name in ours}
    files = [p for p in files if not side_by_side & {*p.parents}]
    assert code == {f"paredown/{p.relative_to(ROOT)}" for p in [*files, *ROOT.glob("*.py")]}
    for folder in FOLDERS:
        assert f"paredown/{folder}/py.typed" in names
    assert {"paredown/benchmarks/report/report.html", "paredown/runtime/manifest.schema.json"} <= {*names}
    assert "paredown/export/bundle/model_card.md.jinja" in names
    base = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    light = {"numpy", "tokenizers", "pydantic", "pyyaml", "typer", "rich", "filelock", "psutil"}
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


def conditions(tree: ast.AST) -> Iterator[ast.expr]:
    """Every expression that decides something: tests of if, while and comprehensions, operands, comparisons."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            yield node.test
        elif isinstance(node, ast.comprehension):
            yield from node.ifs
        elif isinstance(node, ast.BoolOp):
            yield from node.values
        elif isinstance(node, ast.Compare):
            yield node


def task_reads(source: str) -> list[tuple[int, str]]:
    """(line, expression) of every attribute of a task that a condition reads; methods that it calls do not count."""
    tree = ast.parse(source)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = {
        id(node): (node.lineno, ast.unparse(node))
        for condition in conditions(tree)
        for node in ast.walk(condition)
        if isinstance(node, ast.Attribute) and id(node) not in called and _is_task_attribute(node)
    }
    return sorted(found.values())


def _is_task_attribute(node: ast.Attribute) -> bool:
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return name in TASK_NAMES and (hasattr(Task, node.attr) or node.attr in Task.__annotations__)


def test_conditions_on_a_task_are_found() -> None:
    source = """
a = 1 if job.task.reads_images else 2
b = task.generates and kind.columns.own
c = [x for x in y if x < task.width or task.per_token]
if task_named("x").pools or task.supports(feature) or task.keeps_labels(change) or task == other:
    d = task.metric_name
"""
    assert task_reads(source) == [
        (2, "job.task.reads_images"),
        (3, "kind.columns"),
        (3, "task.generates"),
        (4, "task.per_token"),
        (5, "task_named('x').pools"),
    ]


def test_nothing_outside_tasks_branches_on_a_task() -> None:
    """DESIGN: other folders ask `task.supports(...)` or call a method."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {read}"
        for folder in FOLDERS
        if folder != "tasks"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, read in task_reads(path.read_text())
    ]
    assert len(found) <= TASK_BRANCHES, "\n".join(found)


def test_contributing_names_files_that_exist() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## Where to change what\n")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 15
    for row in rows:
        named = [name for name in re.findall(r"`([^`]+)`", row) if "/" in name]
        assert named, row
        assert not [name for name in named if not (ROOT / name).exists()], row
