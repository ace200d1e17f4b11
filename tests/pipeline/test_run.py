"""Promises 1 and 2: kill it anywhere and run it again; never a silent bad model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
from conftest import OPENVINO, SMALL, paredown, refused, write_recipe

from paredown.compress.models.loading import Checkpoint
from paredown.pipeline import plan as plan_module
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.run import default_run_dir
from paredown.pipeline.store import lock
from paredown.runtime.errors import StepError
from paredown.runtime.selftest import selftest

pytestmark = pytest.mark.usefixtures("same_process")
KEYS = {
    "name", "runtime", "precision", "metric", "metric_validation", "metric_test", "drop_validation", "drop_test",
    "drop_upper_95", "certificate", "speedup_ci", "speedup_vs_plain_int8", "serving",
    "latency_ms", "speedup_vs_baseline", "throughput_per_s", "size_mb", "cost_per_million",
}  # fmt: skip


def contents(run_dir: Path) -> dict[str, str]:
    """Name and files' hashes of every step, the timings apart."""
    found = {}
    for marker in run_dir.glob("steps/*/step.json"):
        data = json.loads(marker.read_text())
        found[marker.parent.name] = {name: sha for name, (sha, _) in data["files"].items() if name != "timings.json"}
    return found


@pytest.mark.parametrize(("line", "expected"), [("name: tiny\n", "tiny"), ("name: model\n", "model"), ("", "recipe")])
def test_the_default_directory_has_the_name_that_is_given(
    line: str, expected: str, teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    """`model` is the default of `name` too: written down, it counts."""
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **{"name: tiny\n": line})
    assert default_run_dir(read_recipe(recipe), recipe) == Path("runs") / expected


def test_the_run_directory_holds_what_the_design_says(finished: Path) -> None:
    for name in ("recipe.resolved.yaml", "steps", "measurements.json", "choice.json", "report.html", "bundle"):
        assert (finished / name).exists(), name
    choice = json.loads((finished / "choice.json").read_text())
    assert choice["chosen"].keys() >= KEYS
    assert choice["baseline"].keys() >= KEYS
    assert choice["baseline"]["name"] == "teacher/pytorch/fp32"
    assert choice["baseline"]["drop_validation"] == 0
    assert len(choice["candidates"]) == 18
    for candidate in choice["candidates"]:
        assert candidate.keys() >= KEYS, candidate["name"]
    assert set(choice["chosen"]["latency_ms"]) >= {"p50", "p95", "p99"}
    assert choice["chosen"]["rejected_because"] is None
    assert choice["chosen"]["drop_validation"] <= 5
    memory = {c["name"]: c["memory_mb"] for c in choice["candidates"] if c["latency_ms"]}
    assert memory["teacher/onnxruntime/fp32"] < memory["teacher/pytorch/fp32"]
    selftest(finished / "bundle")


def test_a_second_run_does_nothing_again(finished: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file() and not p.name.startswith(".")}
    done = paredown("run", finished.parent / "recipe.yaml", "--output-dir", finished)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stdout
    after = {p: p.stat().st_mtime_ns for p in before}
    changed = {p.name for p in before if before[p] != after[p]}
    assert changed <= {"recipe.resolved.yaml"}


def test_the_resolved_recipe_is_the_same_job(finished: Path) -> None:
    done = paredown("run", finished / "recipe.resolved.yaml", "--output-dir", finished)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stdout


