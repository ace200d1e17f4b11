"""Settings of a server; workers get them as JSON on standard input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

LOCAL = ("127.0.0.1", "localhost", "::1")  # names of this machine for itself


class Settings(BaseModel):
    """Every figure that an operator may set, with its unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path | None = None
    models: Path | None = Field(default=None, description="holds NAME or NAME/VERSION, each a bundle or its .tar.gz")
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, lt=65536)
    workers: int = Field(default=1, ge=1, le=256, description="processes")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of one worker; None: cores / workers")
    load: Literal["latest", "all", "none"] = Field(default="latest", description="what is loaded at start")
    memory_mb: float | None = Field(default=None, gt=0, description="MB that the models of one worker may take")
    batch_tokens: int = Field(default=1024, ge=1, description="tokens taken from the queue at once")
    max_wait_ms: float = Field(default=0, ge=0, le=1000, description="ms to wait for company while the model is idle")
    queue_rows: int = Field(default=1024, ge=1, description="rows waiting or running; more are refused with 429")
    deadline_ms: float = Field(default=1000, gt=0, description="ms from a request's arrival to its answer, at most")
    body_bytes: int = Field(default=1_000_000, ge=1000, description="bytes of one request, unpacked")
    text_bytes: int = Field(default=20_000, ge=1, description="bytes of one text")
    image_bytes: int = Field(default=700_000, ge=1, description="bytes of one image file, before its base64")
    image_pixels: int = Field(default=20_000_000, ge=1, description="pixels of one image")
    request_rows: int = Field(default=256, ge=1, description="texts or rows of tokens in one request")
    connections: int = Field(default=1000, ge=1, description="requests under way; more are refused with 429")
    drain_s: float = Field(default=10, gt=0, description="seconds that requests under way get after SIGTERM")
    drift_threshold: float = Field(default=0.2, gt=0, description="PSI, or KS distance, from which drift is an alert")
    drift_rows: int = Field(default=2000, ge=1, description="rows in one window of the drift statistics")
    sample_file: Path | None = Field(default=None, description="JSONL to which sampled texts and answers are appended")
    sample_share: float = Field(default=0.01, gt=0, le=1, description="share of texts that is sampled")
    sample_mb: float = Field(default=100, gt=0, description="MB after which sampling stops")
    open_s: float = Field(default=60, gt=0, description="seconds that a model may take to open and to answer")
    public_key: Path | None = Field(default=None, description="PEM: only bundles that its other half signed are served")
    allowed_host: tuple[str, ...] = Field(
        default=(), description="further names that a local server may be asked under"
    )
    api_key: str | None = Field(default=None, repr=False)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    log_requests: bool = True

    @property
    def threads_each(self) -> int:
        """CPU threads of one worker, of the cores that this process may use."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.threads or max(1, cores // self.workers)

    @property
    def local(self) -> bool:
        """Nobody but this machine can reach it."""
        return self.host in LOCAL

    @property
    def controlled(self) -> bool:
        """Whether clients may load and unload models: on this machine, or with the key."""
        return self.local or self.api_key is not None
