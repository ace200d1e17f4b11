"""The commands `explain` (word attributions) and `fairness` (the metric by group)."""

from __future__ import annotations

import json
import tempfile
from html import escape
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from paredown.compress.data.dataset import read_rows
from paredown.compress.models.loading import load, open_checkpoint
from paredown.export.foreign import answered
from paredown.export.hardware import cores
from paredown.runtime.errors import InputError, missing_extra
from paredown.runtime.session import CannotRunHere
from paredown.tasks.base import Feature
from paredown.tasks.registry import TASKS
from paredown.tasks.sentence_embedding import agreement

from ..results.side_by_side import adopted
from ..store import write_atomic
from .common import ComparedRows, MaxLength, out
from .options import fields, with_options

app = typer.Typer()
STYLE = (
    "body{font:15px system-ui;margin:2rem auto;max-width:60rem}td{padding:.3rem .6rem;vertical-align:top}"
    "td:first-child{white-space:nowrap}span{padding:0 .15em;border-radius:.2em}h2{font-size:1rem;margin-top:2rem}"
)


@app.command()
def explain(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Teacher, then its compressed models (directories or hub ids).")
    ],
    text: Annotated[list[str], typer.Option(help="Text to explain; may be given several times.")],
    output: Annotated[Path, typer.Option(help="HTML file to write.")],
    max_length: MaxLength = 128,
) -> None:
    """Compare token attributions of checkpoints: integrated gradients and attention roll-out."""
    from paredown.compress.attribution import by_word, rollout, word_attributions

    task = TASKS["text-classification"]
    if output.exists() or not output.absolute().parent.is_dir():
        raise InputError(f"--output {output}: a new file in a directory that is there is expected")
    sources = [open_checkpoint(name, task) for name in checkpoints]
    empty = next((line for line in text if not line.split()), None)
    if empty is not None:
        raise InputError("--text: a text with at least one word is expected")
    models = [(name, source, load(source, task)) for name, source in zip(checkpoints, sources, strict=True)]
    page, alike = [], []
    for line in text:
        page.append(f"<h2>{escape(line)}</h2><table>")
        first: np.ndarray | None = None
        for name, source, model in models:
            encoder = source.encoder(max_length)
            encoding = encoder.tokenizer.encode(line)
            answer = _answer(model, encoding.ids)
            label = int(answer.argmax())
            gradients = word_attributions(model, encoder, line, label)
            reached = rollout(model, encoding.ids)
            near = None if first is None else agreement(first, gradients)
            first = gradients if first is None else first
            if near is not None:
                alike.append((name, near))
            said = f"{escape(name)}<br><b>{escape(source.labels[label])}</b> {answer[label]:.2f}"
            like = "" if near is None else f"<br>rank correlation {near:.2f}"
            page.append(f"<tr><td>{said}{like}</td><td>{_coloured(line, gradients)}<br>")
            flow = "" if reached is None else _coloured(line, by_word(line, encoding, reached))
            page.append(f"{flow}</td></tr>")
        page.append("</table>")
    note = (
        "Upper line: integrated gradients of the answer given (green speaks for it, red against it). "
        "Lower line: attention roll-out to the first token. Rank correlation: of the gradients with the first model's."
    )
    head = f"<!doctype html><meta charset=utf-8><title>explain</title><style>{STYLE}</style><p>{note}</p>"
    write_atomic(output, head + "\n".join(page) + "\n")
    for name in checkpoints[1:]:
        mine = [value for other, value in alike if other == name]
        if mine:
            out.print(
                f"{name}: rank correlation with {checkpoints[0]} {np.mean(mine):.2f} ({len(mine)} texts)",
                soft_wrap=True,
            )
    out.print(str(output), soft_wrap=True)


@app.command()
@with_options
def fairness(
    models: Annotated[
        list[str], typer.Argument(help="Checkpoints, exported directories or bundles; the first is the reference.")
    ],
    compared: Annotated[
        ComparedRows,
        fields(
            *ComparedRows.model_fields,
            help={"data": "Labelled rows with a further column that names a group."},
        ),
    ],
    group: Annotated[str, typer.Option(help="Name of the group column.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="JSON file for the results.")] = None,
) -> None:
    """Compare the metric by group (fairlearn), and its differences between groups, for several models."""
    try:
        from fairlearn.metrics import MetricFrame, count
    except ImportError as error:
        raise missing_extra(error.name or "fairlearn", "explain") from None
    kind, found = compared.task_with(models[0], Feature.FAIRNESS), []
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InputError(f"--json {json_file}: no such directory")
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        for name, artifact in zip(models, adopted(models, Path(scratch), kind, compared.max_length), strict=True):
            rows = read_rows(kind, compared.data, names=artifact.labels, group=group)
            try:
                outputs = answered(artifact, rows.texts, cores())
            except CannotRunHere as reason:
                raise InputError(f"{name}: cannot run here: {reason}") from None
            answers = outputs.argmax(-1)
            asked = {kind.metric_name: lambda gold, said: 100 * float(np.mean(gold == said)), "rows": count}
            for number, label in enumerate(artifact.labels if len(artifact.labels) <= 5 else ()):
                asked[f"said {label}"] = lambda gold, said, number=number: 100 * float(np.mean(said == number))
            frame = MetricFrame(
                metrics=asked, y_true=rows.gold, y_pred=answers, sensitive_features=list(rows.groups or ())
            )
            apart = frame.difference().drop("rows").to_dict()
            by_group = frame.by_group.to_dict("index")  # type: ignore[call-overload]
            found.append({"path": name, "groups": by_group, "apart": apart})
    if json_file is not None:
        write_atomic(json_file, json.dumps({"group": group, "models": found}, indent=2, default=float) + "\n")
    measures = list(found[0]["apart"])
    table = Table("", *(f"{entry['path']}: {measure}" for entry in found for measure in measures))
    for name in found[0]["groups"]:
        cells = (f"{entry['groups'][name][measure]:.2f}" for entry in found for measure in measures)
        table.add_row(f"{name} ({found[0]['groups'][name]['rows']:.0f})", *cells)
    table.add_row("largest difference", *(f"{entry['apart'][m]:.2f}" for entry in found for m in measures))
    out.print(table)


def _answer(model, ids: list[int]) -> np.ndarray:
    """Probabilities of one row."""
    from paredown.compress.models.inference import forward
    from paredown.runtime.answers import softmax

    row = np.array([ids], dtype=np.int64)
    return softmax(forward(model, {"input_ids": row, "attention_mask": np.ones_like(row)})["logits"])[0]


def _coloured(text: str, values: np.ndarray) -> str:
    read = np.nan_to_num(values)  # a word past the longest input has no colour
    most = float(np.abs(read).max()) or 1.0
    cells = []
    for word, value in zip(text.split(), read, strict=True):
        colour = "34,139,34" if value >= 0 else "200,30,30"
        cells.append(f'<span style="background:rgba({colour},{abs(value) / most * 0.7:.2f})">{escape(word)}</span>')
    return " ".join(cells)
