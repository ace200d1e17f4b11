from pathlib import Path

import pytest
from paredown.serve.samples import Samples

ANSWER = {"label": "positive", "score": 0.9}


def test_a_full_disk_stops_sampling_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    samples = Samples(Path("/dev/full"), 1.0, 1.0)
    for _ in range(2):
        samples.add("m", "1", ["a film"], [ANSWER])
    samples.close()
    (record,) = caplog.records
    assert record.__dict__["fields"] == {"reason": "No space left on device"}
    assert not record.exc_info


@pytest.mark.parametrize("answer", [ANSWER, {"labels": ["a"], "scores": {"a": 0.9}}, {"entities": []}])
def test_every_kind_of_answer_is_written(answer: dict, tmp_path: Path) -> None:
    samples = Samples(tmp_path / "s.jsonl", 1.0, 1.0)
    samples.add("m", "1", ["a film"], [answer])
    samples.close()
    assert '"text": "a film"' in (tmp_path / "s.jsonl").read_text()
