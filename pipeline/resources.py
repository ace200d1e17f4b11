"""What a step takes of the machine that does it: cores, memory, and whether anything may run beside it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import psutil

from paredown.compress.threads import few_threads

from .job import Job, Step
from .search import SEARCH

TIMED = ("table", "measure", "profile", SEARCH, "adapt-tune")  # stages; so is pruning to a time
ONE_CORE = ("graph", "origin", "cascade", "reachable")  # stages
PRECISIONS = ("fp32", "fp16", "bf16")  # whose export converts a graph, on one core
WORKER_BYTES = 1.5e9  # of a process that has imported PyTorch and the runtimes
CHECKPOINT_TIMES = 10  # the weights, in float32: as model, as plain, fused and quantised graph, and opened to compare


def times(step: Step) -> bool:
    """Whether a step times models, or has a limit of minutes: nothing may run beside it."""
    return step.inputs.get("stage") in TIMED or step.inputs.get("table") is not None


def cores_of(step: Step) -> int | None:
    """Cores that a step takes and no more; None: it takes all.

    Its result does not depend on how many there are beside these. Training takes the `threads` of its key; the static
    quantisers of ONNX Runtime and NNCF take every core, and have no setting for it.
    """
    stage = step.inputs.get("stage")
    if times(step) or trains(step):
        return None
    if stage in ("evaluate", "further"):
        return few_threads()
    if stage == "export":
        precision = step.inputs["precision"]
        return 1 if precision in PRECISIONS else few_threads() if precision == "int8-dynamic" else None
    return 1 if stage in ONE_CORE else None


def trains(step: Step) -> bool:
    """Whether a step trains or scores in PyTorch, on all the threads that its key names, or on the GPUs."""
    return "threads" in step.inputs and not step.takes_what_is_there  # those are of what is measured


def memory_of(job: Job) -> int:
    """Bytes that a step which is done beside others may need, a generous estimate by the largest teacher."""
    weights = max(sum(path.stat().st_size for path in teacher.weights) for teacher in job.teachers)
    return int(WORKER_BYTES + CHECKPOINT_TIMES * weights)


def free_memory() -> int:
    """Bytes that processes may still take: of this machine, and of the container with a limit (cgroup v2)."""
    free, group = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no limit: "max"
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
        free = min(free, most - used + (int(cached[1]) if cached else 0))
    return free
