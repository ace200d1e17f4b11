"""Sampled texts and their answers, as JSONL that `paredown` reads again: unlabelled text for the next distillation."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

from ..export.errors import InputError


class Samples:
    """Appends whole lines, readable by its owner alone; several workers may share the file."""

    def __init__(self, path: Path, share: float, megabytes: float) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(f"--sample-file {path}: {error.strerror}") from None
        self._share, self._limit = share, megabytes * 1e6
        self._random = random.Random()

    def add(self, model: str, version: str, texts: Sequence[str], answers: Sequence[dict]) -> None:
        """Each text with the probability `share`, until the file is full."""
        chosen = [i for i in range(len(texts)) if texts[i].strip() and self._random.random() < self._share]
        if not chosen or os.fstat(self._file).st_size >= self._limit:
            return
        lines = [
            {"text": texts[i], "answer": answers[i]["label"], "score": answers[i]["score"], "model": model,
             "version": version, "time": round(time.time(), 3)}
            for i in chosen
        ]  # fmt: skip
        os.write(self._file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())

    def close(self) -> None:
        os.close(self._file)
