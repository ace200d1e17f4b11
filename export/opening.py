"""An artefact opened on this machine, whatever its runtime. Without torch, but for the runtime `pytorch`."""

from __future__ import annotations

from paredown.runtime.session import Session

from .artifact import Artifact
from .runtimes.registry import RUNTIMES


def open_artifact(artifact: Artifact, threads: int) -> Session:
    """`open` of the artefact's runtime: see `runtimes.base.Runtime`."""
    return RUNTIMES[artifact.runtime].open(artifact, threads)
