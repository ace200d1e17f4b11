"""docs/results.md from the files that the runs leave."""

import importlib
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"


def test_other_toolkits_stand_with_their_versions_and_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(RESULTS)
    page = importlib.import_module("page")
    measured = {"label": "onnxruntime", "metric": 92.1, "drop": 0.3, "drop_upper_95": 0.7, "size_mb": 23.5}
    measured |= {"ratio": 0.2, "ratio_ci": [0.16, 0.25], "ratio_mean": 0.25, "ratio_mean_ci": [0.2, 0.3]}
    bench = {
        "machine": {"cpu": "a CPU", "cores": 2, "isa": ["avx2"]},
        "control": {"ratio": 0.93, "ratio_ci": [0.77, 1.11]},
        "noisy": True,
        "artifacts": [measured],
        "peers": [
            {"name": "onnxruntime", "seconds": 6.0, "packages": ["numpy==2.0", "onnxruntime==1.31.1"]},
            {"name": "Olive", "packages": ["olive_ai==0.13.0", "onnxruntime==1.30.0"], "failed": "its last words"},
        ],
    }
    text = page.side_by_side(bench)
    assert "Versions: onnxruntime 1.31.1, Olive 0.13.0." in text
    assert "[0.77, 1.11]: noisy, so ratios are 95 % ranges" in text
    assert "| onnxruntime | 92.1 | +0.3 (0.7) | 4.0 to 6.2x | 3.3 to 5.0x | 23.5 | 0.1 |" in text
    assert "| Olive | | | its last words | | | |" in text
    before, now = (page.titled(text) for text in ("## A\n\nold\n\n## B\n\nkept\n", "## A\n\nnew\n"))
    assert page.merged(before, now) == ["## A\n\nnew\n", "## B\n\nkept\n"]
