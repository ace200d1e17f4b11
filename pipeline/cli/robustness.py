"""The command `robustness`: the metric under typos, capitals, deletions, swaps and synonyms."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from paredown.benchmarks.statistics.metric_intervals import Z95_TWO_SIDED, paired_drop
from paredown.compress.data.dataset import read_rows
from paredown.runtime.errors import InputError
from paredown.runtime.session import CannotRunHere
from paredown.tasks import perturbations
from paredown.tasks.base import Feature
from paredown.tasks.scores import points

from ..results.side_by_side import adopted, correct
from ..store import write_atomic
from .common import ComparedRows, Seed, out
from .options import fields, with_options

app = typer.Typer()


@app.command()
@with_options
def robustness(
    models: Annotated[list[str], typer.Argument(help="Checkpoints, exported directories or bundles.")],
    rows: Annotated[ComparedRows, fields(*ComparedRows.model_fields, help={"data": "Labelled rows to perturb."})],
    share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the words of a row that are perturbed.")
    ] = perturbations.SHARE,
    synonyms: Annotated[
        str | None, typer.Option(help="File of synonyms: one group of words on each line, separated by commas.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="JSON file for the results.")] = None,
    seed: Seed = 13,
) -> None:
    """Compare the metric on original and perturbed rows: typos, capitals, doubled texts, deleted or swapped words,
    synonyms."""
    kind = rows.task_with(models[0], Feature.ROBUSTNESS)
    changes = perturbations.MEASURED | {"deletion": perturbations.deletion, "swap": perturbations.swap}
    if synonyms is not None:
        changes["synonyms"] = perturbations.synonyms(perturbations.read_synonyms(synonyms))
    changes = {name: change for name, change in changes.items() if kind.keeps_labels(change)}
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InputError(f"--json {json_file}: no such directory")
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        artifacts = adopted(models, Path(scratch), kind, rows.max_length)
        read = [read_rows(kind, rows.data, names=a.labels) for a in artifacts]
        texts = {"as they are": read[0].texts} | {
            name: kind.perturbed(read[0].texts, change, share, seed) for name, change in changes.items()
        }
        try:
            right = [
                {name: correct(artifact, replace(mine, texts=lines)) for name, lines in texts.items()}
                for artifact, mine in zip(artifacts, read, strict=True)
            ]
        except CannotRunHere as reason:
            raise InputError(f"a model cannot run here: {reason}") from None
    entries = [_figures(given, mine, right[0]) for given, mine in zip(models, right, strict=True)]
    if json_file is not None:
        write_atomic(
            json_file, json.dumps({"rows": len(read[0]), "share": share, "seed": seed, "models": entries}, indent=2)
        )
    table = Table("rows", *models)
    for name in texts:
        table.add_row(name, *(_cell(entry["metrics"][name]) for entry in entries))
    out.print(table)
    if len(models) > 1:
        out.print("In brackets: points lost against the first model on the same rows, with its 95 % interval.")


def _figures(given: str, mine: dict[str, np.ndarray], first: dict[str, np.ndarray]) -> dict:
    """Metric of one model in points under each change; `lost` against its own rows as they are, `drop` against the
    first model's on the same changed rows."""
    metrics = {}
    for name, right in mine.items():
        drop, error = paired_drop(first[name], right)
        metrics[name] = {
            "metric": points(right),
            "lost": paired_drop(mine["as they are"], right)[0],
            "drop": None if mine is first else drop,
            "drop_95": None if mine is first else [drop - Z95_TWO_SIDED * error, drop + Z95_TWO_SIDED * error],
        }
    return {"path": given, "metrics": metrics}


def _cell(figures: dict) -> str:
    if figures["drop"] is None:
        return f"{figures['metric']:.2f}"
    lo, hi = figures["drop_95"]
    return f"{figures['metric']:.2f} ({figures['drop']:.2f} [{lo:.2f}, {hi:.2f}])"
