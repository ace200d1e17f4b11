"""The commands `finetune` and `update`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer

from paredown.compress.config import Finetune, Update
from paredown.runtime.errors import InputError

from .. import single_stage
from ..progress import tell
from ..single_stage import StageData
from ..steps.continual import sentence
from .common import NEW_TASK, MaxNewTokens, OutputDir, Source, out, say, suggest_compress
from .options import fields, with_options

app = typer.Typer()

DATA = ("train", "validation", "max_length", "seed", "task", "text_column", "label_column")
FALLING = 0.02  # of the loss, from one epoch to the next, that counts
PATIENCE = "Early-stopping patience, in evaluations on validation rows."


@app.command()
@with_options
def finetune(
    checkpoint: Source,
    data: Annotated[StageData, fields(*DATA, "training_processes", train=..., help={"task": NEW_TASK})],
    output_dir: OutputDir,
    settings: Annotated[
        Finetune,
        fields(
            "epochs",
            "learning_rate",
            "batch_size",
            "freeze_embeddings",
            "peft",
            "class_weights",
            "patience",
            "schedule",
            "adversarial",
            epochs=3.0,
            learning_rate=None,
            freeze_embeddings=False,
            help={
                "learning_rate": "Peak learning rate (default: 1e-4, adapters: 1e-3).",
                "peft": "Train adapters and merge them at the end: lora, dora, adalora, ia3, loha, lokr or oft.",
                "class_weights": "Class weights of the loss; balanced: every label has the same total weight.",
                "patience": PATIENCE,
            },
        ),
    ],
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the adapters (default: 8).")] = None,
    max_new_tokens: MaxNewTokens = None,
) -> None:
    """Train a checkpoint on labelled rows, in full or with adapters; a base model gets a new head."""
    if rank and settings.peft is None:
        raise InputError("--rank is of adapters: give --peft lora, for example")
    if settings.peft is not None:
        peft = settings.peft if rank is None else settings.peft.model_copy(update={"rank": rank})
        rate = settings.learning_rate if "learning_rate" in settings.model_fields_set else 1e-3
        settings = settings.model_copy(update={"peft": peft, "learning_rate": rate})
    made = single_stage.finetune(checkpoint, data, settings, output_dir, max_new_tokens=max_new_tokens)
    tell(epoch_notes(made.result["validation_loss"], advice=settings.patience is None))
    say(made)
    suggest_compress(output_dir, data)


def epoch_notes(losses: Sequence[float], *, advice: bool = True) -> list[str]:
    """What the validation loss after each epoch says, in a line; none of fewer than two epochs. `advice`: how many
    epochs would be better, where no early stopping has seen to it."""
    if len(losses) < 2:
        return []
    said, best = "validation loss after each epoch: " + ", ".join(f"{loss:.3f}" for loss in losses), np.argmin(losses)
    if not advice:
        return [said]
    if losses[-1] < (1 - FALLING) * losses[-2]:
        return [f"{said}; it is still falling: more --epochs may help"]
    if best < len(losses) - 1:
        return [f"{said}; it was lowest after epoch {best + 1}: fewer --epochs, or --patience, may do as well"]
    return [said]


@app.command()
@with_options
def update(
    checkpoint: Source,
    data: Annotated[
        StageData,
        fields(
            *DATA,
            train=...,
            help={
                "train": "Labelled rows of the earlier training; a share of them is replayed.",
                "validation": "Old labelled rows, for the measurement of forgetting.",
            },
        ),
    ],
    new: Annotated[str, typer.Option(help="New labelled rows; new labels are allowed.")],
    output_dir: OutputDir,
    settings: Annotated[
        Update,
        fields(
            "replay",
            "lwf",
            "ewc",
            "retrain",
            "epochs",
            "learning_rate",
            "batch_size",
            "patience",
            "adversarial",
            help={"patience": PATIENCE},
        ),
    ],
    new_validation: Annotated[
        str | None, typer.Option(help="New labelled rows for evaluation (default: a fifth of --new).")
    ] = None,
) -> None:
    """Continual learning: train on new rows and labels without forgetting; update.json has the metrics and the cost."""
    found = single_stage.update(checkpoint, data, settings, output_dir, new=new, new_validation=new_validation)
    out.print(f"{output_dir}: {sentence(found)}", soft_wrap=True)
    suggest_compress(output_dir, data)
