"""Settings of a server; workers get them as JSON on standard input."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from paredown.runtime.selftest import usable_cores

CONFIGURATION = ("workers", "threads", "batch_rows")  # what a bundle's serving configuration sets
LOCAL = ("127.0.0.1", "localhost", "::1")  # names of this machine for itself


class Settings(BaseModel):
    """What an operator may set, with units: the options of `paredown serve`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path | None = None
    models: Path | None = Field(default=None, description="directory of bundles: NAME, or NAME/VERSION")
    port: int = Field(default=8080, ge=0, lt=65536, description="TCP port (0: any free port)")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    workers: int = Field(
        default=1, ge=1, le=256, description="number of worker processes (default: the bundle's, or 1)"
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of a worker (default: the bundle's, or cores / workers)"
    )
    batch_rows: int | None = Field(
        default=None, ge=1, description="maximum number of rows in a batch (default: the bundle's, or no limit)"
    )
    configured_by: str = Field(default="defaults", description="where workers, threads and batch_rows come from")
    load: Literal["latest", "all", "none"] = Field(default="latest", description="models to load at start")
    memory_mb: float | None = Field(default=None, gt=0, description="memory limit of the models of a worker, in MB")
    batch_tokens: int = Field(default=1024, ge=1, description="maximum number of tokens in a batch, padding included")
    max_wait_ms: float = Field(default=0, ge=0, le=1000, description="batching delay of an idle model, in ms")
    queue_rows: int = Field(
        default=1024, ge=1, description="maximum number of rows in the queue or running; more get status 429"
    )
    deadline_ms: float = Field(default=1000, gt=0, description="deadline of a request, in ms")
    body_bytes: int = Field(default=1_000_000, ge=1000, description="maximum size of a request body, in bytes")
    text_bytes: int = Field(default=20_000, ge=1, description="maximum size of a text, in bytes")
    image_bytes: int = Field(
        default=700_000, ge=1, description="maximum size of an image file, in bytes; see --body-bytes too"
    )
    image_pixels: int = Field(default=20_000_000, ge=1, description="maximum number of pixels of an image")
    request_rows: int = Field(default=256, ge=1, description="maximum number of rows in a request")
    connections: int = Field(default=1000, ge=1, description="maximum number of open requests; more get status 429")
    drain_s: float = Field(default=10, gt=0, description="time limit for open requests after SIGTERM, in seconds")
    open_s: float = Field(default=60, gt=0, description="time limit to open a model and to answer once, in seconds")
    public_key: Path | None = Field(
        default=None, description="PEM file of a public key; only bundles signed by its private key are served"
    )
    allowed_host: tuple[str, ...] = Field(
        default=(),
        description="further Host name that a server on the loopback address accepts; may be given several times",
    )
    drift_threshold: float = Field(default=0.2, gt=0, description="PSI or KS distance that raises an alert")
    drift_rows: int = Field(default=2000, ge=1, description="rows in one window of the drift statistics")
    sample_file: Path | None = Field(
        default=None, description="JSONL file that sampled texts and answers are appended to"
    )
    sample_share: float = Field(default=0.01, gt=0, le=1, description="share of texts that is sampled")
    sample_mb: float = Field(default=100, gt=0, description="maximum size of the sample file, in MB")
    tls_cert: Path | None = Field(default=None, description="PEM file of the certificate chain")
    tls_key: Path | None = Field(default=None, description="PEM file of its private key")
    log_requests: bool = Field(default=True, description="log one line for each request")
    api_key: str | None = Field(default=None, repr=False)

    @property
    def threads_each(self) -> int:
        """CPU threads of one worker, of the cores that this process may use."""
        return self.threads or max(1, usable_cores() // self.workers)

    @property
    def configuration(self) -> dict[str, int | str]:
        """What a server says at its start: workers, threads of each, rows of a batch where limited, and whence."""
        rows = {} if self.batch_rows is None else {"batch_rows": self.batch_rows}
        return {"workers": self.workers, "threads": self.threads_each, **rows, "configured_by": self.configured_by}

    @property
    def local(self) -> bool:
        """Nobody but this machine can reach it."""
        return self.host in LOCAL

    @property
    def controlled(self) -> bool:
        """Whether clients may load and unload models: on this machine, or with the key."""
        return self.local or self.api_key is not None


def configured(given: dict[str, Any], serving: dict[str, Any] | None, cores: int) -> dict[str, Any]:
    """The values of `workers`, `threads` and `batch_rows`, and `configured_by`: the options in `given` (None: not
    given) where there is one of them, else `serving` of the bundle's manifest where these cores suffice, else the
    defaults."""
    if asked := {name: given[name] for name in CONFIGURATION if given.get(name) is not None}:
        return {**asked, "configured_by": "options"}
    if serving is None:
        return {"configured_by": "defaults"}
    workers, threads = serving["instances"], serving["threads"]
    if workers * threads > cores:
        needs = f"its {workers} workers of {threads} threads need {workers * threads} cores"
        return {"configured_by": f"defaults, not the bundle: {needs}, and {cores} are here"}
    spare = f"; {workers * threads} of {cores} cores, see --workers" if workers * threads < cores else ""
    values = {"workers": workers, "threads": threads, "batch_rows": serving["batch_size"]}
    return {**values, "configured_by": f"the bundle, measured{spare}"}
