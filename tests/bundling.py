"""The bundle of an artefact alone, without a run: what it says of measurements is made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paredown.compress.models.loading import Checkpoint
from paredown.export.artifact import Artifact
from paredown.export.bundle.writer import Contents, write_bundle
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.tasks.base import Task

LATENCY = {"p50": 1.0, "p95": 1.0, "p99": 1.0}
SHARED = {
    "metric": "accuracy", "metric_validation": 100.0, "metric_validation_ci": [99.0, 100.0], "metric_test": None,
    "metric_test_ci": None, "latency_ms": LATENCY, "size_mb": 0.1,
}  # fmt: skip
CHOSEN = SHARED | {
    "name": "teacher", "drop_validation": 0.0, "drop_upper": 0.0, "drop_upper_95": 0.0, "certificate": None,
    "speedup_vs_baseline": 1.0, "speedup_ci": [1.0, 1.0], "speedup_vs_plain_int8": None, "speedup_statistic": "p50",
}  # fmt: skip
CHOICE = {
    "chosen": CHOSEN, "baseline": SHARED, "certificate": None, "rule": {"confidence": 0}, "noisy": False,
    "plain_int8": None,
}  # fmt: skip


SERVING = {"instances": 2, "threads": 1, "batch_size": 4, "sorted_by_length": True}


def bundled(artifact: Artifact, out: Path, texts: Sequence[str], **chosen: object) -> Path:
    """`artifact` in a bundle at `out`, with `texts` as golden rows. `chosen`: further keys of the candidate."""
    return write_bundle(out, artifact, Contents("tiny", CHOICE | {"chosen": CHOSEN | chosen}, texts))


def bundle_of(checkpoint: Checkpoint, task: Task, folder: Path, runtime: str = "onnxruntime", **chosen: object) -> Path:
    """The bundle of a text classifier at FOLDER/bundle, in fp32."""
    folder.mkdir(exist_ok=True)
    plain = plain_onnx(checkpoint, task, folder / "plain.onnx")
    artifact = RUNTIMES[runtime].export(ExportJob(plain, checkpoint, task, folder / "made", 32))
    return bundled(artifact, folder / "bundle", ["a brilliant moving film", "dull awful weak"], **chosen)
