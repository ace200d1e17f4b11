"""Trainings and scorings that several processes share, for tests: functions that `processes.spread` can start."""

from __future__ import annotations

from unittest import mock

import numpy as np
import torch
import transformers

from paredown.compress.config import Adversary, Distill, Finetune
from paredown.compress.distillation.distill import train_student
from paredown.compress.distributed import group
from paredown.compress.distributed.errors import TooManyRows
from paredown.compress.models.inference import forward, sharded_scores, teacher_scores
from paredown.compress.training import trainer
from paredown.compress.types import Progress, TrainingData
from paredown.runtime.preprocessor import run_rows

LABELS, WORDS = ["a", "b", "c"], 30
ROWS = 33  # of batches of 16: the last one has a single row, and one of two processes nothing to do
FINETUNE = Finetune(epochs=2, batch_size=16, learning_rate=3e-3, freeze_embeddings=False)


def ids(rows: int, longest: int = 12) -> list[list[int]]:
    random = np.random.default_rng(3)
    return [[2, *random.integers(5, WORDS, random.integers(2, longest - 2)).tolist(), 3] for _ in range(rows)]


def model(kind: str = "ForSequenceClassification", layers: int = 2, labels: int = 3) -> transformers.PreTrainedModel:
    """A tiny BERT without dropout, whose masks would differ between processes."""
    torch.manual_seed(layers)
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(LABELS[:labels])), label2id={name: i for i, name in enumerate(LABELS[:labels])},
    )  # fmt: skip
    return getattr(transformers, f"Bert{kind}")(config).eval()


def _labels(rows: list[list[int]]) -> np.ndarray:
    return np.array([sum(row) % 3 for row in rows])


def _data(rows: list[list[int]], labels: object) -> TrainingData:
    held = ids(20)
    return TrainingData(rows, labels, validation=(held, _labels(held)))  # type: ignore[arg-type]


def classification(losses: list[float]) -> transformers.PreTrainedModel:
    """Labels of unequal weight, few rows at a time, early stopping on validation."""
    rows, settings = ids(ROWS), FINETUNE.model_copy(update={"class_weights": "balanced", "patience": 9})
    return trainer.finetune(model(), _data(rows, _labels(rows)), settings, by_epoch=losses)


def adversarial(losses: list[float]) -> transformers.PreTrainedModel:
    rows, settings = ids(ROWS), FINETUNE.model_copy(update={"adversarial": Adversary(kind="pgd", steps=2)})
    return trainer.finetune(model(), _data(rows, _labels(rows)), settings, by_epoch=losses)


def few_at_a_time(losses: list[float]) -> transformers.PreTrainedModel:
    """So many tokens that a process computes its part of a batch in turns; equal rows, as turns count the same."""
    rows = [[*row[:3], 3] for row in ids(32)]
    with mock.patch.object(trainer, "TOKENS", 16):
        return trainer.finetune(model(), _data(rows, _labels(rows)), FINETUNE, by_epoch=losses)


def tags(losses: list[float]) -> transformers.PreTrainedModel:
    rows = ids(ROWS)
    labels = [np.array([-100 if token < 8 else token % 3 for token in row]) for row in rows]
    return trainer.finetune(model("ForTokenClassification"), TrainingData(rows, labels), FINETUNE)


def numbers(losses: list[float]) -> transformers.PreTrainedModel:
    rows = ids(ROWS)
    values = np.array([float(sum(row)) if len(row) > 5 else np.nan for row in rows])
    values[0] = 7.0
    there = ~np.isnan(values)
    rows = [row for row, known in zip(rows, there, strict=True) if known]
    return trainer.finetune(model(labels=1), TrainingData(rows, values[there]), FINETUNE)


def pairs(losses: list[float]) -> transformers.PreTrainedModel:
    """Questions and the passage that answers each: a row's loss depends on the others of its batch."""
    rows = ids(2 * ROWS)
    there = np.array([np.inf, np.nan] * ROWS)
    encoder = model("Model")
    inner = encoder.forward

    def vectors(*args, **kwargs):
        out = inner(*args, **kwargs)
        logits = torch.nn.functional.normalize(out.last_hidden_state.mean(1), dim=-1)
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=logits)

    encoder.forward = vectors  # type: ignore[method-assign]
    return trainer.finetune(encoder, TrainingData(rows, there), FINETUNE)


def distillation(losses: list[float]) -> transformers.PreTrainedModel:
    """Every part of the loss, with labels on some rows; the teacher runs in each step."""
    rows = ids(ROWS)
    labels = np.array([label if i % 3 else -100 for i, label in enumerate(_labels(rows))])
    settings = Distill(
        epochs=2, batch_size=16, learning_rate=3e-3, label_weight=0.5, relation_weight=0.5, freeze_embeddings=False
    )
    return train_student(model(), model(layers=4), TrainingData(rows, labels), settings)


TRAININGS = [classification, adversarial, few_at_a_time, tags, numbers, pairs, distillation]


def everything(report: Progress) -> dict:
    """All trainings, their weights and losses, and the answers of a model, also one whose weights are parted."""
    found: dict = {}
    torch.set_num_threads(1)  # sums of several threads are rounded otherwise
    with mock.patch.object(trainer, "fast_bf16", bool):  # False: sums in bf16 differ by more than rounding
        for training in TRAININGS:
            losses: list[float] = []
            weights = training(losses).state_dict()
            found[training.__name__] = {name: weight.numpy() for name, weight in weights.items()}
            found[training.__name__]["validation losses"] = np.array(losses)
    rows, reader = ids(70), model()
    found["processes"] = group.count()
    found["too many rows"] = too_many()
    found["scores"] = teacher_scores(reader, rows)
    found["scores of tags"] = teacher_scores(model("ForTokenClassification"), rows)
    parted = sharded_scores if group.count() > 1 else lambda reader, rows: run_rows(
        lambda batch: forward(reader, batch), rows, 0, "logits"
    )  # fmt: skip
    found["parted weights"] = parted(reader, rows)
    found["afterwards"] = teacher_scores(reader, rows)
    report(1.0, "all trained")
    return found


def too_many() -> int | None:
    """No process has memory for more than four rows: the number that was too many, where one of several says so."""
    rows = ids(ROWS)

    def loss(net: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if len(batch["labels"]) > 4:
            raise MemoryError
        logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return torch.nn.functional.cross_entropy(logits, batch["labels"])

    named = [{"input_ids": row, "labels": label} for row, label in zip(rows, _labels(rows), strict=True)]
    try:
        trainer.fit(model(), named, loss, FINETUNE, seed=0)
    except TooManyRows as error:
        return error.rows
    return None
