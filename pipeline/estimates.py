"""How long steps take, from what one row costs the checkpoint on this machine.

`row_seconds` measures that. The factors are medians over runs of `paredown compress` on four data sets with MiniLM-L6;
`python benchmarks/results/estimates.py RUN ...` compares the estimates with what the steps of a run took.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from paredown.compress.config import Distill, DistillationTraining, Finetune, Prune, Stage, Static, Trim, Truncate
from paredown.compress.models.loading import load
from paredown.export.artifact import multiplies_int8
from paredown.export.hardware import all_cores
from paredown.runtime.preprocessor import run_rows
from paredown.tasks.base import Feature
from paredown.tasks.rows import some_of

from .job import Candidate, Job, chain_of
from .recipe.schema import Model

PROBE_S, PROBED, FIRST = 3.0, 2048, 16  # seconds; rows, at most and at first
# Times as long as the checkpoint takes for a row in the probe:
SCORING, TRAINING, STATIC = 0.95, 2.6, 0.18  # a row of long work; of training; of a static student's training
ALONE = {"pytorch": 2.1, "int8": 0.55, "other": 1.6}  # a row in a call of its own
TRIMMING, ROUNDING = 0.03, 1700.0  # counting a row's tokens; calibration of INT8 and its checks
CASCADE = 0.4  # a cascade's mean time, where the checkpoint's is 1
LATENCY_TABLE_S, PRUNING_S, LOADING_S = 75.0, 35.0, 3.0
OPENING_S, TURNS = 2.8, 1.8  # seconds of a process; what turns of several candidates take beside the time of calls


def row_seconds(job: Job) -> float:
    """Seconds that the checkpoint takes for a row of validation, in a batch: of FIRST rows, and then, where time is
    left of PROBE_S, of as many as fit it. Imports torch."""
    from paredown.compress.models.inference import forward, teacher_scores
    from paredown.compress.models.output_kinds import pad_id

    all_cores()
    rows, encoder = job.validation, job.checkpoint.encoder(job.recipe.max_length)
    texts = [rows.texts[int(i)] for i in some_of(len(rows), PROBED)]
    model = load(job.checkpoint, job.task)

    def answered(count: int) -> float:
        ids = job.checkpoint.read(encoder.ids(texts[:count]))
        began = time.monotonic()
        if job.task.supports(Feature.CACHED_SCORES):
            teacher_scores(model, ids)
        else:
            run_rows(partial(forward, model), ids, pad_id(model), job.task.output)
        return (time.monotonic() - began) / len(ids)

    row = answered(FIRST)
    if row * FIRST < PROBE_S:
        row = answered(FIRST)  # the first one compiled kernels
        row = answered(max(FIRST, int(PROBE_S / row)))
    return row


def compute_left(model: Model, depth: int) -> float:
    """The share of the checkpoint's multiplications that a model keeps, 0..1, as far as its steps say: a latency in ms
    and a narrower student count as unpruned. `depth`: the checkpoint's layers."""
    share = 1.0 if model.cascade is None else CASCADE
    for settings in chain_of(model).values():
        share *= _kept(settings, depth)
    return share


def _kept(settings: Stage, depth: int) -> float:
    if isinstance(settings, Static):
        return STATIC / TRAINING
    if isinstance(settings, Prune):
        layers = depth if settings.layers is None else settings.layers
        left = (layers if isinstance(layers, int) else len(layers)) / depth if depth else 1.0  # 0: a convolutional net
        return left * (settings.heads + 2 * settings.ffn) / 3 * settings.channels / (settings.speedup or 1.0)
    if isinstance(settings, Distill) and settings.student is None:
        layers = settings.layers if isinstance(settings.layers, int) else len(settings.layers)
        return min(1.0, layers / max(depth, 1))
    return 1.0


def scoring(job: Job, rows: int) -> float:
    """Seconds of the checkpoint's answers to `rows`, in batches."""
    return LOADING_S + SCORING * rows * job.row_s


def training(job: Job, rows: float) -> float:
    """Seconds of training the checkpoint itself on so many rows, each of every epoch."""
    return TRAINING * rows * job.row_s


def stage(job: Job, settings: Stage, share: float) -> float:
    """Seconds of one stage. `share`: `compute_left` of the model that it trains."""
    if isinstance(settings, Finetune):
        return LOADING_S + training(job, settings.epochs * len(job.train))
    if isinstance(settings, DistillationTraining):
        return LOADING_S + share * training(job, settings.epochs * job.rows_of(settings))
    if isinstance(settings, Prune):
        return PRUNING_S
    return 1.0 + TRIMMING * job.learned * job.row_s if isinstance(settings, Trim | Truncate) else LOADING_S


def exporting(job: Job, candidate: Candidate) -> float:
    """Seconds of an export. Static INT8 calibrates, compares and corrects."""
    target = candidate.target
    if target.runtime == "pytorch":
        return 0.2
    if not multiplies_int8(target.precision):
        return LOADING_S
    times = 4 if target.precision == "int8-static" else 1
    return times * (1.0 + ROUNDING * compute_left(candidate.model, job.checkpoint.depth) * job.row_s)


def answering(job: Job, rows: int, candidate: Candidate) -> float:
    """Seconds of `rows` that a candidate answers one by one."""
    return 0.3 + rows * alone_s(job, candidate)


def alone_s(job: Job, candidate: Candidate) -> float:
    """Seconds of one row in a call of its own."""
    target = candidate.target
    kind = "pytorch" if target.runtime == "pytorch" else "int8" if multiplies_int8(target.precision) else "other"
    return ALONE[kind] * compute_left(candidate.model, job.checkpoint.depth) * job.row_s


def sitting(job: Job, candidates: Sequence[Candidate]) -> float:
    """Seconds of one process of every candidate: opened, timed in its share of the time and of the calls."""
    settings, seconds = job.recipe.latency, 0.0
    for candidate in candidates:
        timed = max(settings.min_seconds, settings.min_repeats * alone_s(job, candidate)) / settings.processes
        seconds += OPENING_S + 2 * TURNS * timed  # the bare model, and with its tokenizer
    return seconds
