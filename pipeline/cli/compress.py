"""The commands `prune`, `trim` and `distill`: a checkpoint directory in, a checkpoint directory out."""

from __future__ import annotations

from typing import Annotated

import typer

from paredown.compress.config import Distill, Prune, Recover, Timed, Trim, Truncate
from paredown.runtime.errors import StepError

from .. import single_stage
from ..single_stage import StageData
from .common import OutputDir, Source, out, say, suggest_export
from .options import fields, with_options

app = typer.Typer()

COLUMNS = ("task", "text_column", "label_column")
DATA = ("train", "validation", "unlabeled", "max_length", "seed", *COLUMNS)
LAYERS = "Layers to keep: a number, or a list such as 0,2,5."


@app.command()
@with_options
def prune(
    checkpoint: Source,
    data: Annotated[
        StageData,
        fields(
            *DATA,
            "training_processes",
            train=...,
            help={"train": "Rows for importance scores and for fine-tuning after pruning; labels are not needed."},
        ),
    ],
    output_dir: OutputDir,
    settings: Annotated[
        Prune,
        fields(
            "speedup",
            "latency_ms",
            "even",
            "heads",
            "ffn",
            "layers",
            "channels",
            "importance",
            "rows",
            heads=None,
            ffn=None,
            help={"speedup": "Target speed-up, measured on this machine.", "layers": LAYERS},
        ),
    ],
    target: Annotated[
        Timed,
        fields(
            "runtime",
            "precision",
            help={"runtime": "Runtime of the latency target.", "precision": "Precision of the latency target."},
        ),
    ],
    recover: Annotated[Recover, fields("adversarial", "learning_rate", "batch_size")],
    recover_epochs: Annotated[
        float, typer.Option(min=0, help="Epochs of fine-tuning after pruning, by distillation (0: none).")
    ] = 0.0,
) -> None:
    """Structured pruning of heads, feed-forward neurons, layers or channels, to a latency target or to given shares."""
    settings = settings.model_copy(update={"target": target})
    if recover_epochs:
        settings = settings.model_copy(update={"recover": recover.model_copy(update={"epochs": recover_epochs})})
    made = single_stage.prune(checkpoint, data, settings, output_dir)
    if made.failed:
        raise StepError(
            f"prune, recover: {made.failed}; {output_dir} holds the pruned model before this step; to repeat the step: "
            f"paredown distill {checkpoint} --student {output_dir} --train {data.train} --output-dir DIR"
        ) from made.failed
    promise = ""
    if settings.timed:
        (got, lo, hi), wanted = made.result["measured"], made.result["promised_speedup"]
        promise = f"; promised {wanted:.2f}x in {target.runtime} {target.precision}, "
        promise += f"measured {got:.2f}x [{lo:.2f}, {hi:.2f}]"
    say(made, promise)
    suggest_export(output_dir, data)


@app.command()
@with_options
def trim(
    checkpoint: Source,
    data: Annotated[
        StageData,
        fields(
            "train",
            "validation",
            "unlabeled",
            *COLUMNS,
            train=...,
            help={
                "train": "Rows whose tokens are kept; labels are not needed.",
                "validation": "Held-out rows for the report of the change.",
            },
        ),
    ],
    output_dir: OutputDir,
    settings: Annotated[Trim, fields("frequent", "min_count")],
) -> None:
    """Reduce the vocabulary to the tokens of the data and the most frequent ones; this saves size, not time."""
    found = single_stage.trim(checkpoint, data, settings, output_dir).result
    changed = found["changed_tokens"]
    said = "" if changed is None else f"; {changed:.2%} of the held-out tokens changed"
    out.print(f"{output_dir}: {found['tokens']} tokens, {found['size_mb']:.1f} MB{said}", soft_wrap=True)
    suggest_export(output_dir, data)


@app.command()
@with_options
def truncate(
    checkpoint: Source,
    data: Annotated[StageData, fields(*DATA, train=..., help={"train": "Rows whose lengths are counted."})],
    output_dir: OutputDir,
    settings: Annotated[Truncate, fields("first", "last")],
) -> None:
    """Read only the first and the last tokens of longer texts, inside the model."""
    made = single_stage.truncate(checkpoint, data, settings, output_dir)
    say(made, f"; {made.result['truncated']:.0%} of the training rows are longer")
    suggest_export(output_dir, data)


@app.command()
@with_options
def distill(
    checkpoint: Source,
    data: Annotated[
        StageData,
        fields(
            *DATA,
            "training_processes",
            train=...,
            help={"train": "Training rows; labels are not needed."},
        ),
    ],
    output_dir: OutputDir,
    given: Annotated[
        dict,
        fields(
            "student",
            "layers",
            "decoder_layers",
            "width",
            "epochs",
            "learning_rate",
            "batch_size",
            "temperature",
            "hidden_weight",
            "relation_weight",
            "patience",
            "quantize_aware",
            "adversarial",
            of=Distill,
            layers=None,
            epochs=None,
            learning_rate=None,
            hidden_weight=None,
            help={
                "student": "Checkpoint of the student, in place of layers of the teacher.",
                "layers": "Layers of the teacher to keep: a number, or a list such as 0,2,5.",
                "decoder_layers": "Decoder layers of a text-to-text student (default: as --layers).",
                "epochs": "Number of epochs (default: 3, static: 6).",
                "learning_rate": "Peak learning rate (default: 2e-4, static: 1e-3).",
            },
        ),
    ],
    static: Annotated[
        bool, typer.Option("--static", help="Train a static student: token embeddings, pooling and a linear head.")
    ] = False,
    teacher: Annotated[list[str] | None, typer.Option(help="Further teacher; may be given several times.")] = None,
) -> None:
    """Knowledge distillation of a checkpoint, or of the mean logits of several teachers, into a smaller model."""
    made = single_stage.distill(checkpoint, data, given | {"static": static}, output_dir, teachers=teacher or ())
    say(made)
    suggest_export(output_dir, data)
