"""Sampled texts and their answers, as JSONL that `paredown` reads again: unlabelled text for the next distillation."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

from ..export.errors import InputError
from ..export.predict import columns_of

log = logging.getLogger("paredown")


class Samples:
    """Appends whole lines, readable by its owner alone; several workers may share the file."""

    def __init__(self, path: Path, share: float, megabytes: float) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
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
        try:
            written, reason = os.write(self._file, data), f"of {len(data)} bytes, not all were written"
        except OSError as error:
            written, reason = 0, error.strerror
        self._broken = written < len(data)
        if self._broken:  # the disk is full: the answers matter more
            log.error("sampling stopped: the sample file takes no more", extra={"fields": {"reason": reason}})

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
