import json
import logging
import re
import sys

from paredown.serve.monitoring.logs import JsonLines, Lines


def record(level: int, message: str, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("paredown", level, "", 0, message, None, None)
    if fields:
        made.fields = fields
    return made


def test_a_line_of_json_has_the_fields() -> None:
    line = json.loads(JsonLines().format(record(logging.INFO, "serving", url="http://a", models=["b", "c"])))
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "message": "serving", "url": "http://a", "models": ["b", "c"]}


def test_a_line_for_people_has_them_in_words() -> None:
    line = Lines().format(record(logging.INFO, "serving", url="http://a", models=["b", "c"]))
    assert re.fullmatch(r"\d\d:\d\d:\d\d serving: url http://a, models b c", line)
    assert re.fullmatch(r"\d\d:\d\d:\d\d warning: anyone", Lines().format(record(logging.WARNING, "anyone")))


def test_what_a_client_sent_moves_no_cursor_and_makes_no_line() -> None:
    line = Lines().format(record(logging.INFO, "request", path="/\x1b]0;owned\x07\n12:00:00 serving"))
    assert line.isprintable()
    assert "\\u001b]0;owned\\u0007\\n12:00:00 serving" in line


def test_a_traceback_follows_its_line() -> None:
    try:
        raise ValueError("no such thing")
    except ValueError:
        made = logging.LogRecord("paredown", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    assert Lines().format(made).endswith("ValueError: no such thing")
    assert "ValueError: no such thing" in json.loads(JsonLines().format(made))["traceback"]
