"""The commands `export` and `quantize`: a checkpoint as the model of one runtime and precision."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from paredown.benchmarks.measurements import Details
from paredown.benchmarks.report.text import int8_lines
from paredown.compress.config import Int8
from paredown.runtime.errors import InputError

from .. import single_stage
from ..single_stage import Exported, ExportRequest, StageData
from .common import OutputDir, Source, out, suggest_bench
from .options import fields, with_options

app = typer.Typer()

DATA = ("train", "max_length", "task", "text_column", "label_column")


@app.command()
@with_options
def quantize(
    checkpoint: Source,
    output_dir: OutputDir,
    method: Annotated[
        Literal["dynamic", "static"],
        typer.Option(help="Quantisation of activations: dynamic (ranges at run time) or static (calibrated)."),
    ] = "dynamic",
    runtime: Annotated[
        Literal["onnxruntime", "openvino"], typer.Option(help="Runtime of the quantised model.")
    ] = "onnxruntime",
    *,
    data: Annotated[
        StageData,
        fields(
            *DATA,
            help={
                "train": "Rows for calibration and evaluation: by the metric if they have labels, else by KL "
                "divergence."
            },
        ),
    ],
    request: Annotated[ExportRequest, fields("rows", help={"rows": "Number of these rows."})],
    limits: Annotated[
        Int8,
        fields(
            "max_drop",
            "max_kl",
            max_drop=None,
            max_kl=None,
            help={
                "max_drop": "Maximum loss of the metric in points; above it, matrix products stay in float "
                "(default: 0.5).",
                "max_kl": "Maximum KL divergence to the float model for rows without labels, in nats per row "
                "(default: 0.01).",
            },
        ),
    ],
) -> None:
    """Post-training quantisation to INT8: writes the model with its config and tokenizer."""
    if data.train is None and limits.model_fields_set:
        raise InputError("--max-drop, --max-kl: what INT8 costs is measured on rows: give --train F")
    request = request.model_copy(update={"int8": limits})
    _say(checkpoint, data, single_stage.quantize(checkpoint, data, request, output_dir, method=method, runtime=runtime))


@app.command()
@with_options
def export(
    checkpoint: Source,
    output_dir: OutputDir,
    data: Annotated[
        StageData,
        fields(
            *DATA, help={"train": "Rows for INT8 calibration and for the parity check; labels are not needed."}
        ),
    ],
    request: Annotated[
        ExportRequest,
        fields(
            "to", "precision", "rows", "lengths", "batch_size", "batch_sizes", "compute_capabilities",
            "max_new_tokens", lengths=None, batch_sizes=None, compute_capabilities=None,
        ),
    ],
) -> None:  # fmt: skip
    """Export a checkpoint to an artefact: the model, its tokenizer, config.json and artifact.json."""
    _say(checkpoint, data, single_stage.export(checkpoint, data, request, output_dir))


def _say(checkpoint: str, data: StageData, made: Exported) -> None:
    artifact = made.artifact
    costs = "".join(f"; {line}" for line in int8_lines(Details.model_validate(artifact.details)))
    out.print(
        f"{artifact.path}: {artifact.runtime} {artifact.precision}, {artifact.size_mb():.1f} MB; {made.parity}{costs}",
        soft_wrap=True,
    )
    suggest_bench(artifact.path, checkpoint, data)
