"""Load of the machine during a measurement, and energy where Linux or NVML reports it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

POWERCAP = Path("/sys/class/powercap")
QUIET = 0.5  # cores that other processes may use while something is timed
SAMPLE_S = 1.0  # seconds that are observed; a 1-minute load average contains the steps that ran before


def cpu_seconds() -> tuple[float, float]:
    """Seconds of all CPUs so far, and those of them that the hypervisor gave to other guests (0 where unknown)."""
    times = psutil.cpu_times()
    return _total(times), getattr(times, "steal", 0.0)


def _total(times: Any) -> float:
    """All seconds of a CPU; those of its guests are in `user` and `nice` already."""
    return sum(value for name, value in times._asdict().items() if name not in ("guest", "guest_nice"))


def steal_share(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    """Share of the CPUs' time that was stolen between two readings, 0..1; None where it is not known."""
    total = after[0] - before[0]
    return (after[1] - before[1]) / total if total > 0 else None


class Busy(NamedTuple):
    """A reading of the CPUs that this process may run on: seconds at work, all seconds, how many CPUs; and our own."""

    busy: float
    total: float
    cpus: int
    own_s: float  # CPU seconds of this process and of those of its children that have ended
    at: float

    @staticmethod
    def now() -> Busy | None:
        """None where it is not known which CPUs this process runs on (macOS)."""
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        try:
            mine = set(psutil.Process().cpu_affinity())  # type: ignore[attr-defined]
        except (AttributeError, psutil.Error):
            return None
        cpus = [cpu for number, cpu in enumerate(psutil.cpu_times(percpu=True)) if number in mine]
        if not cpus:
            return None
        waiting = sum(getattr(cpu, name, 0.0) for cpu in cpus for name in ("idle", "iowait", "steal"))
        total = sum(map(_total, cpus))
        return Busy(total - waiting, total, len(cpus), own, time.monotonic())


def used_by_others(before: Busy | None, after: Busy | None) -> float | None:
    """Cores that other processes used in the mean between two readings; None where it is not known.

    Children of this process that still run count as others.
    """
    if before is None or after is None or after.total <= before.total or after.at <= before.at:
        return None
    used = (after.busy - before.busy) / (after.total - before.total) * after.cpus
    return max(0.0, used - (after.own_s - before.own_s) / (after.at - before.at))


def busy_now() -> float | None:
    """Cores that other processes use now, seen over SAMPLE_S seconds in which this one sleeps; None: not known."""
    before = Busy.now()
    if before is None:
        return None
    time.sleep(SAMPLE_S)
    return used_by_others(before, Busy.now())


def quiet(wait_s: float, say: Callable[[str], None] = lambda text: None) -> float | None:
    """Cores that other processes use, once they are at most QUIET or `wait_s` seconds have passed; None: not known."""
    until = time.monotonic() + wait_s
    while (found := busy_now()) is not None and found > QUIET and time.monotonic() < until:
        say(f"waiting for quiet: other processes use {found:.1f} cores, {until - time.monotonic():.0f} s left")
    return found


def load_average() -> float | None:
    """Processes that wanted a CPU in the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


class Gpu:
    """The NVIDIA GPU that CUDA counts first, by NVML (nvidia-ml-py); its figures are None where there is none."""

    def __init__(self) -> None:
        self._library, self._device = None, None
        with contextlib.suppress(Exception):  # not installed, no driver, no GPU: each its own class
            import pynvml

            pynvml.nvmlInit()
            first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
            by_number = first.isdecimal()
            self._device = (
                pynvml.nvmlDeviceGetHandleByIndex(int(first)) if by_number else pynvml.nvmlDeviceGetHandleByUUID(first)
            )
            self._library = pynvml

    def joules(self) -> float | None:
        """Energy since the driver was loaded, from Volta on; whoever took it."""
        return self._asked(lambda nvml: nvml.nvmlDeviceGetTotalEnergyConsumption(self._device) / 1e3)

    def memory_mb(self) -> float | None:
        """What this process has on the GPU now, MB (1e6 bytes); in a container the driver may not know its number."""

        def own(nvml: Any) -> float | None:
            found = nvml.nvmlDeviceGetComputeRunningProcesses(self._device)
            mine = [process.usedGpuMemory for process in found if process.pid == os.getpid()]
            return sum(mine) / 1e6 if mine else None

        return self._asked(own)

    def _asked(self, question: Callable[[Any], float | None]) -> float | None:
        if self._library is None:
            return None
        try:
            return question(self._library)
        except Exception:  # not supported by this GPU, not permitted
            return None


class Joules:
    """Energy of the CPU packages by RAPL, and of a GPU that is given: `taken()` is what they took since the last call.

    It is the whole package's, other processes and idling included. In virtual machines there is usually none.
    """

    def __init__(self, powercap: Path = POWERCAP, gpu: Gpu | None = None) -> None:
        self.zones = [zone for zone in sorted(powercap.glob("*-rapl:*")) if zone.name.count(":") == 1]
        self.gpu = gpu
        self.before, self.gpu_before = self._read(), gpu.joules() if gpu else None

    def taken(self) -> float | None:
        """Joules since the last call, None where nothing can be read; counters that wrapped around are set right."""
        now, before = self._read(), self.before
        gpu_now, gpu_before = self.gpu.joules() if self.gpu else None, self.gpu_before
        self.before, self.gpu_before = now, gpu_now
        found = []
        if now and before is not None:
            wrapped = (b - a if b >= a else b - a + most for (a, most), (b, _) in zip(before, now, strict=True))
            found.append(sum(wrapped) / 1e6)
        if gpu_now is not None and gpu_before is not None:
            found.append(gpu_now - gpu_before)
        return sum(found) if found else None

    def _read(self) -> list[tuple[int, int]] | None:
        try:
            return [
                (int((zone / "energy_uj").read_text()), int((zone / "max_energy_range_uj").read_text()))
                for zone in self.zones
            ]
        except (OSError, ValueError):  # Linux lets root alone read them
            return None
