"""The commands `serve` and `load`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from paredown.compress.data.dataset import read_rows
from paredown.runtime.errors import InputError, StepError

from ..interrupted import INTERRUPTED
from .bundle import check_key
from .common import TaskOption, TextColumn, task_for, typed
from .validation import checked

app = typer.Typer()
out = Console(markup=False, highlight=False, soft_wrap=True)
KEY = "PAREDOWN_API_KEY"


@app.command()
def serve(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle: its directory or its .tar.gz.")] = None,
    models: Annotated[Path | None, typer.Option(help="Directory of bundles: NAME, or NAME/VERSION.")] = None,
    port: Annotated[int, typer.Option(help="TCP port (0: any free port).")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(help="Number of worker processes.")] = 1,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a worker (default: cores / workers).")] = None,
    load: Annotated[Literal["latest", "all", "none"], typer.Option(help="Models to load at start.")] = "latest",
    memory_mb: Annotated[float | None, typer.Option(help="Memory limit of the models of a worker, in MB.")] = None,
    batch_tokens: Annotated[int, typer.Option(help="Maximum number of tokens in a batch.")] = 1024,
    max_wait_ms: Annotated[float, typer.Option(help="Batching delay of an idle model, in ms.")] = 0,
    queue_rows: Annotated[
        int, typer.Option(help="Maximum number of rows in the queue or running; more get status 429.")
    ] = 1024,
    deadline_ms: Annotated[float, typer.Option(help="Deadline of a request, in ms.")] = 1000,
    body_bytes: Annotated[int, typer.Option(help="Maximum size of a request body, in bytes.")] = 1_000_000,
    text_bytes: Annotated[int, typer.Option(help="Maximum size of a text, in bytes.")] = 20_000,
    image_bytes: Annotated[
        int, typer.Option(help="Maximum size of an image file, in bytes; see --body-bytes too.")
    ] = 700_000,
    image_pixels: Annotated[int, typer.Option(help="Maximum number of pixels of an image.")] = 20_000_000,
    request_rows: Annotated[int, typer.Option(help="Maximum number of rows in a request.")] = 256,
    connections: Annotated[int, typer.Option(help="Maximum number of open requests; more get status 429.")] = 1000,
    drain_s: Annotated[float, typer.Option(help="Time limit for open requests after SIGTERM, in seconds.")] = 10,
    open_s: Annotated[float, typer.Option(help="Time limit to open a model and to answer once, in seconds.")] = 60,
    public_key: Annotated[
        Path | None, typer.Option(help="PEM file of a public key; only bundles signed by its private key are served.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Further Host name that a server on the loopback address accepts; may be given several times."
        ),
    ] = None,
    drift_threshold: Annotated[float, typer.Option(help="PSI or KS distance that raises an alert.")] = 0.2,
    drift_rows: Annotated[int, typer.Option(help="Rows in one window of the drift statistics.")] = 2000,
    sample_file: Annotated[
        Path | None, typer.Option(help="JSONL file that sampled texts and answers are appended to.")
    ] = None,
    sample_share: Annotated[float, typer.Option(help="Share of texts that is sampled.")] = 0.01,
    sample_mb: Annotated[float, typer.Option(help="Maximum size of the sample file, in MB.")] = 100,
    api_key_file: Annotated[
        Path | None, typer.Option(help=f"File with the API key of the clients (or ${KEY}).")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its private key.")] = None,
    log_requests: Annotated[bool, typer.Option(help="Log one line for each request.")] = True,
) -> None:
    """Serve bundles over HTTP (Open Inference Protocol v2) until SIGTERM."""
    given = {key: value for key, value in locals().items() if key != "api_key_file"}
    if (bundle is None) == (models is None):
        raise InputError("give either a bundle or --models DIR")
    from paredown.serve.config import Settings
    from paredown.serve.server import check_tls
    from paredown.serve.supervisor import serve as serve_all

    given["allowed_host"] = allowed_host or ()
    check_key(public_key)
    settings = checked(Settings, given | {"api_key": _key(api_key_file)})
    check_tls(settings)
    code = serve_all(settings)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        sys.exit(code)


@app.command()
def load(
    url: Annotated[str, typer.Argument(help="Address of the server, http://HOST:PORT.")],
    rps: Annotated[float, typer.Option(help="Request rate, per second.")],
    seconds: Annotated[float, typer.Option(help="Duration, in seconds.")] = 10,
    text: Annotated[list[str] | None, typer.Option(help="Text to send; may be given several times.")] = None,
    data: Annotated[str | None, typer.Option(help="Rows whose texts are sent: .csv, .jsonl or .parquet.")] = None,
    model: Annotated[str | None, typer.Option(help="Model to call over protocol v2 (default: POST /predict).")] = None,
    arrivals: Annotated[
        Literal["poisson", "even"], typer.Option(help="Distribution of the arrival times.")
    ] = "poisson",
    timeout: Annotated[float, typer.Option(help="Timeout of a request, in seconds.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the arrival times.")] = 0,
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
    if bool(text) == bool(data):
        raise InputError("give either --text or --data")
    texts = [typed(line) for line in text or ()]
    if data:
        texts = list(read_rows(task_for(task, text=text_column), data, labelled=False).texts)
    key = _key(api_key_file)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    address, requests = request_bodies(texts, url.rstrip("/"), model)
    found = run(address, requests, Load(rps, seconds, arrivals, seed, timeout, headers)).summary()
    out.print(f"sent     {found['sent']} in {found['seconds']:.1f} s, {arrivals}")
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
