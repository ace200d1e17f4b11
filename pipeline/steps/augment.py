"""Augmented copies of training rows, written as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from paredown.compress.config import Augment
from paredown.runtime.errors import InputError
from paredown.tasks.parsing import columns_of
from paredown.tasks.rows import Rows

from ..progress import Report
from ..store import write_atomic


def write_augmented(
    rows: Rows, settings: Augment, path: Path, seed: int, report: Report, *, originals: bool = False
) -> int:
    """Write the augmented copies (with `originals` after the rows themselves) as JSON lines; returns how many there
    are."""
    from paredown.compress.training.augmentation import augment as changed_copies

    made = changed_copies(rows.texts, settings, seed=seed, progress=report)
    if not made:
        raise InputError(f"{rows.source}: no row was changed; check `kinds` and `share`")
    entries = [*enumerate(rows.texts), *made] if originals else made
    lines = []
    for i, text in entries:
        label = {} if rows.labels is None else _label_of(rows.labels[i], rows.names)
        lines.append(json.dumps({**columns_of(text), **label}, ensure_ascii=False))
    write_atomic(path, "\n".join(lines) + "\n")
    return len(made)


def _label_of(label: np.ndarray, names: tuple[str, ...]) -> dict:
    """A row's label, all that it has, or its number, under names that `read` finds again."""
    if label.dtype == np.float64:
        return {"score": float(label)}
    if label.ndim:
        return {"labels": [names[i] for i in np.flatnonzero(label)]}
    return {"label": names[int(label)]}
