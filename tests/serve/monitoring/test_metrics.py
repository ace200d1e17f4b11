"""Metrics of several workers: their files as they are while a worker starts, or after one was killed."""

from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from paredown.serve.monitoring.metrics import Metrics


def test_a_file_that_a_worker_has_only_opened_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    name = '["paredown_rows", "paredown_rows_total", {"model": "m", "version": "1"}, "Rows"]'
    MmapedDict(str(tmp_path / "counter_1.db")).write_value(name, 3, 0)
    (tmp_path / "counter_2.db").touch()
    (tmp_path / "gauge_livesum_2.db").symlink_to(tmp_path / "gone")  # listed, and removed before it is opened
    assert 'paredown_rows_total{model="m",version="1"} 3.0' in Metrics().text({}, {}).decode()
