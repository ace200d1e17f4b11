"""The cold start is that of a real process."""

from pathlib import Path

import pytest
from conftest import paredown

from paredown.export.bundle.cold_start import cold_start
from paredown.runtime.manifest import BundleError


def test_a_fresh_process_answers_and_says_where_its_time_went(finished: Path) -> None:
    start = cold_start(finished / "bundle")
    assert 0 < start.session < start.total
    assert 0 < start.runtime < start.total
    assert start.ours == pytest.approx(start.total - start.runtime - start.session)
    done = paredown("verify", finished / "bundle")
    assert "s from a new process to its first answer" in done.stdout
    assert "onnxruntime" in done.stdout


def test_a_bundle_that_does_not_open_says_why(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is this a bundle"):
        cold_start(tmp_path)
