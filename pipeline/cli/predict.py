"""The command `predict`: answers of a bundle to texts, images, a file of rows, or lines of the standard input."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from paredown.compress.data.dataset import read_rows
from paredown.runtime.errors import InputError, printable
from paredown.runtime.manifest import read_manifest
from paredown.runtime.preprocessor import PAIR, PIXELS, is_text
from paredown.tasks.registry import task_named

from . import bundle as bundles
from .common import TextColumn, typed

app = typer.Typer()
STDIN = "-"  # in the place of a file of rows


@app.command()
def predict(
    bundle: bundles.BundlePath,
    text: Annotated[list[str] | None, typer.Option(help="Text to classify; may be given several times.")] = None,
    text_pair: Annotated[list[str] | None, typer.Option(help="The second text of each, for pairs of texts.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="Image file to classify; may be given several times.")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Rows to answer: .csv, .jsonl, .parquet or a datasets name; '-': each line of the standard input is a "
            "text."
        ),
    ] = None,
    text_column: TextColumn = None,
    output: Annotated[
        Path | None, typer.Option(help="File for the answers, .csv or .jsonl (default: JSON lines are printed).")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Number of labels whose scores are shown, highest first (default: all).")
    ] = None,
    public_key: bundles.PublicKey = None,
    deadline_s: bundles.DeadlineS = 120,
) -> None:
    """Predict texts, images or a file of rows with a bundle; one JSON line for each, or a file."""
    from paredown.export.bundle.archive import unpacked
    from paredown.export.isolation import ROWS_S, in_child

    text, text_pair = ([typed(one) for one in given or ()] for given in (text, text_pair))
    if sum(map(bool, (text, image, data))) != 1:
        raise InputError("give one of --text, --data, and --image for a bundle that sees images")
    if text_pair and not text:
        raise InputError("--text-pair is the second text of each --text; a file of --data has both")
    if text_column is not None and data in (None, STDIN):
        raise InputError("--text-column is of a file: give --data FILE")
    if output is not None and output.suffix not in (".csv", ".jsonl"):
        raise InputError(f"--output {output}: a name that ends in .csv or .jsonl is expected")
    if output is not None and (not output.absolute().parent.is_dir() or output.is_dir()):
        raise InputError(f"--output {output}: {'a directory' if output.is_dir() else 'no such directory'}")
    bundles.check_key(public_key)
    with unpacked(bundle, deadline_s) as path:
        if public_key is not None:
            from paredown.export.bundle.signature import check_signature

            check_signature(path, public_key)
        manifest = read_manifest(path)
        rows = _rows(manifest, data, text_column) if data else []
        given: dict[str, Any] = {"texts": text, "images": image or [], "pairs": text_pair, "rows": rows}
        answers = in_child("predict", path, deadline_s, ROWS_S, **given, top_k=top_k)
    asked: list[dict[str, Any]] = [{"image": name} for name in image or ()] or [{"text": one} for one in text]
    if rows:
        images = PIXELS in manifest["inputs"]
        asked = [{"row": i} if images else _texts_of(row) for i, row in enumerate(rows, 1)]
    for row, second in zip(asked, text_pair, strict=False):
        row["text_pair"] = second
    answered = [row | answer for row, answer in zip(asked, answers, strict=True)]
    if output is None:
        known = reads_unicode(sys.stdout.encoding)
        for row in answered:
            print(printable(json.dumps(row, ensure_ascii=not known)))
    else:
        from ..store import write_atomic

        write_atomic(output, _csv(answered) if output.suffix == ".csv" else _json_lines(answered))


def reads_unicode(encoding: str | None) -> bool:
    """Whether a stream of this encoding takes every letter, so that JSON need not escape any."""
    return (encoding or "").lower().replace("-", "").replace("_", "").startswith("utf")


def _rows(manifest: dict, source: str, text_column: str | None) -> list[str]:
    """The rows of a file as the bundle's task reads them, without labels; of `-` one for each line."""
    task = task_named(manifest["task"])
    if source != STDIN:
        return list(read_rows(task, source, text=text_column, labelled=False).texts)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # whatever the terminal's locale says
    texts = [line.rstrip("\r\n") for line in sys.stdin]
    if not texts:
        raise InputError("--data -: the standard input is empty; a text on each line is expected")
    for number, line in enumerate(texts, 1):
        if not is_text(line):
            raise InputError(f"--data -, line {number}: half a character (a lone surrogate) or U+001E; give UTF-8")
    return task.row_texts(texts)


def _texts_of(row: str) -> dict[str, str]:
    """The text of a row, or both of a pair."""
    first, pair, second = row.partition(PAIR)
    return {"text": first, "text_pair": second} if pair else {"text": first}


def _json_lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """A column for each key; what is no text and no number is JSON in its cell."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
                for key, value in row.items()
            }
        )
    return file.getvalue()
