"""Cold-start time of a bundle: a fresh process up to its first answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.runtime.manifest import check_files, read_manifest

from ..isolation import DEADLINE_S, ROWS_S, begin_rows, in_child, limit_memory
from ..runtimes.registry import RUNTIMES


@dataclass(frozen=True)
class ColdStart:
    """Seconds."""

    total: float  # from starting the process to the first answer, the bundle verified on the way
    runtime: float  # importing the runtime
    session: float  # the runtime opening the model

    @property
    def ours(self) -> float:
        """What is left: Python, numpy, tokenizers or Pillow, paredown, hashes, golden rows, the first answer."""
        return self.total - self.runtime - self.session


@dataclass(frozen=True)
class Verified:
    """What a process of its own found that opened the bundle."""

    start: ColdStart
    notes: tuple[str, ...]  # how this machine differs from the one that packed it
    difference: float  # of the golden rows, at most
    metric: float | None  # points on labelled rows, where they were given
    rows: int


def verified(
    bundle: Path,
    seconds: float = DEADLINE_S,
    public_key: Path | None = None,
    data: tuple[str, str | None, str | None] | None = None,
) -> Verified:
    """Verify an unpacked bundle in a process of its own: its files, its signature where there is a key, the machine,
    the golden rows, a first answer; then the metric on `data` (source, text column, label column).

    Raises BundleError; InputError for what is wrong with the key or the data.
    """
    given = {"public_key": None if public_key is None else str(public_key.absolute()), "data": data}
    found = in_child("cold", bundle, seconds, 0 if data is None else ROWS_S, **given)
    return Verified(ColdStart(**found.pop("start")), tuple(found.pop("notes")), **found)


def cold_start(bundle: Path, seconds: float = DEADLINE_S) -> ColdStart:
    """Start a process that verifies the unpacked bundle as `predict` does, and answers one text. The files are in the
    page cache when they have been hashed before. Raises BundleError."""
    return verified(bundle, seconds).start


def job(bundle: Path, started: float, rows_s: float, public_key: str | None, data: list | None) -> dict[str, Any]:
    """What the process does; `started`: time.monotonic, which all processes of a machine share."""
    from importlib import import_module

    here = time.monotonic()
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    if public_key is not None:
        from .signature import check_signature

        check_signature(bundle, Path(public_key))
    first = time.monotonic() - here  # what is done once more below, and what only `verify` does
    from .. import predictor as predict

    runtime = RUNTIMES.get(manifest["runtime"])
    begin = time.monotonic()
    if runtime is not None and not runtime.SPEC.engine:  # an engine's libraries are loaded when it is opened
        import_module(runtime.SPEC.module)
    imported = time.monotonic() - begin
    predictor = predict.Predictor(bundle)
    predictor.answer_example()
    total = time.monotonic() - started - first
    metric, rows = None, 0
    if data is not None:
        limit_memory(None)  # the rows are the user's own
        begin_rows(rows_s)
        metric, rows = predictor.score(*data)
    return {
        "start": {"total": total, "runtime": imported, "session": predictor.session_s},
        "notes": predictor.notes,
        "difference": float(predictor.largest_difference),
        "metric": metric,
        "rows": rows,
    }
