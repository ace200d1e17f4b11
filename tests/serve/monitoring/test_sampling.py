import json
import os
from pathlib import Path

import pytest

from paredown.serve.monitoring.sampling import RequestSampler

ANSWER = {"label": "positive", "score": 0.9}


def test_a_full_disk_stops_sampling_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    samples = RequestSampler(Path("/dev/full"), 1.0, 1.0)
    for _ in range(2):
        samples.add("m", "1", ["a film"], [ANSWER])
    samples.close()
    (record,) = caplog.records
    assert record.__dict__["fields"] == {"reason": "No space left on device"}
    assert not record.exc_info


@pytest.mark.parametrize("answer", [ANSWER, {"labels": ["a"], "scores": {"a": 0.9}}, {"entities": []}])
def test_every_kind_of_answer_is_written(answer: dict, tmp_path: Path) -> None:
    samples = RequestSampler(tmp_path / "s.jsonl", 1.0, 1.0)
    samples.add("m", "1", ["a film"], [answer])
    samples.close()
    assert '"text": "a film"' in (tmp_path / "s.jsonl").read_text()


def test_a_disk_that_fills_up_leaves_no_half_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, write = tmp_path / "s.jsonl", os.write
    samples = RequestSampler(path, 1.0, 1.0)
    samples.add("m", "1", ["a film"], [ANSWER])
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:20]))
    samples.add("m", "1", ["another film"], [ANSWER])
    samples.close()
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == ["a film"]
    assert path.read_text().endswith("\n")
    assert "sampling stopped" in caplog.text


@pytest.mark.parametrize(
    ("before", "after"),
    [('{"text": "a"}\n{"text": "hal', 1), ('{"text": "a"}\n{"text": "b"}', 2), ('{"te' + "x" * 200_000, 0), ("", 0)],
)
def test_a_file_that_ends_in_half_a_line_is_mended(before: str, after: int, tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(before)
    samples = RequestSampler(path, 1.0, 1.0)
    samples.add("m", "1", ["a film"], [ANSWER])
    samples.close()
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert texts == [*["a", "b"][:after], "a film"]
