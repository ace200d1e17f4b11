"""This machine: cores, instruction sets, memory, GPUs, runtimes and their versions. Without torch."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paredown.runtime.errors import InputError
from paredown.runtime.selftest import usable_cores

# What INT8 and bf16 speed rests on; the names are Linux's CPU flags.
ISA_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "i8mm")
INT8_ISA = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
BF16_ISA = frozenset({"avx512_bf16", "amx_bf16"})
RUNTIME_PACKAGES = (
    "torch", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf", "executorch",
    "ai-edge-litert", "tensorrt", "tensorrt-rtx-cu13-bindings", "tokenizers", "pillow", "numpy",
)  # fmt: skip


@functools.cache
def machine() -> dict:
    """This machine as plain JSON: cpu, cores, isa, memory_gb, gpus, os, python, and the versions of the runtimes."""
    info = _cpuinfo()
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "arch": platform.machine(),
        "cores": cores(),
        "isa": isa(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": gpus(),
        "os": platform.platform(aliased=True, terse=True),
        "python": platform.python_version(),
        "versions": {name: v for name in RUNTIME_PACKAGES if (v := version(name))},
    }


def fingerprint(of: Mapping[str, Any] | None = None) -> str:
    """sha256 of a `machine()`, by default this one: measurements made under another one do not count there."""
    return hashlib.sha256(json.dumps(of or machine(), sort_keys=True).encode()).hexdigest()


def cores() -> int:
    """Cores that this process may use."""
    return usable_cores()


def isa() -> list[str]:
    """Which of ISA_FLAGS this CPU has."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [flag for flag in ISA_FLAGS if flag in flags]


def has_int8_isa(of: Mapping[str, Any] | None = None) -> bool:
    """True where a U8 x S8 product does not saturate (VNNI, AMX, Arm dot product): on a `machine()`, by default this
    one."""
    return bool(INT8_ISA & set(isa() if of is None else of["isa"]))


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs, by nvidia-smi; empty without it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    done = subprocess.run(
        [tool, "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def training_threads() -> int:
    """PyTorch's threads in training and scoring: $OMP_NUM_THREADS, or one for each core. InputError where that variable
    is no number: keys of steps hold it."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if not given:
        return cores()
    if not given.isdecimal() or not int(given):
        raise InputError(f"$OMP_NUM_THREADS is {given!r}: a number of threads is expected, 1 or more; or unset it")
    return int(given)


def training_gpus(*, hidden: bool = False) -> list[str]:
    """Names of the GPUs on which PyTorch trains and scores here, none with a PyTorch for CPUs. `hidden`: those too that
    $CUDA_VISIBLE_DEVICES keeps from this process."""
    found: list[str] = machine()["gpus"] if "+cpu" not in (version("torch") or "+cpu") else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden or visible is None:
        return found
    names = []
    for part in visible.split(","):
        number = part.strip()
        if number.isdecimal() and int(number) < len(found):
            names.append(found[int(number)])
        elif number.startswith(("GPU-", "MIG-")):
            names.append(number)  # one device and no other
        else:
            break  # CUDA takes none of those behind one that it does not know
    return names if found else []


def all_cores() -> None:
    """The same number of PyTorch threads whatever ran before in this process: sums in another order are other
    weights."""
    import torch

    torch.set_num_threads(training_threads())


@functools.cache  # reading it takes milliseconds, and every key of a step holds those of seventeen
def version(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def importable(module: str) -> bool:
    """True when the module can be found; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text().split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
