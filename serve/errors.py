"""HTTP errors that handlers raise."""

from __future__ import annotations


class HTTPError(Exception):
    """`status` and one line for the client; `retry_after` in seconds where trying again makes sense."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
