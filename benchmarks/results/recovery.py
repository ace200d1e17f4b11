"""Which rows to fine-tune a pruned model on: those that its teacher was trained on, or others?

    python benchmarks/results/recovery.py build/results/rotten-tomatoes runs/rotten-tomatoes

After `run.py` has made both. Prints the pruned model's distance to the teacher (KL in nats, on validation and
test) before and after one epoch on as many training rows as unlabelled ones, and how sure the teacher is of either.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from paredown.compress.config import Recover
from paredown.compress.data.dataset import read, read_unlabeled
from paredown.compress.distillation.distill import train_student
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import load, open_checkpoint
from paredown.compress.pruning.importance import kl_to, log_probabilities
from paredown.compress.types import TrainingData
from paredown.runtime.answers import softmax
from paredown.runtime.preprocessor import batches_of, run_rows
from paredown.tasks.registry import TASKS
from paredown.tasks.rows import some_of

RATES = (3e-5, 1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, help="directory with teacher, train.csv, validation.csv, test.csv, unlabeled"
    )
    parser.add_argument("run", type=Path, help="a finished run whose model `cut` begins with prune")
    parser.add_argument("--rows", type=int, default=6500, help="of either kind")
    args = parser.parse_args()
    task = TASKS["text-classification"]
    source = open_checkpoint(args.data / "teacher", task)
    cut = open_checkpoint(next((args.run / "steps").glob("cut-1-prune-????????????????")), task)
    encoder, teacher = source.encoder(128), load(source, task)
    rows = [read(str(args.data / f"{name}.csv"), names=source.labels) for name in ("validation", "test")]
    judged = batches_of([ids for r in rows for ids in encoder.ids(r.texts)], source.pad_id)
    wanted = [log_probabilities(teacher, batch) for batch in judged]

    def told(model) -> str:
        """Distance to the teacher on both, and points on each."""
        points = [task.metric(run_rows(partial(forward, model), encoder.ids(r.texts), source.pad_id, "logits"), r.gold)
                  for r in rows]  # fmt: skip
        return f"KL {kl_to(model, judged, wanted):.4f}, {points[0]:.1f} on validation, {points[1]:.1f} on test"

    print(f"teacher: {told(teacher)}\ncut, not healed: {told(load(cut, task))}", flush=True)
    texts = {
        "training": read(str(args.data / "train.csv"), labelled=False).texts,
        "unlabelled": read_unlabeled(str(args.data / "unlabeled.jsonl"), columns=task.columns).texts,
    }
    for name, all_texts in texts.items():
        ids = encoder.ids([all_texts[i] for i in some_of(len(all_texts), args.rows)])
        scores = run_rows(partial(forward, teacher), ids, source.pad_id, "logits")
        sure = softmax(scores).max(axis=-1).mean()
        data = TrainingData(ids, scores=scores)
        for rate in RATES:
            model = train_student(load(cut, task), teacher, data, Recover(epochs=1, learning_rate=rate))
            how = f"{len(ids)} {name} rows (the teacher's confidence {sure:.3f}), rate {rate:g}"
            print(f"healed on {how}: {told(model)}", flush=True)


if __name__ == "__main__":
    main()
