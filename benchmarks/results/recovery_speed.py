"""Rows a second of fine-tuning after pruning: the default, in random order, with embeddings, with hidden states.

python benchmarks/results/recovery_speed.py CHECKPOINT TRAIN_CSV [--rows 512] [--rounds 3]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from unittest import mock

from paredown.compress.config import DistillationTraining
from paredown.compress.data import dataset
from paredown.compress.distillation.distill import mean_scores, train_student
from paredown.compress.models.loading import load, open_checkpoint
from paredown.compress.training import trainer as train
from paredown.compress.types import TrainingData
from paredown.tasks.registry import TASKS

AS_IT_IS = DistillationTraining(epochs=1, hidden_weight=0)
WAYS = {
    "as it is": (AS_IT_IS, {}),
    "rows in random order": (AS_IT_IS, {"train_sampling_strategy": "random"}),
    "embeddings trained too": (DistillationTraining(epochs=1, hidden_weight=0, freeze_embeddings=False), {}),
    "hidden-state loss, the teacher in every step": (DistillationTraining(epochs=1, hidden_weight=1), {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("train")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    task = TASKS["text-classification"]
    source = open_checkpoint(args.checkpoint, task)
    teacher = load(source, task)
    ids = dataset.encode(source.encoder(), dataset.read(args.train, labelled=False).sample(args.rows))
    scores = mean_scores([(teacher, ids)])
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    plain = train.TrainingArguments
    for _ in range(args.rounds):
        for name, (settings, changes) in WAYS.items():
            student = copy.deepcopy(teacher)
            with mock.patch.object(
                train, "TrainingArguments", lambda changes=changes, **given: plain(**given | changes)
            ):
                began = time.perf_counter()
                train_student(student, teacher, TrainingData(ids, scores=scores), settings)
                seconds[name].append(time.perf_counter() - began)
    first = statistics.median(seconds["as it is"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name}: {len(ids) / median:.0f} rows/s, {median / first:.2f} times as long as it is now")


if __name__ == "__main__":
    main()
