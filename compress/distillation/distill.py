"""Knowledge distillation from a teacher into a smaller student.

Logit loss: Hinton et al. 2015, arXiv 1503.02531. Hidden-state loss per token: TinyBERT, arXiv 1909.10351, without its
projection, because the student keeps the teacher's hidden size. Relation loss: MiniLMv2, arXiv 2012.15828.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import per_row
from paredown.tasks.base import NO_LABEL

from ..config import Distill, DistillationTraining
from ..distributed.group import over_all
from ..models.architectures import CONVOLUTIONAL
from ..models.inference import teacher_scores
from ..models.output_kinds import OutputKind, answers, divergence, inputs_of, kind_of, label_names
from ..models.structure import blocks, keep_blocks
from ..training.collate import ROW
from ..training.losses import ValidationLoss, labels_key, supervised
from ..training.seq2seq_targets import along
from ..training.target_scaling import standard_units
from ..training.trainer import Monitor, fit
from ..types import Progress, TrainingData
from .relation_loss import relation_loss, relations

TEACHER_LOGITS = "teacher_logits"  # of a row, where they are not computed in every step


def distill(
    teacher: PreTrainedModel,
    data: TrainingData,
    settings: Distill,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """A student made of layers of `teacher`, trained as `train_student` does."""
    student = student_of(teacher, settings, data.ids)
    return train_student(student, teacher, data, settings, seed=seed, progress=progress)


def student_of(teacher: PreTrainedModel, settings: Distill, ids: Sequence[Sequence[int]]) -> PreTrainedModel:
    """A copy of the teacher with only the named layers (or evenly spread ones, first and last in), made narrower.

    `ids`: rows that the width is chosen on, when `width` is given.
    """
    if kind_of(teacher) is OutputKind.SEQ2SEQ:
        from .seq2seq_student import fewer_layers

        return fewer_layers(teacher, settings)
    depth, layers = len(blocks(teacher)), settings.layers
    if isinstance(layers, int):
        if not 1 <= layers <= depth:
            raise InputError(f"layers: {layers} is not between 1 and the teacher's {depth}")
        layers = sorted({int(x) for x in np.linspace(0, depth - 1, layers).round()}) if layers > 1 else [0]
    student = copy.deepcopy(teacher)
    keep_blocks(student, layers)
    if settings.width is not None:
        from ..pruning.hidden_size import narrow

        narrow(student, ids, settings.width)
    return student


def train_student(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    data: TrainingData,
    settings: DistillationTraining,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> PreTrainedModel:
    """Train `student` in place towards the teacher's logits (and hidden states); returns it in evaluation mode.

    Token ids of `data` are the student's. Its labels are used when `label_weight` is above 0; NO_LABEL (-100; a number:
    NaN) where a row, or a token, has none. Its scores are the logits to learn, where they were computed before (several
    students, several teachers). Text-to-text: scores are the teacher's texts; rows with labels learn along these.
    loss = T^2 KL(teacher / T || student / T) + hidden_weight * MSE of matched hidden states
    + relation_weight * KL of the last layers' token relations + label_weight * CE. Numbers: half the squared
    difference, in standard units, stands for KL and CE. Vectors: 1 less the cosine stands for KL. A model that goes on
    with texts has too many logits to keep: its teacher runs in every step.
    """
    if settings.label_weight and data.labels is None:
        raise InputError("label_weight is above 0 and no row has a label; give labels or set it to 0")
    _check_fits(student, teacher, settings)
    if settings.label_weight and kind_of(student) is OutputKind.VECTOR:
        raise InputError("label_weight: a pair's number is not of one text; set it to 0, or finetune afterwards")
    teacher, ids, validation = teacher.eval(), data.ids, data.validation
    if kind_of(student) is OutputKind.CAUSAL_LM:
        judge = None if validation is None else ValidationLoss(*validation)
        rows = _rows(student, replace(data, scores=None))
        return _train(student, teacher, rows, settings, seed, Monitor(judge, progress))
    scores = teacher_scores(teacher, ids) if data.scores is None else data.scores
    if kind_of(student) is OutputKind.SEQ2SEQ:
        judge = None if validation is None else ValidationLoss(*validation)
        rows = along(student, ids, data.labels, scores)
        return _train_seq2seq(student, teacher, rows, settings, seed, Monitor(judge, progress))
    with standard_units(student, ids, scores) as unit:
        judge = None if validation is None else ValidationLoss(validation[0], unit(validation[1]))
        labels = None if data.labels is None else unit(data.labels)
        rows = _rows(student, TrainingData(ids, labels, unit(scores)))
        return _train(student, teacher, rows, settings, seed, Monitor(judge, progress))


def _rows(student: PreTrainedModel, data: TrainingData) -> list[dict]:
    """Rows for `fit`, with the teacher's logits where `data` has scores."""
    labels = _no_labels(student, len(data.ids)) if data.labels is None else data.labels
    name = labels_key(student)
    rows = [{ROW: row, name: label} for row, label in zip(data.ids, labels, strict=True)]
    if data.scores is not None:
        for row, score in zip(rows, per_row(data.scores, data.ids), strict=True):
            row[TEACHER_LOGITS] = score
    return rows


