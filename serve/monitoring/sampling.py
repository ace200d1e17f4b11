"""Samples texts and answers as JSONL, which `paredown` reads as unlabelled text for the next distillation."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from paredown.runtime.errors import InputError
from paredown.tasks.parsing import columns_of

LINE = 2**16  # bytes that are read at once for the end of the file
log = logging.getLogger("paredown")


class RequestSampler:
    """Appends whole lines, readable by its owner alone; several workers may share the file."""

    def __init__(self, path: Path, share: float, megabytes: float) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            with self._locked():
                self._complete()
        except OSError as error:
            raise InputError(f"--sample-file {path}: {error.strerror}") from None
        self._share, self._limit = share, megabytes * 1e6
        self._random = random.Random()
        self._broken = False

    def add(self, model: str, version: str, texts: Sequence[str], answers: Sequence[dict]) -> None:
        """Each text with the probability `share`, until the file is full."""
        whole = [i for i in range(len(texts)) if all(part.strip() for part in columns_of(texts[i]).values())]
        chosen = [i for i in whole if self._random.random() < self._share]
        if self._broken or not chosen or os.fstat(self._file).st_size >= self._limit:
            return
        about = {"model": model, "version": version, "time": round(time.time(), 3)}
        lines = [columns_of(texts[i]) | _said(answers[i]) | about for i in chosen]
        data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
        with self._locked():
            size = os.fstat(self._file).st_size
            try:
                written, reason = os.write(self._file, data), f"of {len(data)} bytes, not all were written"
            except OSError as error:
                written, reason = 0, error.strerror
            if 0 < written < len(data):
                os.ftruncate(self._file, size)  # no half a line
        self._broken = written < len(data)
        if self._broken:  # the disk is full: the answers matter more
            log.error("sampling stopped: the sample file takes no more", extra={"fields": {"reason": reason}})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """No other worker writes meanwhile."""
        # Not filelock, which locks a file of its own: beside the user's, in a directory that may be read-only.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _complete(self) -> None:
        """End the last line: it may have been left half written, and is removed then."""
        size = os.fstat(self._file).st_size
        end, begin = b"", size
        while begin and b"\n" not in end:
            step = min(begin, LINE)
            begin -= step
            end = os.pread(self._file, step, begin) + end
        last = end[end.rfind(b"\n") + 1 :]
        if not last:
            return
        try:
            json.loads(last)
        except ValueError:
            os.ftruncate(self._file, size - len(last))
            log.warning("the sample file ended in half a line, which was removed")
        else:
            os.write(self._file, b"\n")

    def close(self) -> None:
        os.close(self._file)


def _said(answer: dict) -> dict:
    """The label and its score, the labels, the number, the entities, the answer or the text; under names that are not
    read as labels. Of a vector nothing."""
    if "embedding" in answer:
        return {}
    if "answer" in answer:
        return {"found": answer["answer"], "score": answer["score"]}
    if "label" in answer:
        return {"answer": answer["label"], "score": answer["score"]}
    return {"answer": next(answer[name] for name in ("labels", "value", "entities", "text") if name in answer)}
