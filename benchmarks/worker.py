"""One artefact in a fresh process of its own, timed on request.

Runtimes in one process fight over the cores with their spinning threads: OpenVINO measured 2.5x slower beside ONNX
Runtime and PyTorch than alone. Speaks JSON lines: commands on stdin, answers on the pipe that was stdout.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from ..export.artifact import read_artifact
from ..export.session import CannotRunHere


def main() -> None:
    """Open the artefact named in the first command, then time bursts until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints goes to stderr

    def say(message: dict) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    first = json.loads(sys.stdin.readline())
    began = time.perf_counter()
    artifact = read_artifact(Path(first["artifact"]))
    try:
        session = artifact.open(first["threads"])
    except CannotRunHere as reason:
        say({"cannot_run": str(reason)})
        return
    rows = json.loads(Path(first["rows"]).read_text())
    encoder = artifact.encoder()
    say({"load_s": time.perf_counter() - began})
    for line in sys.stdin:
        burst = json.loads(line)
        batches = [encoder.pad([rows[i] for i in batch]) for batch in burst["batches"]]
        say({"ms": timed(session, batches, burst["seconds"]), "memory_mb": peak_memory_mb()})


def timed(session, batches: list[dict[str, np.ndarray]], seconds: float) -> list[float]:
    """Milliseconds of every call: one untimed pass, then whole passes over `batches` until `seconds` are over.

    The untimed pass matters: OpenVINO prepares its kernels anew for every length that it has not seen.
    """
    for batch in batches:
        session(batch)
    samples: list[float] = []
    stop = time.perf_counter() + seconds
    while True:
        for batch in batches:
            start = time.perf_counter()
            session(batch)
            samples.append((time.perf_counter() - start) * 1e3)
        if time.perf_counter() >= stop:
            return samples


def peak_memory_mb() -> float:
    """Peak resident memory of this process, MB (1e6 bytes). Not ru_maxrss, which a child takes over from its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


if __name__ == "__main__":
    main()
