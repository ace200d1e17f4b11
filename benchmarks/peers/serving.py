"""Requests a second with p99 under a bound: our server, and the same model behind three others.

    python benchmarks/peers/serving.py BUNDLE --data test.csv --output-dir build/serving

BUNDLE is a directory with an ONNX model for CPUs. Each other server gets a virtual environment of its own, made here,
with this one's versions of onnxruntime, tokenizers and numpy. Load and server share the machine: run it idle.
Beside that: rows a second of the model alone, by `paredown bench`, and what ours does for a minute at five times its
best rate. The figures go to OUTPUT_DIR/serving.json; `benchmarks/results/run.py --page` puts them into docs/results.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PEERS = Path(__file__).with_name("serving")
SHARED = ("onnxruntime", "tokenizers", "numpy")
START_S = 120
GROWTH = 1.25  # between two rates that are tried
LOST = 0.001  # share of requests that may get no answer
OVERLOAD, OVERLOAD_S = 5, 60  # times the best rate, and for how long
DEADLINE_MS = 1000  # `paredown serve --deadline-ms`, and how long a client waits


@dataclass(frozen=True)
class Server:
    """One that is compared: how it is installed, started and asked."""

    name: str
    packages: tuple[str, ...]  # none: this environment
    command: tuple[str, ...]  # {python}, {port}, {bundle} and {folder} are filled in
    model: str | None = None  # asked over protocol v2; None: POST /predict


PAREDOWN = ("{python}", "-m", "paredown", "serve", "{bundle}", "--port", "{port}", "--no-log-requests")
SERVERS = (
    Server("paredown", (), PAREDOWN),
    Server("paredown, 2 workers", (), (*PAREDOWN, "--workers", "2")),
    Server("FastAPI", ("fastapi", "uvicorn[standard]"),
           ("{python}", "-m", "uvicorn", "fastapi_server:app", "--port", "{port}", "--log-level", "warning")),
    Server("LitServe", ("litserve",), ("{python}", "litserve_server.py", "{port}")),
    Server("MLServer", ("mlserver",), ("{python}", "mlserver_runtime.py", "{port}", "{folder}"), "m"),
)  # fmt: skip


def python_of(server: Server, folder: Path) -> str | None:
    """Its interpreter, installed when it is not there yet; None, with the reason printed, when that fails."""
    if not server.packages:
        return sys.executable
    place = folder / "environments" / server.name
    python = place / "bin" / "python"
    if not (place / "done").exists():
        wanted = [*server.packages, *(f"{name}=={version(name)}" for name in SHARED)]
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{server.name}: not installed: {done.stderr.strip().splitlines()[-1]}")
            return None
        (place / "done").touch()
    return str(python)


@contextlib.contextmanager
def running(server: Server, python: str, bundle: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """Its address and the session of its processes, once it has answered a text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"python": python, "port": port, "bundle": bundle, "folder": folder / "mlserver"}
    command = [part.format(**values) for part in server.command]
    with (folder / f"{server.name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=PEERS if server.packages else None, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "BUNDLE": str(bundle)},
        )  # fmt: skip
        try:
            url, until = f"http://127.0.0.1:{port}", time.monotonic() + START_S
            while not answers(url, server):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{server.name} did not start; see {log.name}")
                time.sleep(0.2)
            yield url, process.pid
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)


def answers(url: str, server: Server) -> bool:
    path, body = "/predict", {"text": "a film"}
    if server.model:
        path = f"/v2/models/{server.model}/infer"
        body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a film"]}]}
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except OSError:
        return False


def probe(url: str, server: Server, data: str, rps: float, seconds: float, folder: Path) -> dict:
    """The figures of `paredown load` at one rate."""
    out = folder / "load.json"
    command = [sys.executable, "-m", "paredown", "load", url, "--rps", str(rps), "--seconds", str(seconds)]
    command += ["--data", data, "--json", str(out), "--timeout", str(DEADLINE_MS / 1e3 + 4)]
    command += ["--model", server.model] if server.model else []
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(out.read_text())


def kept(found: dict, p99_ms: float) -> bool:
    return found["ok"] >= (1 - LOST) * found["sent"] and found["p99_ms"] <= p99_ms


