"""Prometheus metrics. With several workers, prometheus_client's files in PROMETHEUS_MULTIPROC_DIR add them up."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MODEL = ["model", "version"]
Key = tuple[str, str]  # model and version


class Metrics:
    """Everything that is counted, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: tuple, labels: list[str] = MODEL) -> Histogram:
            return Histogram(f"paredown_{name}", text, labels, buckets=buckets, registry=registry)

        self.requests = Counter("paredown_requests", "Answered requests", ["route", "status"], registry=registry)
        self.seconds = histogram("request_seconds", "From a request's arrival to its answer", SECONDS, ["route"])
        self.rows = Counter("paredown_rows", "Rows answered", MODEL, registry=registry)
        self.tokens = Counter("paredown_tokens", "Tokens answered", MODEL, registry=registry)
        self.tokenise = histogram("tokenise_seconds", "Tokenising, per request", SECONDS)
        self.queue = histogram("queue_seconds", "From arrival to the first call of the model", SECONDS)
        self.model = histogram("model_seconds", "One call of the model", SECONDS)
        self.batch = histogram("batch_rows", "Rows in one call of the model", SIZES)
        self.in_flight = Gauge(
            "paredown_requests_under_way", "Requests without an answer", registry=registry, multiprocess_mode="livesum"
        )
        self.waiting = Gauge(
            "paredown_queue_rows", "Rows waiting or running", MODEL, registry=registry, multiprocess_mode="livesum"
        )

    def call(self, name: str, version: str, rows: int, tokens: int, seconds: float) -> None:
        """One call of a model; from its thread."""
        self.batch.labels(name, version).observe(rows)
        self.model.labels(name, version).observe(seconds)
        self.rows.labels(name, version).inc(rows)
        self.tokens.labels(name, version).inc(tokens)

    def text(self, queued: Mapping[Key, int], drift: Mapping[Key, dict]) -> bytes:
        """The page at /metrics, of all workers. By (model, version): rows waiting or running, reports of `Drift`."""
        for key, rows in queued.items():
            self.waiting.labels(*key).set(rows)
        found = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            found = CollectorRegistry()
            _Workers(found)
        extra = CollectorRegistry()
        extra.register(_Drift(drift))
        return generate_latest(found) + generate_latest(extra)


class _Workers(multiprocess.MultiProcessCollector):
    """The files of all workers but those that are empty: a worker opens a file first and gives it its size then, and
    the library fails on one in between, or on one whose worker was killed in between."""

    def collect(self) -> Iterable[Metric]:
        return self.merge([str(path) for path in Path(self._path).glob("*.db") if _size(path)])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a worker's gauges are removed with it
        return 0


class _Drift:
    def __init__(self, reports: Mapping[Key, dict]) -> None:
        self._reports = reports

    def collect(self) -> Iterator[GaugeMetricFamily]:
        drift = GaugeMetricFamily(
            "paredown_drift", "Distance from the reference", labels=[*MODEL, "quantity", "statistic"]
        )
        alert = GaugeMetricFamily("paredown_drift_alert", "1: a distance is over the threshold", labels=MODEL)
        for (name, version), report in self._reports.items():
            alert.add_metric([name, version], bool(report["alert"]))
            for quantity, entry in report["quantities"].items():
                for statistic, value in entry.items():
                    drift.add_metric([name, version, quantity, statistic], value)
        yield drift
        yield alert
