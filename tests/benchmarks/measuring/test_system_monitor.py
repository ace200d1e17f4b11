import time
from pathlib import Path
from unittest import mock

import psutil
import pytest

from paredown.benchmarks.measuring.system_monitor import Busy, Gpu, Joules, cpu_seconds, steal_share, used_by_others
from paredown.export.hardware import gpus


def zone(powercap: Path, name: str, energy: int) -> Path:
    path = powercap / name
    path.mkdir(parents=True, exist_ok=True)
    (path / "energy_uj").write_text(f"{energy}\n")
    (path / "max_energy_range_uj").write_text("1000000000\n")
    return path


def test_joules_add_up_packages_and_survive_a_counter_that_wraps(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", 999_000_000)
    second = zone(tmp_path, "intel-rapl:1", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", 7)  # a part of the first
    joules = Joules(tmp_path)
    (first / "energy_uj").write_text("2000000")
    (second / "energy_uj").write_text("6000000")
    assert joules.taken() == 3 + 1
    assert joules.taken() == 0


def test_without_counters_there_are_no_joules(tmp_path: Path) -> None:
    assert Joules(tmp_path).taken() is None
    zone(tmp_path, "intel-rapl:0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("secret")
    assert Joules(tmp_path).taken() is None


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    gpu = Gpu()
    assert gpu.joules() is None
    assert gpu.memory_mb() is None
    assert Joules(tmp_path, gpu).taken() is None


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")
def test_a_gpu_tells_its_energy(tmp_path: Path) -> None:
    gpu = Gpu()
    assert gpu.joules() is not None
    assert Joules(tmp_path, gpu).taken() is not None


def test_steal_is_the_share_of_seconds_between_two_readings(tmp_path: Path) -> None:
    ticks = "100 0 100 700 0 0 0 100 50 0"  # a guest's 50 are among the first 100
    (tmp_path / "stat").write_text(f"cpu  {ticks}\ncpu0 {ticks}\n")
    with mock.patch.object(psutil, "PROCFS_PATH", str(tmp_path)):
        total, stolen = cpu_seconds()
    assert stolen / total == 0.1
    assert steal_share((1000, 100), (2000, 350)) == 0.25
    assert steal_share((5, 0), (5, 0)) is None


def test_our_own_work_is_not_that_of_others() -> None:
    before, began = Busy.now(), time.process_time()
    while time.process_time() - began < 0.2:
        pass
    after = Busy.now()
    assert before is not None
    assert after is not None
    assert after.own_s - before.own_s > 0.1
    assert after.busy >= before.busy
    assert used_by_others(before, after._replace(at=before.at)) is None
