"""What was seen in the data and the checkpoint before any work: rows, labels, lengths, and what a practitioner would
doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from paredown.benchmarks.statistics.bounds import one_sided
from paredown.compress.models.loading import Checkpoint
from paredown.export.hardware import importable
from paredown.runtime.answers import softmax
from paredown.tasks.base import Task
from paredown.tasks.rows import Rows

NAMED = 6  # labels of which each is named, at most
SCORED, LEAST, TOKENS = 200, 20, 20_000  # validation rows that the checkpoint answers, and their tokens, at most
CHANGED = 0.05  # of the answers, that a compressed model gives otherwise: what few rows are judged by
CONFIDENCE = 0.8  # of the selection
OVERCONFIDENT = 10.0  # points that the mean confidence is over the accuracy
HARDLY = 0.2  # of the errors of always answering the most frequent label, that a checkpoint should avoid at least


def summary(checkpoint: Checkpoint, task: Task, splits: dict[str, Rows | None], max_length: int) -> list[str]:
    """A line on each split, one on what the checkpoint answers, and the doubts (`doubts`, `_of_checkpoint`). `splits`:
    as the selection has them (`compress.data.splits.divided`)."""
    encoder, given = checkpoint.encoder(max_length), {name: rows for name, rows in splits.items() if rows is not None}
    lines = []
    for name, rows in given.items():
        lengths = None if encoder.shape else [len(ids) for ids in encoder.ids(rows.sample(2000).texts)]
        lines.append(f"{name}: {described(rows, lengths)}")
    if importable("torch") and given["validation"].label_counts() is not None:
        lines += _of_checkpoint(checkpoint, task, given["validation"], max_length)
    return lines + doubts(given)


def described(rows: Rows, lengths: Sequence[int] | None) -> str:
    """`6,530 rows, 26 tokens in the median, 51 in 95 % at most; positive 50 %, negative 50 %`."""
    text = f"{len(rows):,} rows"
    if lengths is not None:
        middle, most = np.percentile(lengths, [50, 95])
        text += f", {middle:.0f} tokens in the median, {most:.0f} in 95 % at most"
    counts = rows.label_counts()
    if counts is None or not counts.sum():
        return text
    order = np.argsort(-counts, kind="stable")
    if len(counts) <= NAMED:
        return f"{text}; " + ", ".join(f"{rows.names[i]} {100 * counts[i] / counts.sum():.0f} %" for i in order)
    first, last = order[0], order[-1]
    ends = (f"{counts[i]:,} of {rows.names[i]}" for i in (last, first))
    return f"{text}; {len(counts)} labels, from {' to '.join(ends)}"


def doubts(splits: dict[str, Rows]) -> list[str]:
    """Labels that a split has no row of, and validation rows that are too few to show a loss of a point."""
    found = []
    for name in ("train", "validation"):
        rows = splits[name]
        counts = rows.label_counts()
        if counts is not None and counts.any() and not counts.all():
            none = [rows.names[i] for i in np.flatnonzero(counts == 0)]
            shown = ", ".join(none[:NAMED]) + (f" and {len(none) - NAMED} more" if len(none) > NAMED else "")
            lost = "no student learns it from labels" if name == "train" else "what is lost there is not seen"
            found.append(f"{name}: no row of {shown}: {lost}")
    validation = splits["validation"]
    if validation.label_counts() is None or validation.gold.ndim > 1 or validation.gold.dtype == object:
        return found  # no answer is right or wrong as a whole
    rows = len(validation)
    chance = 100 * one_sided(CONFIDENCE) * math.sqrt(CHANGED / rows)
    if chance > 1:
        wanted, sure = math.ceil(CHANGED * (100 * one_sided(CONFIDENCE)) ** 2 / 100) * 100, f"{100 * CONFIDENCE:.0f} %"
        found.append(
            f"validation: {rows} rows: of a model that changes {100 * CHANGED:.0f} % of the answers they cannot show "
            f"that it loses less than {chance:.1f} points ({sure} confidence); {wanted} rows could show 1"
        )
    return found


def _of_checkpoint(checkpoint: Checkpoint, task: Task, validation: Rows, max_length: int) -> list[str]:
    """The checkpoint's metric on some validation rows, whether it is hardly better than the most frequent label, and
    whether it is surer than it is right: cascades and students go by its confidence."""
    from paredown.compress.models.inference import teacher_scores
    from paredown.compress.models.loading import load

    encoder, rows = checkpoint.encoder(max_length), validation.sample(SCORED)
    if not encoder.shape:  # long rows: fewer
        mean = max(1, sum(map(len, encoder.ids(rows.texts))) // len(rows))
        rows = rows.sample(max(LEAST, TOKENS // mean))
    outputs = teacher_scores(load(checkpoint, task), checkpoint.read(encoder.ids(rows.texts)))
    gold = task.gold(rows, encoder)
    lines = [f"checkpoint: {task.metric_name} {task.metric(outputs, gold):.1f} on {len(rows)} validation rows"]
    classes = task.predicted(outputs, gold)
    if classes is None or len(classes[1]) != len(rows):  # tags: most are of no entity
        return lines
    given, wanted = classes
    right, most = 100 * float((given == wanted).mean()), 100 * float(np.bincount(wanted).max() / len(wanted))
    confident = 100 * float(softmax(outputs).max(axis=-1).mean())
    if right - most < HARDLY * (100 - most):
        lines.append(
            f"checkpoint: right in {right:.0f} %; always answering the most frequent label is in {most:.0f} %: it is "
            "hardly trained"
        )
    elif confident > right + OVERCONFIDENT:
        lines.append(
            f"checkpoint: {confident:.0f} % confident in the mean, and right in {right:.0f} %: it is overconfident; "
            "fewer epochs of fine-tuning usually help"
        )
    return lines
