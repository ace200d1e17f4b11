"""Which of the models that a search has trained are exported and measured: alone, and as cascades of two and three.

A model that loses too much may still answer the rows where it is confident, in front of a slower one. All chains of up
to three models are judged on the outputs that the search has, each at thresholds that lose a stated number of points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paredown.benchmarks.statistics.thresholds import threshold_for

DROPS = (0.1, 0.25, 0.5, 1.0)  # of max_drop, that a cascade may lose against the model behind its first
FASTER = 1.3  # times, at least, that a model is as fast as the one behind it
MARGINS = (1.0, 0.75, 0.5)  # of max_drop, that a bound has to be within: thresholds were set on the same rows
LEAST_SHARE = 0.1  # of the rows that each model in front must answer: less is never selected


@dataclass(frozen=True)
class Judgement:
    """Points of validation that are lost: counted, at most (at the confidence of the selection), and expected."""

    drop: float
    upper: float
    expected: float


@dataclass(frozen=True, eq=False)
class Chain:
    """One model, or a cascade of two or three, the fastest first.

    `ms`: predicted mean milliseconds of a row; `right`: as `Task.correct` has the validation rows; `distances`: of
    their outputs from the teacher's, (rows,); `max_drop`: of each of its cascades; `answering`: which of the models
    answers each validation row, (rows,) int, in a cascade.
    """

    names: tuple[str, ...]
    ms: float
    right: np.ndarray
    distances: np.ndarray
    max_drop: float = 0.0
    answering: np.ndarray | int = 0


def chains(
    models: Sequence[Chain],
    sure: Mapping[str, np.ndarray],
    regrets: Callable[[str, str], np.ndarray],
    max_drop: float,
) -> list[Chain]:
    """Single models and the cascades of them in which each is FASTER than the next one.

    `sure`: by name, how confident models are of each validation row, (rows,); empty where the task has no cascades.
    `regrets`: of two names, what the answers of the first cost by the second's, (rows,). `max_drop`: of the selection.
    """
    found = list(models)
    by_name = {name: model for model in models for name in model.names}
    for drop in (share * max_drop for share in DROPS):
        behind = [chain for chain in found if not chain.max_drop]
        for _ in range(2):
            longer = [
                made
                for chain in behind
                for name, confident in sure.items()
                if by_name[name].ms * FASTER <= by_name[chain.names[0]].ms
                and (made := _in_front(by_name[name], confident, chain, regrets, drop)) is not None
            ]
            found += longer
            behind = longer
    return found


def _in_front(
    model: Chain, confident: np.ndarray, chain: Chain, regrets: Callable[[str, str], np.ndarray], drop: float
) -> Chain | None:
    """The cascade of a model and what is behind it; None where the model answers too few rows."""
    (name,), rows = model.names, np.arange(len(confident))
    lost = np.stack([regrets(name, other) for other in chain.names])[chain.answering, rows]
    answers = confident >= threshold_for(confident, model.right, chain.right, lost, drop)
    if answers.mean() < LEAST_SHARE:
        return None
    right = np.where(answers if model.right.ndim == 1 else answers[:, None], model.right, chain.right)
    distances = np.where(answers, model.distances, chain.distances)
    ms = model.ms + float(1 - answers.mean()) * chain.ms
    answering = np.where(answers, 0, np.add(chain.answering, 1))
    return Chain((*model.names, *chain.names), ms, right, distances, drop, answering)


def finalists(found: Sequence[Chain], judge: Callable[[Chain], Judgement], max_drop: float) -> dict[Chain, Judgement]:
    """The chains to measure, the fastest first, each with its judgement.

    The fastest that is expected to lose at most `max_drop`; the fastest whose bound is within each of MARGINS of it,
    and the fastest single model whose bound is within it, for it is the smallest. One whose bound is not would end the
    selection's sequence of tests before cascades that change more answers. Where none is expected to lose at most
    `max_drop`, the one that is expected to lose least.
    """
    judged = {chain: judge(chain) for chain in found}
    ordered = sorted(found, key=lambda chain: (chain.ms, len(chain.names)))
    good = [chain for chain in ordered if judged[chain].expected <= max_drop]
    shown = [[chain for chain in good if judged[chain].upper <= part * max_drop] for part in MARGINS]
    alone = [chain for chain in shown[0] if len(chain.names) == 1]
    picked = {chain for kind in (good, *shown, alone) for chain in kind[:1]}
    least = min(ordered, key=lambda chain: judged[chain].expected)
    return {chain: judged[chain] for chain in ordered if chain in (picked or {least})}