def _no_labels(student: PreTrainedModel, rows: int) -> np.ndarray:
    kind = kind_of(student)
    if kind is OutputKind.REGRESSION:
        return np.full(rows, np.nan)
    return np.full((rows, len(label_names(student))) if kind is OutputKind.MULTI_LABEL else rows, NO_LABEL)


def _train(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    rows: list[dict],
    settings: DistillationTraining,
    seed: int,
    monitor: Monitor,
) -> PreTrainedModel:
    kind, scored = kind_of(student), TEACHER_LOGITS in rows[0]
    pairs = _matched_layers(len(blocks(student)), len(blocks(teacher))) if settings.hidden_weight else []
    asks = not scored or bool(settings.hidden_weight or settings.relation_weight)  # the teacher, in every step

    def loss(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = inputs_of(batch)
        with relations(student) if settings.relation_weight else nullcontext([]) as ours:
            out = net(**inputs, output_hidden_states=settings.hidden_weight > 0)
        wanted, theirs = None, []
        if asks:
            with torch.no_grad(), relations(teacher) if settings.relation_weight else nullcontext([]) as theirs:
                there = cast(nn.Module, teacher).to(out.logits.device)
                wanted = there(**inputs, output_hidden_states=settings.hidden_weight > 0)
        mask = inputs.get("attention_mask")
        target = batch[TEACHER_LOGITS] if wanted is None or scored else wanted.logits
        logits, target = (answers(x, mask, kind) for x in (out.logits, target))
        total = divergence(logits, target, settings.temperature)
        if wanted is not None:
            if settings.hidden_weight:
                hidden = _hidden_loss(out.hidden_states, wanted.hidden_states, pairs, mask)
                total = total + settings.hidden_weight * hidden
            if settings.relation_weight:
                total = total + settings.relation_weight * relation_loss(ours, theirs, mask)
        if settings.label_weight:
            total = total + settings.label_weight * supervised(out.logits, batch, kind)
        return total

    with ExitStack() as during:
        during.enter_context(_without_dropout(student))
        if settings.quantize_aware:
            from ..quantization.qat import fake_quantized

            during.enter_context(fake_quantized(student))
        return fit(student, rows, loss, settings, seed=seed, monitor=monitor)


def _train_seq2seq(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    rows: list[dict],
    settings: DistillationTraining,
    seed: int,
    monitor: Monitor,
) -> PreTrainedModel:
    """`train_student` for text-to-text models: the teacher runs in every step, on the texts of `seq2seq.along`."""
    from ..models.seq2seq import depths
    from .seq2seq_student import same_vocabulary

    same_vocabulary(student, teacher)
    pairs = [_matched_layers(*both) for both in zip(depths(student), depths(teacher), strict=True)]

    def loss(net: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        inputs = inputs_of(batch) | {"output_hidden_states": settings.hidden_weight > 0}
        out, there = net(**inputs), batch["targets"] != NO_LABEL
        with torch.no_grad():
            wanted = cast(nn.Module, teacher).to(there.device)(**inputs)
        total = divergence(out.logits[there].float(), wanted.logits[there].float(), settings.temperature)
        if settings.hidden_weight:
            for half, mask, matched in zip(
                ("encoder", "decoder"), (batch["attention_mask"], there), pairs, strict=True
            ):
                ours, theirs = out[f"{half}_hidden_states"], wanted[f"{half}_hidden_states"]
                total = total + settings.hidden_weight / 2 * _hidden_loss(ours, theirs, matched, mask)
        if settings.label_weight:
            total = total + settings.label_weight * supervised(out.logits, batch, OutputKind.SEQ2SEQ)
        return total

    with _without_dropout(student):
        return fit(student, rows, loss, settings, seed=seed, monitor=monitor)


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Noise that the teacher does not have: with it, a pruned model that was near its teacher moves away."""
    layers = [(layer, layer.p) for layer in model.modules() if isinstance(layer, nn.Dropout)]
    for layer, _ in layers:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, p in layers:
            layer.p = p


def mean_scores(teachers: Sequence[tuple[PreTrainedModel, Sequence[Sequence[int]]]]) -> np.ndarray:
    """Mean logits of several teachers; each comes with the rows in its own tokens, which have to be the same where a
    model answers for every token.

    Labels count as the first teacher has them; the others may have the same ones in another order.
    """
    if kind_of(teachers[0][0]) is OutputKind.SEQ2SEQ and len(teachers) > 1:
        raise InputError("teachers: what several models write has no mean; give one")
    if len(teachers) == 1:
        return teacher_scores(*teachers[0])
    wanted, scores = label_names(teachers[0][0]), []
    for teacher, ids in teachers:
        names = label_names(teacher)
        order = [names.index(name) for name in wanted] if len(wanted) > 1 else [0]  # a number goes by any name
        scores.append(teacher_scores(teacher, ids)[:, order])
    return np.stack(scores).mean(axis=0)


def _check_fits(student: PreTrainedModel, teacher: PreTrainedModel, settings: DistillationTraining) -> None:
    """Losses inside the models compare token by token, and hidden states number by number."""
    ours, theirs = student.config, teacher.config
    if kind_of(student) is OutputKind.SEQ2SEQ and (settings.relation_weight or settings.quantize_aware):
        raise InputError("relation_weight, quantize_aware: not supported for text-to-text models; leave them out")
    inside = settings.hidden_weight or settings.relation_weight
    if inside and {ours.model_type, theirs.model_type} & {*CONVOLUTIONAL}:
        raise InputError(
            "hidden_weight and relation_weight compare the models token by token, and a convolutional net has none; "
            "set both to 0"
        )
    if inside and getattr(ours, "vocab_size", None) != getattr(theirs, "vocab_size", None):
        raise InputError(
            "hidden_weight and relation_weight compare the models token by token, and this student has another "
            "vocabulary than its teacher; set both to 0"
        )
    if settings.hidden_weight and ours.hidden_size != theirs.hidden_size:
        raise InputError(
            f"hidden_weight compares hidden states of one size; the student has {ours.hidden_size}, its teacher "
            f"{theirs.hidden_size}; set hidden_weight to 0 and use relation_weight"
        )


def _matched_layers(student: int, teacher: int) -> list[tuple[int, int]]:
    """(student, teacher) indices into hidden_states (0 is the embeddings): layer i of n meets layer i * N / n."""
    return [(i, round(i * teacher / student)) for i in range(1, student + 1)]


def _hidden_loss(student, teacher, pairs: list[tuple[int, int]], mask: torch.Tensor | None) -> torch.Tensor:
    """Mean squared difference over real tokens, relative to the teacher's own mean square, averaged over the pairs."""
    real = 1.0 if mask is None else mask.unsqueeze(-1).float()  # an image has no padding
    total = torch.zeros((), device=teacher[0].device)
    for i, j in pairs:
        want = teacher[j].float()
        error = ((student[i].float() - want) ** 2 * real).sum()
        total = total + error / over_all((want**2 * real).sum())
    return total / len(pairs)
