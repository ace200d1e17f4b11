"""The commands `serve` and `load`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import BaseModel, Field
from rich.console import Console

from paredown.compress.data.dataset import read_rows
from paredown.runtime.errors import InputError, StepError
from paredown.runtime.selftest import usable_cores
from paredown.serve.config import Settings, configured

from ..interrupted import INTERRUPTED
from ..spelling import checked
from .bundle import check_key
from .common import TaskOption, TextColumn, task_for, typed
from .options import fields, with_options

app = typer.Typer()
out = Console(markup=False, highlight=False, soft_wrap=True)
KEY = "PAREDOWN_API_KEY"
OPTIONS = [name for name in Settings.model_fields if name not in ("bundle", "api_key", "configured_by")]


@app.command()
@with_options
def serve(
    given: Annotated[dict, fields(*OPTIONS, of=Settings, allowed_host=None, workers=None)],
    bundle: Annotated[Path | None, typer.Argument(help="A bundle: its directory or its .tar.gz.")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help=f"File with the API key of the clients (or ${KEY}).")
    ] = None,
) -> None:
    """Serve bundles over HTTP (Open Inference Protocol v2) until SIGTERM."""
    if (bundle is None) == (given["models"] is None):
        raise InputError("give either a bundle or --models DIR")
    from paredown.serve.models.repository import measured_configuration
    from paredown.serve.server import check_tls, exit_on_sigterm
    from paredown.serve.supervisor import serve as serve_all

    check_key(given["public_key"])
    settings = checked(Settings, given | {"bundle": bundle, "api_key": _key(api_key_file)})
    check_tls(settings)
    with exit_on_sigterm():
        serving = None if bundle is None else measured_configuration(settings, bundle)
    code = serve_all(settings.model_copy(update=configured(given, serving, usable_cores())))
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        sys.exit(code)


class LoadOptions(BaseModel):
    """What is sent to a server."""

    rps: float = Field(description="request rate, per second")
    seconds: float = Field(default=10, description="duration, in seconds")
    text: list[str] = Field(default_factory=list, description="text to send; may be given several times")
    data: str | None = Field(default=None, description="rows whose texts are sent: .csv, .jsonl or .parquet")
    model: str | None = Field(default=None, description="model to call over protocol v2 (default: POST /predict)")
    arrivals: Literal["poisson", "even"] = Field(default="poisson", description="distribution of the arrival times")
    timeout: float = Field(default=10, description="timeout of a request, in seconds")
    seed: int = Field(default=0, description="seed of the arrival times")


@app.command()
@with_options
def load(
    url: Annotated[str, typer.Argument(help="Address of the server, http://HOST:PORT.")],
    sent: Annotated[LoadOptions, fields(*LoadOptions.model_fields, text=None)],
    task: TaskOption = "text-classification",
    text_column: TextColumn = None,
    api_key_file: Annotated[Path | None, typer.Option(help=f"File with the server's API key (or ${KEY}).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="JSON file for the results.")] = None,
) -> None:
    """Send requests at a fixed rate (open loop) and show latencies from the scheduled times."""
    from paredown.serve.load_generator import Load, request_bodies, run

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InputError(f"--json {json_file}: no such directory")
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url}: an address that begins with http:// or https:// is expected")
    if bool(sent.text) == bool(sent.data):
        raise InputError("give either --text or --data")
    texts = [typed(line) for line in sent.text]
    if sent.data:
        texts = list(read_rows(task_for(task, text=text_column), sent.data, labelled=False).texts)
    key = _key(api_key_file)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    address, requests = request_bodies(texts, url.rstrip("/"), sent.model)
    planned = Load(sent.rps, sent.seconds, sent.arrivals, sent.seed, sent.timeout, headers)
    found = run(address, requests, planned).summary()
    out.print(f"sent     {found['sent']} in {found['seconds']:.1f} s, {sent.arrivals}")
    out.print(f"answers  {', '.join(f'{status}: {count}' for status, count in found['statuses'].items())}")
    if found["ok"]:
        names = [name for name in found if name.startswith("p") and name[1].isdecimal()]
        times = ", ".join(f"{name[:-3]} {found[name]:.1f}" for name in [*names, "max_ms"])
        out.print(f"latency  {times} ms, since each was due; {found['answered_per_s']:.1f} answers a second")
    out.print(f"lag      p99 {found['lag_p99_ms']:.1f} ms: how late this program sent; compare it with the latencies")
    if json_file is not None:
        from ..store import write_atomic

        write_atomic(json_file, json.dumps(found, indent=2) + "\n")
    if not found["ok"]:
        raise StepError(f"{address}: not one request succeeded")


def _key(file: Path | None) -> str | None:
    """The API key of a file or the environment; never of the command line, which every user of the machine can read."""
    if file is None:
        where, key = f"${KEY}", os.environ.get(KEY, "").strip()
    else:
        where = f"--api-key-file {file}"
        try:
            key = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{where}: {getattr(error, 'strerror', None) or 'not text'}") from None
        if not key:
            raise InputError(f"{where}: empty")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{where}: only printable ASCII can be sent in a header; take another key")
    return key or None
