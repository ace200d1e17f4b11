"""Structured logs: one JSON object a line on standard error; on a terminal the same in words."""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import lru_cache

from paredown.runtime.errors import printable

ENCODE = json.JSONEncoder(ensure_ascii=False, default=str).encode  # json.dumps would make one for each line


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class JsonLines(logging.Formatter):
    """time, level, message, and the `fields` that a call gave as extra."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = f"{_second(int(record.created))}.{int(record.msecs):03d}Z"
        line = {"time": stamp, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return ENCODE(line)


class Lines(logging.Formatter):
    """For people: time of day, message, and its fields as `name value`."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        values = getattr(record, "fields", {}).items()
        fields = ", ".join(f"{name} {' '.join(map(str, v)) if isinstance(v, list) else v}" for name, v in values)
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {level}{record.getMessage()}"
        line += f": {fields}" if fields else ""
        line = printable(line).replace("\n", "\\n")  # a client chooses the path of its request
        return f"{line}\n{printable(self.formatException(record.exc_info))}" if record.exc_info else line


def start_logging() -> None:
    """For the loggers of paredown, and for the warnings and errors of uvicorn and asyncio (no more files to open)."""
    # What no line shows, and each request would pay for: docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # type: ignore[assignment]
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines() if sys.stderr.isatty() else JsonLines())
    for name, level in (("paredown", logging.INFO), ("uvicorn", logging.WARNING), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
