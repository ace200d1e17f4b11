"""The command `tune`."""

from __future__ import annotations

from typing import Annotated

import typer

from paredown.compress.config import Finetune, Tune

from .. import single_stage
from ..single_stage import StageData
from ..steps.tune import sentence
from .common import NEW_TASK, OutputDir, Source, out, suggest_compress
from .options import fields, with_options

app = typer.Typer()


@app.command()
@with_options
def tune(
    checkpoint: Source,
    data: Annotated[
        StageData,
        fields(
            "train",
            "validation",
            "max_length",
            "seed",
            "task",
            "text_column",
            "label_column",
            train=...,
            validation=...,
            help={
                "validation": "Labelled rows to compare the best settings with the given ones.",
                "task": NEW_TASK,
            },
        ),
    ],
    output_dir: OutputDir,
    settings: Annotated[
        Tune,
        fields(
            "minutes",
            "trials",
            "peft",
            "adversarial",
            peft=None,
            spelled={"adversarial": "--adversarial"},
            help={
                "minutes": "Time limit of all trials together, in minutes.",
                "peft": "Kinds of adapters to try (default: none and lora).",
            },
        ),
    ],
    start: Annotated[
        Finetune,
        fields(
            "epochs",
            "learning_rate",
            "batch_size",
            epochs=3.0,
            help={"learning_rate": "Peak learning rate of the first trial."},
        ),
    ],
) -> None:
    """Hyperparameter search for fine-tuning; run it again to resume. tune.json has the trials and importances."""
    settings = settings.model_copy(update={"finetune": start})
    found = single_stage.tune(checkpoint, data, settings, output_dir)
    out.print(f"{output_dir}: {sentence(found)}", soft_wrap=True)
    suggest_compress(output_dir, data)
