"""Milliseconds of a model's parts on this machine: a few stand-ins are exported, timed side by side and fitted.

A stand-in has the checkpoint's own architecture with fewer layers, all of one shape, so that everything the runtime
does to the real model (fusion, INT8, kernels for that size) happens to it too.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..benchmarks.latency import SINGLE, LatencySettings, measure, ratio
from ..compress.allocate import LatencyTable, budget_ms, reachable
from ..compress.checkpoint import Checkpoint, load, save
from ..compress.data import some_of
from ..compress.encoder import collate
from ..compress.errors import InputError
from ..compress.settings import Prune, Timed
from ..compress.tasks import Task
from ..export.machine import cores, fingerprint
from .progress import Report

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)  # of the heads and of the feed-forward width
DEPTH = 3  # layers of a stand-in
MULTIPLE = 32  # feed-forward widths of the stand-ins
ROWS = 256  # of the user's own, for their lengths
SETTINGS = LatencySettings(processes=1, rounds=8, min_seconds=1.6, min_repeats=96)


def table_for(
    checkpoint: Checkpoint,
    task: Task,
    ids: Sequence[Sequence[int]],
    target: Timed,
    cuts: Sequence[Prune],
    max_length: int,
    report: Report | None = None,
) -> LatencyTable:
    """The table of a target that these cuts are timed with; InputError when one asks for the impossible."""
    from ..compress.prune import shape_of

    table = latency_table(checkpoint, task, ids, target, max_length, report)
    full = shape_of(load(checkpoint, task))
    for cut in cuts:
        reachable(table, full, budget_ms(table, full, cut.speedup, cut.latency_ms), even=cut.even)
    return table


def measured_speedup(
    before: Checkpoint, after: Checkpoint, task: Task, ids: Sequence[Sequence[int]], target: Timed, max_length: int
) -> tuple[float, float, float]:
    """How many times faster `after` is than `before` in `target`, with its 95 % interval: one interleaved run."""
    rows = [list(ids[i]) for i in some_of(len(ids), ROWS)]
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        paths = {
            name: _exported(checkpoint, task, rows, target, max_length, Path(scratch) / name)
            for name, checkpoint in (("before", before), ("after", after))
        }
        timings = measure(
            paths, dict.fromkeys(paths, rows), SETTINGS, single_rows=target.batch_size, scenarios=(SINGLE,)
        )
    return ratio(timings["before"].turns[SINGLE], timings["after"].turns[SINGLE])


def latency_table(
    checkpoint: Checkpoint,
    task: Task,
    ids: Sequence[Sequence[int]],
    target: Timed,
    max_length: int,
    report: Report | None = None,
) -> LatencyTable:
    """The table of this checkpoint's shapes for `target`, from the cache when this machine has measured it before.

    `ids`: token ids of the user's rows; they are timed at their natural lengths.
    """
    rows = [list(ids[i]) for i in some_of(len(ids), ROWS)]
    key = {
        "table": 1,
        "machine": fingerprint(),
        "threads": cores(),
        "shape": {k: v for k, v in checkpoint.config.items() if isinstance(v, int | float | str) and "vocab" not in k},
        "target": target.model_dump(),
        "lengths": sorted(len(row) for row in rows),
        "multiple": MULTIPLE,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paredown" / f"latency-{digest}.json"
    try:
        return LatencyTable.from_json(json.loads(cache.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    table = _measured(checkpoint, task, rows, target, max_length, report or (lambda share, text: None))
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        scratch = cache.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(table.to_json()) + "\n")
        scratch.replace(cache)
    except OSError:
        pass  # a home that cannot be written costs a minute the next time
    return table


def _measured(
    checkpoint: Checkpoint,
    task: Task,
    rows: list[list[int]],
    target: Timed,
    max_length: int,
    report: Report,
) -> LatencyTable:
    from ..compress.prune import shape_of
    from ..compress.structure import family

    model = load(checkpoint, task)
    heads, width = (max(counts) for counts in zip(*shape_of(model), strict=True))
    depth = min(DEPTH, checkpoint.depth)
    head_counts = _counts(heads, 1) if family(model).cuts_heads else [heads]
    widths = _counts(width, MULTIPLE)
    shapes = [(depth, heads, width), (1, heads, width)]
    shapes += [(depth, h, width) for h in head_counts if h != heads] + [(depth, heads, w) for w in widths if w != width]
    if depth == 1:  # nothing to tell a layer from the rest by: the rest counts as nothing
        shapes.remove((1, heads, width))
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        paths = {}
        for i, shape in enumerate(shapes):
            report(0.6 * i / len(shapes), f"stand-in {i + 1} of {len(shapes)}")
            paths[str(shape)] = _stand_in(
                model, checkpoint, task, shape, rows, target, max_length, Path(scratch) / str(i)
            )
        timings = measure(
            paths,
            dict.fromkeys(paths, rows),
            SETTINGS,
            single_rows=target.batch_size,
            scenarios=(SINGLE,),
            progress=lambda share, text: report(0.6 + 0.4 * share, text),
        )
    for timing in timings.values():
        if timing.cannot_run:
            raise InputError(
                f"prune: no time can be measured in {target.runtime} {target.precision}: {timing.cannot_run}"
            )
    first = timings[str(shapes[0])].turns[SINGLE]
    reference = float(np.median(np.concatenate(first)))

    def ms(shape: tuple[int, int, int]) -> float:
        """Median over the turns of the ratio to the first stand-in in the same turn, times its median."""
        turns = timings[str(shape)].turns[SINGLE]
        return reference * float(np.median([np.median(a) / np.median(b) for a, b in zip(turns, first, strict=True)]))

    whole = ms((depth, heads, width))
    layer = (whole - ms((1, heads, width))) / (depth - 1) if depth > 1 else whole
    heads_saved = {h: (whole - ms((depth, h, width))) / depth for h in head_counts}
    ffn_saved = {w: (whole - ms((depth, heads, w))) / depth for w in widths}
    # How a whole layer divides into its two parts cannot be seen, and does not matter: only their sum is ever used.
    attention = max(heads_saved.values()) + 0.5 * max(0.0, layer - max(heads_saved.values()) - max(ffn_saved.values()))
    return LatencyTable(
        target.runtime,
        target.precision,
        target.batch_size,
        max(0.0, whole - depth * layer),
        _rising({h: attention - saved for h, saved in heads_saved.items()}),
        _rising({w: layer - attention - saved for w, saved in ffn_saved.items()}),
    )


def _counts(full: int, multiple: int) -> list[int]:
    return sorted({min(full, max(multiple, round(full * share / multiple) * multiple)) for share in SHARES})


def _rising(ms: dict[int, float]) -> dict[int, float]:
    """More never takes less: what noise says otherwise is smoothed (isotonic regression)."""
    from sklearn.isotonic import isotonic_regression

    counts = sorted(ms)
    return dict(zip(counts, map(float, isotonic_regression([max(0.0, ms[n]) for n in counts])), strict=True))


def _stand_in(
    whole: PreTrainedModel,
    checkpoint: Checkpoint,
    task: Task,
    shape: tuple[int, int, int],
    rows: list[list[int]],
    target: Timed,
    max_length: int,
    out: Path,
) -> Path:
    """An exported model of `shape` (layers, heads, neurons) with the checkpoint's first weights."""
    from ..compress.structure import Layer, Structure, head_size, keep_blocks, reshape

    layers, heads, width = shape
    model = copy.deepcopy(whole)
    keep_blocks(model, list(range(layers)))
    reshape(model, Structure(head_size(model), (Layer(heads, width),) * layers))
    saved = save(model, checkpoint, out / "checkpoint")
    return _exported(saved, task, rows, target, max_length, out)


def _exported(
    checkpoint: Checkpoint, task: Task, rows: list[list[int]], target: Timed, max_length: int, out: Path
) -> Path:
    from ..export.exporters import EXPORTERS
    from ..export.to_onnx import plain_onnx

    out.mkdir(parents=True, exist_ok=True)
    plain = plain_onnx(checkpoint, task, out / "plain.onnx")
    calibration = [collate([row], checkpoint.pad_id) for row in rows[:16]]
    EXPORTERS[target.runtime](plain, checkpoint, task, out / "artifact", max_length, target.precision, calibration)
    return out / "artifact"
