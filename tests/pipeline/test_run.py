"""Promises 1 and 2: kill it anywhere and run it again; never a silent bad model."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import SMALL, paredown, refused, write_recipe
from paredown.compress.checkpoint import Checkpoint
from paredown.export.selftest import selftest
from paredown.pipeline.store import lock

KEYS = {
    "name", "runtime", "precision", "metric", "metric_validation", "metric_test", "drop_validation", "drop_test",
    "drop_upper_95", "latency_ms", "speedup_vs_baseline", "throughput_per_s", "size_mb", "cost_per_million",
}  # fmt: skip


def contents(run_dir: Path) -> dict[str, str]:
    """Name and files' hashes of every step, the timings apart."""
    found = {}
    for marker in run_dir.glob("steps/*/step.json"):
        data = json.loads(marker.read_text())
        found[marker.parent.name] = {name: sha for name, (sha, _) in data["files"].items() if name != "timings.json"}
    return found


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
    assert "rejected_because" not in choice["chosen"]
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
    command = [sys.executable, "-m", "paredown.pipeline.cli", "run", str(recipe), "--output-dir", str(run_dir)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    scratch = run_dir / ".tmp-publish" if where == "publish" else run_dir / "steps" / f".tmp-{where}"
    deadline = time.monotonic() + 120
    while not scratch.exists():
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
    command = [sys.executable, "-m", "paredown.pipeline.cli", "run", str(recipe), "--output-dir", str(tmp_path / "run")]
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


def test_a_parity_miss_names_the_step_and_leaves_no_bundle(finished: Path, tmp_path: Path) -> None:
    strict = "parity: {int8-dynamic: {max_difference: 1.0e-9, min_agreement: 1, max_metric_drop: 0}}\n"
    shutil.copytree(finished, tmp_path / "run")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(strict + (finished.parent / "recipe.yaml").read_text())
    done = paredown("run", recipe, "--output-dir", tmp_path / "run")
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    for word in ("teacher-onnxruntime-int8-dynamic-evaluate", "max logit difference", "parity.int8-dynamic"):
        assert word in error
    for name in ("bundle", "bundle.tar.gz", "choice.json", "report.html"):
        assert not (tmp_path / "run" / name).exists()


def test_a_loss_that_is_nan_names_the_step_and_keeps_the_cut_before_it(
    teacher: Checkpoint, files: dict, tmp_path: Path
) -> None:
    cut = "prune: {heads: 0.5, recover: {learning_rate: 1.0e+38}}"
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        teacher,
        files,
        **SMALL,
        **{"distill: {layers: 1, epochs: 2, learning_rate: 0.005}": cut},
    )
    done = paredown("run", recipe, "--output-dir", tmp_path / "run")
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: step distil-1-1-prune-recover: the loss is ")
    assert "learning_rate" in error
    assert (Path(error.split("what it started from is kept: ")[1]) / "structure.json").exists()
    assert not (tmp_path / "run" / "bundle").exists()


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
