"""What else the machine did while something was timed, and the joules that it took, where Linux tells."""

from __future__ import annotations

import os
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def cpu_ticks(stat: Path = Path("/proc/stat")) -> tuple[int, int]:
    """Ticks of all CPUs so far, and those of them that the hypervisor gave to another guest; (0, 0) elsewhere."""
    try:
        ticks = [int(word) for word in stat.read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return 0, 0
    return sum(ticks), ticks[7] if len(ticks) > 7 else 0


def steal_share(before: tuple[int, int], after: tuple[int, int]) -> float | None:
    """Share of the CPUs' time that was stolen between two readings, 0..1; None where it is not known."""
    total = after[0] - before[0]
    return (after[1] - before[1]) / total if total > 0 else None


def load_average() -> float | None:
    """Processes that wanted a CPU in the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


class Joules:
    """Energy of the CPU packages by RAPL: `taken()` is what they took since the last call, None where unreadable.

    It is the whole package's, other processes and idling included. In virtual machines there is usually none.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self.zones = [zone for zone in sorted(powercap.glob("*-rapl:*")) if zone.name.count(":") == 1]
        self.before = self._read()

    def taken(self) -> float | None:
        """Joules since the last call; counters that wrapped around are set right."""
        now, before = self._read(), self.before
        self.before = now
        if now is None or before is None or not now:
            return None
        return sum(b - a if b >= a else b - a + most for (a, most), (b, _) in zip(before, now, strict=True)) / 1e6

    def _read(self) -> list[tuple[int, int]] | None:
        try:
            return [
                (int((zone / "energy_uj").read_text()), int((zone / "max_energy_range_uj").read_text()))
                for zone in self.zones
            ]
        except (OSError, ValueError):  # Linux lets root alone read them
            return None
