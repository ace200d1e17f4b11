"""What every runtime module offers: a `RuntimeSpec` and four functions. Imports nothing that is heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from paredown.runtime.session import Session
from paredown.tasks.base import Task

from ..artifact import Artifact

if TYPE_CHECKING:
    from paredown.compress.models.loading import Checkpoint
    from paredown.compress.quantization.int8_cost import Int8Evaluator

    from .tensorrt_config import Engine


@dataclass(frozen=True)
class RuntimeSpec:
    """Facts of a runtime that other parts of paredown ask for."""

    name: str
    module: str  # the Python module that runs it
    extra: str  # the extra of paredown that installs it
    packages: tuple[str, ...]  # distributions that a bundle needs; empty: no bundle is made for it
    # By Task.graph; a graph that is missing does not run. int8-dynamic: activation ranges at run time; int8-static:
    # calibrated; int8-weight, int4-weight: the weights of matrix products alone. fp16 is for GPUs: half the size
    # everywhere, but a CPU computes it in float32.
    precisions: Mapping[str, tuple[str, ...]]
    gpu: bool = False  # needs an NVIDIA GPU to run
    builds_on_gpu: bool = False  # and to be exported
    engine: bool = False  # the model is compiled code; the ONNX graph that it was built from lies beside it
    imports: tuple[str, ...] = ()  # modules that opening a model needs besides `module`
    on_device: bool = False  # for phones and embedded devices: a target only where a recipe names it
    cascade: bool = False  # a cascade can be exported for it
    plain_int8: str | None = None  # precision that other tools' default INT8 corresponds to, for comparison
    export_format: str | None = None  # its name in `paredown export --to`
    hub_library: str | None = None  # `library_name` on the Hugging Face Hub, where it has one there
    triton_backend: str | None = None

    @property
    def in_bundles(self) -> bool:
        """Bundles are made for it: it runs without PyTorch."""
        return bool(self.packages)

    def precisions_of(self, task: Task) -> tuple[str, ...]:
        """The precisions of a task's models; empty where they do not run."""
        return self.precisions.get(task.graph, ())

    @property
    def all_precisions(self) -> tuple[str, ...]:
        """The precisions of any task, each once."""
        return tuple(dict.fromkeys(p for known in self.precisions.values() for p in known))


@dataclass(frozen=True)
class ExportJob:
    """One export: a checkpoint, where the artefact goes, and in which precision."""

    plain: Path | None  # what `plain_onnx` wrote for the checkpoint; None for the runtime pytorch, which needs none
    checkpoint: Checkpoint
    task: Task
    out: Path  # directory
    max_length: int  # tokens
    precision: str = "fp32"  # one of `precisions(task)`
    calibration: Sequence[dict[str, np.ndarray]] = ()  # batches of training rows; int8-static needs them
    evaluator: Int8Evaluator | None = None  # evaluates INT8 on the calibration rows; it may leave products in float
    engine: Engine | None = None  # what a TensorRT engine is built for; other runtimes ignore it
    # Of a runtime whose models have their shapes from the export; `onnx.static_shapes` writes them into the others.
    lengths: tuple[int, ...] = ()  # tokens that calls are padded to; none: any
    batch_size: int | None = None  # rows of every call

    @property
    def graph(self) -> Path:
        """`plain`, for runtimes that need it; ValueError where there is none."""
        if self.plain is None:
            raise ValueError("ExportJob.plain: this runtime is exported from what plain_onnx writes")
        return self.plain


class Runtime(Protocol):
    """A module in this folder."""

    SPEC: RuntimeSpec

    def precisions(self, task: Task) -> tuple[str, ...]:
        """The precisions that a task's models are exported in; empty where they do not run."""
        ...

    def available(self, building: bool = False) -> str | None:
        """Why no model of this runtime runs on this machine; None where it can. `building`: why none is exported."""
        ...

    def export(self, job: ExportJob) -> Artifact:
        """Write the artefact to `job.out`. InputError for what is missing, StepError when the result is not sound."""
        ...

    def open(self, artifact: Artifact, threads: int) -> Session:
        """A session on `threads` CPU threads. CannotRunHere when the machine lacks what the model needs, InputError
        when the runtime's package is missing or the model file may not be opened."""
        ...
