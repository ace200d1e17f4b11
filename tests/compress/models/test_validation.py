"""Files of a checkpoint that are none, or too much."""

import json
import os
import struct
from pathlib import Path

import pytest

from paredown.compress.models import validation as untrusted
from paredown.compress.models.validation import WEIGHTS, find_weights, read_config, read_json
from paredown.runtime.errors import InputError, printable


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    for read in (read_config, read_json):
        with pytest.raises(InputError, match=r"config\.json: not a regular file"):
            read(tmp_path / "config.json")
    with pytest.raises(InputError, match="not a regular file"):
        read_json(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "none.json")


def test_a_json_file_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted, "JSON_LIMIT", 10)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="over"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    "header",
    [b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b"[" * 100_000, b'{"a": {"data_offsets": []}}', b'{"a": 1}', b"[]",
     b'{"a": {"data_offsets": [0, "x"]}}', b'{"a": {"data_offsets": {"1": 1}}}'],
)  # fmt: skip
def test_a_header_that_is_none_is_one_line(header: bytes, tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match="not a safetensors file"):
        find_weights(tmp_path)


def test_control_characters_become_escapes() -> None:
    assert printable("a\x1b]0;t\x07\x9b1m\u202eb\ud800") == r"a\u001b]0;t\u0007\u009b1m\u202eb\ud800"
    assert printable("caf\u00e9 \u4f60\U0001f600\tb\n") == "caf\u00e9 \u4f60\U0001f600\tb\n"
    assert json.loads(printable(json.dumps("\x1b\x9b\u202e", ensure_ascii=False))) == "\x1b\x9b\u202e"
