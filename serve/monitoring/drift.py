"""Drift detection: counts of the latest rows against reference.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paredown.export.bundle.drift_reference import count, ks, psi, quantities, towards
from paredown.runtime.manifest import BundleError

from ..config import Settings

REFERENCE = "reference.json"
LEAST_ROWS = 200  # fewer say nothing
FLUSH = 64  # rows that are counted at once

Counts = dict[str, list[int]]


class DriftMonitor:
    """Streaming counts of one model in two windows: drift is told from the last one to two windows of rows."""

    def __init__(self, reference: dict, settings: Settings) -> None:
        self.expected = quantities(reference)
        self.settings = settings
        self._unknown, self._words = reference["unknown"], reference["words"]
        self._centre = reference.get("centre")  # of a model that answers with vectors
        self._edges = {name: list(q.edges) for name, q in self.expected.items() if q.edges is not None}
        self._now, self._before = self._empty(), self._empty()
        self._rows = 0
        self._waiting: list[tuple[Sequence[int], np.ndarray]] = []

    @classmethod
    def of(cls, bundle: Path, settings: Settings) -> DriftMonitor | None:
        """Of a bundle's directory; None without a reference. Raises BundleError for a damaged one."""
        path = bundle / REFERENCE
        if not path.is_file():
            return None
        try:
            return cls(json.loads(path.read_bytes()), settings)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{REFERENCE}: damaged: {error}") from None

    def add(self, ids: Sequence[Sequence[int]], probabilities: np.ndarray) -> None:
        """Rows that were answered: their ids and the probabilities (rows, labels), or vectors (rows, width)."""
        if self._centre is not None:
            probabilities = towards(probabilities, self._centre)
        self._waiting.extend(zip(ids, probabilities, strict=True))
        if len(self._waiting) >= FLUSH:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        ids, probabilities = zip(*self._waiting, strict=True)
        self._waiting = []
        for name, found in count(ids, np.stack(probabilities), self._unknown, self._words, self._edges).items():
            self._now[name] = self._now[name] + found
        self._rows += len(ids)
        if self._rows >= self.settings.drift_rows:
            self._before, self._now, self._rows = self._now, self._empty(), 0

    def _empty(self) -> dict[str, np.ndarray]:
        return {name: np.zeros_like(q.counts) for name, q in self.expected.items()}

    def counts(self) -> Counts:
        """The counts of both windows, as JSON, to be added to those of other workers."""
        self._flush()
        return {name: (self._now[name] + self._before[name]).tolist() for name in self.expected}

    def report(self, counts: Sequence[Counts]) -> dict:
        """Drift of the rows counted by every worker: {rows, alert, quantities: {name: {psi, ks}}}.

        `alert` names the quantities whose PSI, or KS distance where they have an order, is over the threshold.
        """
        total = {name: np.sum([c[name] for c in counts], axis=0) for name in self.expected}
        rows = int(total["label"].sum())
        found, alert = {}, []
        for name, quantity in self.expected.items():
            entry = {"psi": psi(quantity.counts, total[name])}
            if quantity.edges is not None:
                entry["ks"] = ks(quantity.counts, total[name])
            found[name] = {key: round(value, 4) for key, value in entry.items()} if rows else {}
            if rows >= LEAST_ROWS and max(entry.values()) > self.settings.drift_threshold:
                alert.append(name)
        return {"rows": rows, "threshold": self.settings.drift_threshold, "alert": alert, "quantities": found}