def best_rate(url: str, server: Server, args: argparse.Namespace) -> tuple[float, list[dict]]:
    """The highest rate whose p99 keeps the bound, within a factor GROWTH ** 0.5, and every probe."""
    probes, low, high, rate = [], 0.0, float("inf"), args.start_rps
    probe(url, server, args.data, rate, min(2, args.seconds), args.output_dir)  # warm
    while high / max(low, 1e-9) > GROWTH**0.5 and len(probes) < args.probes:
        found = probe(url, server, args.data, rate, args.seconds, args.output_dir)
        probes.append(found)
        if kept(found, args.p99_ms):
            low = rate
        else:
            high = rate
        rate = low * GROWTH**2 if high == float("inf") else (low * high) ** 0.5 if low else high / GROWTH**2
        print(f"  {found['rps']:.0f}/s: p99 {found.get('p99_ms')} ms, {found['statuses']}", flush=True)
    return low, probes


def offline(bundle: Path, args: argparse.Namespace) -> float:
    """Rows a second of the model without a server: the best of one row and of a batch a call, tokeniser included."""
    out = args.output_dir / "offline.json"
    command = [sys.executable, "-m", "paredown", "bench", bundle, bundle, "--data", args.data]
    subprocess.run([str(word) for word in [*command, "--json", out]], check=True)
    found = json.loads(out.read_text())["artifacts"][0]
    a_row_ms = min(found["mean_ms"], 1e3 / found["throughput_per_s"])
    return 1e3 / (a_row_ms + found["tokenizer_ms"])


def overload(server: Server, rate: float, args: argparse.Namespace) -> dict:
    """A minute at several times the best rate: the figures of `load`, and the server's memory before and after, MB."""
    python = python_of(server, args.output_dir)
    assert python is not None
    with running(server, python, args.bundle, args.output_dir) as (url, session):
        probe(url, server, args.data, rate, 5, args.output_dir)  # warm
        before = resident_mb(session)
        found = probe(url, server, args.data, OVERLOAD * rate, OVERLOAD_S, args.output_dir)
        return found | {"memory_mb": [before, resident_mb(session)]}


def resident_mb(session: int) -> float:
    """What the processes of a session have in memory."""
    found = subprocess.check_output(["ps", "-o", "rss=", "-s", str(session)], text=True)
    return sum(map(int, found.split())) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", required=True, help="rows whose texts are sent")
    parser.add_argument("--output-dir", type=Path, default=Path("build/serving"))
    parser.add_argument("--p99-ms", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=10, help="of one probe")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server, in random order")
    parser.add_argument("--start-rps", type=float, default=50)
    parser.add_argument("--probes", type=int, default=14, help="of one turn, at most")
    parser.add_argument("--only", nargs="*", help="names of servers")
    args = parser.parse_args()
    args.bundle, args.output_dir = args.bundle.resolve(), args.output_dir.resolve()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    chosen = [server for server in SERVERS if not args.only or server.name in args.only]
    pythons = {server: python for server in chosen if (python := python_of(server, args.output_dir))}
    rates: dict[str, list[float]] = {server.name: [] for server in pythons}
    record = []
    for number in range(args.rounds):
        for server in random.Random(number).sample(list(pythons), len(pythons)):
            print(f"round {number + 1}: {server.name}", flush=True)
            with running(server, pythons[server], args.bundle, args.output_dir) as (url, _):
                rate, probes = best_rate(url, server, args)
            rates[server.name].append(rate)
            record.append({"server": server.name, "round": number, "rps": rate, "probes": probes})
    result = {"p99_ms": args.p99_ms, "seconds": args.seconds, "rates": rates, "turns": record}
    ours = SERVERS[0]
    if ours in pythons:
        result["offline_per_s"] = offline(args.bundle, args)
        result["overload"] = overload(ours, max(rates[ours.name]), args)
    result["candidate"] = json.loads((args.bundle / "manifest.json").read_text())["source"]["candidate"]
    (args.output_dir / "serving.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n| server | requests/s with p99 under {args.p99_ms:g} ms, each round |\n| --- | --- |")
    for name, found in sorted(rates.items(), key=lambda item: -max(item[1])):
        print(f"| {name} | {', '.join(f'{rate:.0f}' for rate in found)} |")


if __name__ == "__main__":
    main()
