"""The bundle of an artefact alone, without a run: what it says of measurements is made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paredown.export.artifact import Artifact
from paredown.export.bundle.writer import Contents, write_bundle

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


def bundled(artifact: Artifact, out: Path, texts: Sequence[str]) -> Path:
    """`artifact` in a bundle at `out`, with `texts` as golden rows."""
    return write_bundle(out, artifact, Contents("tiny", CHOICE, texts))
