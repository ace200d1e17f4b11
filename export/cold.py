"""Cold start of a bundle: a fresh process up to its first answer, and how much of that is ours.

python -m paredown.export.cold BUNDLE STARTED    (what `cold_start` runs; STARTED is this machine's monotonic clock)
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .manifest import BundleError

MODULES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}  # what each runtime's import is
TIMEOUT_S = 600


@dataclass(frozen=True)
class ColdStart:
    """Seconds."""

    total: float  # from starting the process to the first answer, the bundle verified on the way
    runtime: float  # importing the runtime
    session: float  # the runtime opening the model

    @property
    def ours(self) -> float:
        """What is left: Python, numpy, tokenizers or Pillow, paredown, hashes, golden rows, the first answer."""
        return self.total - self.runtime - self.session


def cold_start(bundle: Path) -> ColdStart:
    """Start a process that verifies the unpacked bundle as `predict` does, and answers one text. The files are in the
    page cache when they have been hashed before. Raises BundleError with the last line that the process said."""
    command = [sys.executable, "-P", "-m", __name__, str(bundle), repr(time.monotonic())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BundleError(f"it does not answer in a fresh process: {reason}")
    return ColdStart(**json.loads(done.stdout))


def _main(bundle: Path, started: float) -> dict[str, float]:
    from importlib import import_module

    from . import predict

    runtime = MODULES.get(predict.read_manifest(bundle)["runtime"])
    begin = time.monotonic()
    if runtime is not None:
        import_module(runtime)
    imported = time.monotonic() - begin
    predictor = predict.Predictor(bundle)
    predictor([predictor.encoder.example], ["b"] if predictor.task.columns.second else ())
    return {"total": time.monotonic() - started, "runtime": imported, "session": predictor.session_s}


if __name__ == "__main__":
    print(json.dumps(_main(Path(sys.argv[1]), float(sys.argv[2]))))
