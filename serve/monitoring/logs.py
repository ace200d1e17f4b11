"""Structured logs: one JSON object a line on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import lru_cache

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


def start_logging() -> None:
    """For the loggers of paredown, and for the warnings and errors of uvicorn and asyncio (no more files to open)."""
    # What no line shows, and each request would pay for: docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # type: ignore[assignment]
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name, level in (("paredown", logging.INFO), ("uvicorn", logging.WARNING), ("asyncio", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