def test_dry_run_shows_the_plan_and_does_nothing(finished: Path, tmp_path: Path) -> None:
    done = paredown("run", finished.parent / "recipe.yaml", "--output-dir", tmp_path / "new", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "distil-1-1-distill" in done.stdout
    assert "to do" in done.stdout
    assert not (tmp_path / "new").exists()
    done = paredown("run", finished.parent / "recipe.yaml", "--output-dir", finished, "--dry-run")
    assert "already there" in done.stdout
    assert "to do" not in done.stdout


@pytest.mark.parametrize(
    "where",
    [
        "distil-1-1-distill",
        "teacher-onnxruntime-int8-dynamic",
        "measure-2",
        "publish",
    ],
)
def test_killed_anywhere_it_goes_on_to_the_same_result(where: str, finished: Path, tmp_path: Path) -> None:
    recipe = finished.parent / "recipe.yaml"
    run_dir = tmp_path / "run"  # the other steps are there: what is to be done again is the one that was killed
    shutil.copytree(finished / "steps", run_dir / "steps", ignore=shutil.ignore_patterns(f"{where}-*"))
    command = [sys.executable, "-m", "paredown", "run", str(recipe), "--output-dir", str(run_dir)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder, scratch = (run_dir, ".tmp-publish") if where == "publish" else (run_dir / "steps", f".tmp-{where}-*")
    deadline = time.monotonic() + 120
    while not any(folder.glob(scratch)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run_dir / "choice.json").exists() or where == "publish"
    assert not (run_dir / "bundle").exists()
    finished_before = contents(run_dir)
    done = paredown("run", recipe, "--output-dir", run_dir)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert len([e for e in events if e["event"] == "cached"]) == len(finished_before)
    assert contents(run_dir).items() >= finished_before.items()
    assert contents(run_dir) == contents(finished)
    assert not list(run_dir.rglob(".tmp-*"))


def test_the_second_of_two_runs_says_who_holds_the_lock_and_the_dead_hold_none(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)
    command = [sys.executable, "-m", "paredown", "run", str(recipe), "--output-dir", str(tmp_path / "run")]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "run" / "steps").exists():
            assert first.poll() is None
            time.sleep(0.01)
        refused(paredown("run", recipe, "--output-dir", tmp_path / "run"), f"in use by process {first.pid}")
    finally:
        first.kill()
        first.wait()
    with lock(tmp_path / "run"):
        pass


def test_a_damaged_step_is_done_again(finished: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished, tmp_path / "run")
    victim = next(run_dir.glob("steps/distil-1-onnxruntime-fp32-*/model.onnx"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    done = paredown("run", finished.parent / "recipe.yaml", "--output-dir", run_dir)
    assert done.returncode == 0, done.stderr
    started = [json.loads(line)["step"] for line in done.stderr.splitlines() if '"start"' in line]
    assert started == ["distil-1-onnxruntime-fp32"]


def test_a_cascade_of_three_is_measured_and_packed(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    three = "max_drop: 1}\n  - name: three\n    cascade: {first: static, then: both, max_drop: 5}\n"
    changes = {OPENVINO: "", "max_drop: 1}\n": three, "calibration_rows": "explain_rows: 6\ncalibration_rows"}
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **changes)
    done = paredown("run", recipe, "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = {c["name"]: c for c in json.loads((tmp_path / "run" / "measurements.json").read_text())["candidates"]}
    made = found["three/onnxruntime/fp32"]
    asked = made["details"]["cascade"]["asked"]
    assert len(asked) == 2
    assert 1 > asked[0] >= asked[1]
    assert len(made["attribution_agreement"]) == 6
    assert made["compression_s"] >= found["both/onnxruntime/fp32"]["compression_s"]


# One model that diverges, one after pruning that is kept, and a precision that no answer is near enough for.
DIVERGES = """models:
  - name: wild
    steps: [distill: {layers: 1, epochs: 2, learning_rate: 1.0e+38}]
  - name: pruned
    steps: [prune: {heads: 0.5, recover: {learning_rate: 1.0e+38}}]
  - name: chained
    cascade: {first: wild, then: distil-1}
"""
STRICT = "parity: {int8-dynamic: {max_difference: 1.0e-9, min_agreement: 1, max_metric_drop: 0}}\n"


def published(run_dir: Path) -> dict[str, bytes]:
    """Every file of a run directory but its steps and its lock."""
    found = (p for p in run_dir.rglob("*") if p.is_file() and "steps" not in p.relative_to(run_dir).parts)
    return {p.relative_to(run_dir).as_posix(): p.read_bytes() for p in found if p.name != ".lock"}


def events(done: subprocess.CompletedProcess[str], kind: str) -> list[str]:
    """Steps that a run said this of."""
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return [line["step"] for line in lines if line["event"] == kind]


@pytest.fixture(scope="module")
def lossy(
    same_process: None, teacher: Checkpoint, files: dict, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A finished run in which candidates have failed, and what it said; `recipe.yaml` lies beside."""
    home = tmp_path_factory.mktemp("lossy")
    recipe = write_recipe(home / "recipe.yaml", teacher, files, **SMALL, **{"models:\n": STRICT + DIVERGES})
    return home / "run", paredown("run", recipe, "--output-dir", home / "run")


def test_candidates_that_fail_are_rows_with_their_reason_and_end_nothing(
    lossy: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run_dir, done = lossy
    assert done.returncode == 0, done.stderr
    selftest(run_dir / "bundle")
    choice = json.loads((run_dir / "choice.json").read_text())
    reasons = {c["name"]: c["rejected_because"] or "" for c in choice["candidates"]}
    diverged = "step wild-1-distill: the loss is "
    assert reasons["wild/onnxruntime/fp32"].startswith(diverged)
    assert "learning_rate" in reasons["wild/onnxruntime/fp32"]
    assert reasons["chained/onnxruntime/fp32"] == reasons["wild/onnxruntime/int8-dynamic"]
    assert reasons["pruned/onnxruntime/fp32"].startswith("step pruned-1-prune-recover: the loss is ")
    for model in ("teacher", "distil-1"):
        missed = reasons[f"{model}/onnxruntime/int8-dynamic"]
        assert missed.startswith(f"step {model}-onnxruntime-int8-dynamic-evaluate: parity: ")
        assert "parity.int8-dynamic" in missed
    assert not reasons["distil-1/onnxruntime/fp32"].startswith("step ")
    assert choice["chosen"]["name"] in ("teacher/onnxruntime/fp32", "distil-1/onnxruntime/fp32")
    printed = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert len(printed) == 4
    (line,) = [line for line in printed if diverged in line]
    assert line.startswith("failed: wild/onnxruntime/fp32, wild/onnxruntime/int8-dynamic, chained/onnxruntime/fp32, ")
    (line,) = [line for line in printed if "pruned-1-prune-recover" in line]
    assert (Path(line.split("what it started from is kept: ")[1].rstrip(")")) / "structure.json").exists()
    page = (run_dir / "report.html").read_text()
    assert "step wild-1-distill" in page
    assert "step wild-1-distill" in paredown("report", run_dir, "--format", "md").stdout


def test_a_failed_step_is_done_again_when_its_directory_is_deleted_and_not_before(
    lossy: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run_dir, first = lossy
    recipe, copied = run_dir.parent / "recipe.yaml", shutil.copytree(run_dir, tmp_path / "run")
    before = published(copied)
    done = paredown("run", recipe, "--output-dir", copied)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stdout
    assert published(copied) == before
    assert events(done, "failed") == events(first, "failed")
    assert done.stdout.count("failed: ") == first.stdout.count("failed: ")
    plan = paredown("run", recipe, "--output-dir", copied, "--dry-run").stdout
    assert "to do" not in plan
    (failed,) = copied.glob("steps/teacher-onnxruntime-int8-dynamic-evaluate-*")
    shutil.rmtree(failed)
    done = paredown("run", recipe, "--output-dir", copied)
    assert done.returncode == 0, done.stderr
    assert events(done, "start") == ["teacher-onnxruntime-int8-dynamic-evaluate"]


def test_a_run_in_which_everything_fails_leaves_an_earlier_bundle_as_it_was(
    lossy: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run_dir, _ = lossy
    every = "parity: {fp32: {max_difference: 1.0e-15, min_agreement: 1, max_metric_drop: 0}, "
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((run_dir.parent / "recipe.yaml").read_text().replace("parity: {", every))
    copied, before = shutil.copytree(run_dir, tmp_path / "run"), published(run_dir)
    for fresh in (False, True):
        if fresh:
            for name in (
                "bundle",
                ".published",
                "measurements.json",
                "choice.json",
                "report.html",
                "bundle.tar.gz",
                "certified.json",
            ):
                path = copied / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        done = paredown("run", recipe, "--output-dir", copied)
        assert done.returncode == 1, done.stderr
        error = done.stderr.strip().splitlines()[-1]
        for words in ("nothing is left to choose from", "step wild-1-distill: ", "teacher-onnxruntime-fp32-evaluate"):
            assert words in error
        assert ("the bundle of the earlier run is still there" in error) == (not fresh)
        if fresh:
            assert set(published(copied)) == {"recipe.resolved.yaml"}
        else:
            assert published(copied) == before
            selftest(copied / "bundle")


def test_licence_and_card_come_from_the_run_when_the_checkpoint_is_gone(
    finished: Path, copy_of_teacher: Path, tmp_path: Path
) -> None:
    """A run of a checkpoint that is deleted afterwards; another rule gives another bundle, with the same licence."""
    (copy_of_teacher / "LICENSE").write_text("do what you like")
    (copy_of_teacher / "README.md").write_text("---\nlicense: mit\n---\n")
    run_dir, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    text = re.sub(r"checkpoint: .*", f"checkpoint: {copy_of_teacher}", (finished.parent / "recipe.yaml").read_text())
    recipe.write_text(text)
    shutil.copytree(finished / "steps", run_dir / "steps")
    done = paredown("run", recipe, "--output-dir", run_dir)
    assert done.returncode == 0, done.stderr
    assert events(done, "start") == ["teacher-origin"]  # the weights are the same
    shutil.rmtree(copy_of_teacher)
    done = paredown("choose", run_dir, "--rule", "knee")
    assert done.returncode == 0, done.stderr
    assert (run_dir / "bundle" / "LICENSE").read_text() == "do what you like"
    assert "license: mit" in (run_dir / "bundle" / "README.md").read_text()
    (kept,) = run_dir.glob("steps/teacher-origin-*/LICENSE")
    kept.unlink()
    before = published(run_dir)
    refused(paredown("choose", run_dir), "LICENSE: missing", "run the recipe again")
    assert published(run_dir) == before


def test_a_checkpoint_that_fails_ends_the_run(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)

    def fails(*_: object) -> dict:
        raise StepError("the answers are not finite")

    with mock.patch.object(plan_module, "evaluate", fails):
        done = paredown("run", recipe, "--output-dir", tmp_path / "run")
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: step teacher-pytorch-fp32-evaluate: the answers are not finite (to try it again, ")
    assert "earlier" not in error
    assert not [name for name in events(done, "start") if name.startswith("distil-1")]


def test_what_several_models_stand_on_takes_only_these_with_it(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    """The teacher's scores fail: its own artefacts are measured and one of them is chosen."""
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)

    def fails(*_: object) -> dict:
        raise StepError("no scores")

    with mock.patch.object(plan_module, "score", fails):
        done = paredown("run", recipe, "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    choice = json.loads((tmp_path / "run" / "choice.json").read_text())
    assert choice["chosen"]["name"].startswith("teacher/onnxruntime/")
    reasons = {c["name"]: c.get("rejected_because") for c in choice["candidates"]}
    assert reasons["distil-1/onnxruntime/fp32"] == "step teacher-scores: no scores"


def test_a_full_disk_is_one_line_and_the_finished_steps_stay(teacher: Checkpoint, files: dict, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", disk]).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        recipe = write_recipe(tmp_path / "recipe.yaml", teacher, files, **SMALL)
        done = paredown("run", recipe, "--output-dir", disk / "run")
        assert done.returncode == 2, done.stderr
        error = done.stderr.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert "No space left on device" in error
        assert "Traceback" not in done.stderr
        assert not (disk / "run" / "bundle").exists()
        assert not list(disk.rglob(".tmp-*"))
        for marker in disk.glob("run/steps/*/step.json"):
            json.loads(marker.read_text())
    finally:
        subprocess.run(["umount", disk], check=False)


def test_an_output_directory_that_cannot_be_written(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for where in (tmp_path / "file" / "run", Path("/proc/paredown")):
        refused(paredown("run", finished.parent / "recipe.yaml", "--output-dir", where), str(where), "--output-dir")
