"""What INT8 costs: points of the metric where rows have labels, else the distance to the float model's answers.

Without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paredown.runtime.preprocessor import Batch, Preprocessor
from paredown.tasks.base import Task
from paredown.tasks.registry import TASKS
from paredown.tasks.rows import Rows
from paredown.tasks.scores import points

from ..config import Int8
from ..threads import few_threads

Batches = Sequence[Batch]
Answers = list[np.ndarray]  # of each row (labels,), or (tokens, labels)
Z95_ONE_SIDED = 1.644854
HELD_OUT = 4  # every so manieth calibration row judges and does not calibrate


@dataclass(frozen=True)
class Int8Evaluator:
    """What INT8 may cost, and the rows that say so: one for each batch of one row, with labels where there are some."""

    limits: Int8 = field(default_factory=Int8)
    rows: Rows | None = None
    encoder: Preprocessor | None = None

    def parts(self, count: int) -> tuple[list[int], list[int]]:
        """Which of `count` rows calibrate, and which judge: all do both where they are few. Pairs stay together."""
        width = 2 if self.rows is not None and 0 < len(self.rows.begins) < len(self.rows) else 1
        judging = [i for i in range(count) if i // width % HELD_OUT == HELD_OUT - 1]
        if not judging:
            return list(range(count)), list(range(count))
        return sorted({*range(count)} - {*judging}), judging

    def gold(self, task: Task | None, picked: Sequence[int]) -> Any:
        """What `Task.correct` compares the answers for these rows with; None where nobody knows what is right."""
        rows = self.rows
        if task is None or rows is None or self.encoder is None or rows.labels is None or not len(rows.begins):
            return None
        return task.gold(rows.only(np.asarray(picked)), self.encoder)


@dataclass(frozen=True)
class Cost:
    """What INT8 costs on some rows."""

    measure: str  # name of the task's metric; "KL", "squared error" or "1 - cosine" where there are no labels
    unit: str
    value: float
    error: float  # standard error of the value, over the rows
    distance: float  # mean of `distances`, whether there are labels or not
    agreement: float  # share of the answers that stay the same, 0..1
    rows: int
    labelled: bool
    limits: Int8

    @property
    def limit(self) -> float:
        """What `value` may be."""
        return self.limits.max_drop if self.labelled else self.limits.max_kl

    @property
    def too_much(self) -> bool:
        """The cost is over its limit. A drop of the metric counts where it is more than the noise of so few rows, one
        side, 95 %; or where the distance, which rows tell more exactly, is over its own limit too."""
        if not self.labelled:
            return self.value > self.limit
        return self.value > self.limit and (
            self.value > Z95_ONE_SIDED * self.error or self.distance > self.limits.max_kl
        )


def cost(ours: Answers, theirs: Answers, task: Task | None, limits: Int8, gold: Any = None) -> Cost:
    """What answers cost against the float model's for the same rows; `gold`: as `Int8Evaluator.gold` gives it."""
    apart, kind = distances(ours, theirs, task), _task(theirs, task)
    measure, unit = kind.distance_name
    value, error, labelled = float(apart.mean()), _standard_error(apart), False
    if gold is not None and task is not None:
        measure, unit, labelled = task.metric_name, "points", True
        value, error = _drop(task.correct(outputs(theirs), gold), task.correct(outputs(ours), gold))
    return Cost(
        measure=measure,
        unit=unit,
        value=value,
        error=error,
        distance=float(apart.mean()),
        agreement=agreement(outputs(ours), outputs(theirs), kind),
        rows=len(ours),
        labelled=labelled,
        limits=limits,
    )


def said(before: Cost, after: Cost) -> dict:
    """What INT8 costs, with every product in INT8 and as it was left, for the artefact's details."""
    return {
        "int8_cost": {
            "measure": before.measure,
            "unit": before.unit,
            "before": _finite(before.value),
            "after": _finite(after.value),
            "standard_error": _finite(after.error),
            "limit": before.limit,
            "distance": _finite(after.distance),
            "rows": after.rows,
        },
        "agreement": after.agreement,
    }


def _finite(value: float) -> float | None:
    """JSON has no other numbers."""
    return value if math.isfinite(value) else None


def answers(model: Path, batches: Batches, as_stated: bool = False) -> Answers:
    """First output of an ONNX file for every row, without padding.

    `as_stated`: each Q/DQ node computed as it stands, for a target whose INT8 is not this CPU's.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, few_threads()
    if as_stated:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = {entry.name for entry in session.get_inputs()}
    found: Answers = []
    for batch in batches:
        out = np.asarray(session.run(None, {name: array for name, array in batch.items() if name in names})[0])
        found += rows_of(out, batch)
    return found


def openvino_answers(model: Any, batches: Batches) -> Answers:
    """`answers`, of an OpenVINO model."""
    if not batches:
        return []
    import openvino

    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = {name for port in compiled.inputs for name in port.get_names()}
    found: Answers = []
    for batch in batches:
        out = compiled({name: array for name, array in batch.items() if name in names})[0]
        found += rows_of(np.array(out), batch)
    return found


def rows_of(out: np.ndarray, batch: Batch) -> Answers:
    """One output of a batch, row by row: (batch, labels), or (batch, length, labels) without the padding."""
    if out.ndim == 2:
        return list(out)
    return [row[mask == 1] for row, mask in zip(out, batch["attention_mask"], strict=True)]


def outputs(found: Answers) -> np.ndarray:
    """(rows, labels), or (tokens of all rows, labels): what `run_rows` gives."""
    return np.stack(found) if found[0].ndim == 1 else np.concatenate(found)


def distances(ours: Answers, theirs: Answers, task: Task | None = None) -> np.ndarray:
    """How far each row's answer is from the float model's, (rows,) float64, infinite where one is not a number; as
    `Task.distances` measures it, in nats of KL divergence for a graph whose task is not given."""
    found = _task(theirs, task).distances(ours, theirs)
    return np.where(np.isnan(found), np.inf, found)


def agreement(ours: np.ndarray, theirs: np.ndarray, task: Task) -> float:
    """Share of the rows, or tokens, whose answer is the same, 0..1."""
    return float(task.same_choices(ours, theirs).mean())


def _task(theirs: Answers, task: Task | None) -> Task:
    """The task, or one whose answers have such a shape."""
    return task or TASKS["text-regression" if theirs[0].shape == (1,) else "text-classification"]


def _standard_error(values: np.ndarray) -> float:
    """Of the mean; not a number where a value is infinite or there is only one."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _drop(theirs: np.ndarray, ours: np.ndarray) -> tuple[float, float]:
    """Drop of the metric in points, and its paired standard error; both as `Task.correct` has them.

    Right or wrong: half a row is added to each cell (Agresti and Min 2005, doi 10.1002/sim.1781). Points gained and
    possible: the influence of each row on the difference of the two ratios of sums (the delta method).
    """
    n = len(ours)
    drop = points(theirs) - points(ours)
    if ours.ndim == 1:
        lost, won = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
        b, c, m = lost + 0.5, won + 0.5, n + 2
        return drop, 100 * math.sqrt(b + c - (b - c) ** 2 / m) / m
    influence = _influence(theirs) - _influence(ours)
    return drop, math.hypot(100 * float(influence.std()) / math.sqrt(n), 100 / (n + 2))


def _influence(correct: np.ndarray) -> np.ndarray:
    gained, possible = correct.astype(np.float64).T
    if not possible.sum():
        return np.zeros(len(correct))
    return (gained - possible * gained.sum() / possible.sum()) / possible.mean()
