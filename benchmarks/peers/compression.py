"""What other toolkits make of the same checkpoint, each by its own documented flow, beside ours in one interleaved run.

    python benchmarks/peers/compression.py CHECKPOINT OURS [OURS ...] --train F --data F --output-dir build/peers

OURS are bundles or exported directories. Each toolkit gets a virtual environment of its own, made here and kept
(several GB, minutes); one that cannot be installed, or whose flow fails, is in the table with its last words. Run it
on an idle machine. The figures go to OUTPUT_DIR/compression.json, which `benchmarks/results/run.py --page` puts into
docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from paredown.export.hardware import isa

SCRIPTS = Path(__file__).with_name("compression")
CALIBRATION_ROWS = 300
OPTIMUM_ISA = "--avx512_vnni" if "avx512_vnni" in isa() else "--avx2"  # what its documentation says for such a CPU


@dataclass(frozen=True)
class Peer:
    """One toolkit: what is installed, the commands of its flow, and whether it leaves a model that others can run."""

    name: str
    packages: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]  # {bin}, {scripts}, {checkpoint}, {onnx}, {rows}, {work} are filled in
    portable: bool = True


PEERS = (
    Peer("onnxruntime", (f"onnxruntime=={version('onnxruntime')}", "onnx", "sympy"),
         (("{bin}/python", "{scripts}/plain_onnxruntime.py", "{onnx}", "{work}"),)),
    Peer("NNCF and OpenVINO", (f"nncf=={version('nncf')}", f"openvino=={version('openvino')}", "onnx"),
         (("{bin}/python", "{scripts}/nncf_openvino.py", "{onnx}", "{work}", "{rows}"),)),
    Peer("optimum-onnx", ("optimum-onnx[onnxruntime]", "torch==2.13.0"),
         (("{bin}/optimum-cli", "export", "onnx", "--model", "{checkpoint}", "--task", "text-classification",
           "{work}/plain"),
          ("{bin}/optimum-cli", "onnxruntime", "quantize", OPTIMUM_ISA, "--onnx_model", "{work}/plain", "-o",
           "{work}/int8"))),
    Peer("Olive", ("olive-ai[auto-opt]", "requests", "torch==2.13.0", "transformers", "onnxruntime", "optimum-onnx"),
         (("{bin}/olive", "auto-opt", "--model_name_or_path", "{checkpoint}", "--task", "text-classification",
           "--device", "cpu", "--provider", "CPUExecutionProvider", "--precision", "int8",
           "--output_path", "{work}"),)),
    Peer("neural-compressor", ("neural-compressor[pt]", "torch==2.13.0", "transformers"),
         (("{bin}/python", "{scripts}/neural_compressor_static.py", "{checkpoint}", "{work}", "{rows}"),),
         portable=False),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("ours", type=Path, nargs="+", help="bundles or exported directories")
    parser.add_argument("--train", required=True, help="rows to calibrate on")
    parser.add_argument("--data", required=True, help="labelled rows that nothing was made or picked on")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[peer.name for peer in PEERS])
    args = parser.parse_args()
    out, checkpoint = args.output_dir.resolve(), args.checkpoint.resolve()
    out.mkdir(parents=True, exist_ok=True)
    values = {"checkpoint": checkpoint, **inputs(checkpoint, args.train, args.max_length, out)}
    made = [make(peer, values, checkpoint, out) for peer in PEERS if peer.name in args.only]
    served = {entry["name"]: out / entry["name"] / "artifact" for entry in made if "failed" not in entry}
    file = out / "compression.json"
    if not served and file.is_file():  # nothing new to time: what became of these, beside what was measured before
        bench, again = json.loads(file.read_text()), {entry["name"]: entry for entry in made}
        bench["peers"] = [again.pop(entry["name"], entry) for entry in bench["peers"]] + list(again.values())
        file.write_text(json.dumps(bench, indent=1))
        return
    ours = {f"paredown, {path.name}": path for path in args.ours}
    command = [sys.executable, "-m", "paredown", "bench", checkpoint, *served.values(), *ours.values(),
               "--data", args.data, "--max-length", args.max_length, "--json", out / "bench.json"]  # fmt: skip
    subprocess.run([str(word) for word in command], check=True)
    bench = json.loads((out / "bench.json").read_text())
    for label, entry in zip(["the checkpoint in PyTorch", *served, *ours], bench["artifacts"], strict=True):
        entry["label"] = label
    file.write_text(json.dumps(bench | {"peers": made}, indent=1))


def inputs(checkpoint: Path, train: str, length: int, out: Path) -> dict[str, Path]:
    """The plain ONNX file that quantisers start from, and calibration rows as arrays of token ids."""
    import numpy as np

    from paredown.compress.data.dataset import read
    from paredown.compress.models.loading import open_checkpoint
    from paredown.export.onnx.exporter import plain_onnx
    from paredown.tasks.registry import TASKS

    task = TASKS["text-classification"]
    source = open_checkpoint(checkpoint, task)
    ids = source.encoder(length).ids(read(train, labelled=False).sample(CALIBRATION_ROWS).texts)
    np.savez(out / "rows.npz", *(np.array(row, dtype=np.int64) for row in ids))
    if not (out / "plain.onnx").is_file():
        plain_onnx(source, task, out / "plain.onnx")
    return {"onnx": out / "plain.onnx", "rows": out / "rows.npz"}


def make(peer: Peer, values: dict[str, Path], checkpoint: Path, out: Path) -> dict:
    """Install and run one; {name, versions, seconds, mb} and, where it came to nothing, `failed` with the reason."""
    home = out / peer.name
    entry: dict = {"name": peer.name, "commands": [" ".join(command) for command in peer.commands]}
    place, work = home / "environment", home / "work"
    if not (place / "done").exists():
        venv.create(place, clear=True, with_pip=True)
        failed = told([place / "bin" / "python", "-m", "pip", "install", "-q", *peer.packages], home / "install.log")
        if failed:
            return entry | {"failed": f"not installed: {failed}"}
        (place / "done").touch()
    entry["packages"] = subprocess.check_output([place / "bin" / "pip", "freeze", "-q"], text=True).split()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    began = time.monotonic()
    for number, command in enumerate(peer.commands):
        words = [part.format(bin=place / "bin", scripts=SCRIPTS, work=work, **values) for part in command]
        failed = told(words, home / f"command-{number}.log")
        if failed:
            return entry | {"failed": failed}
    entry["seconds"] = time.monotonic() - began
    found = sorted([*work.rglob("*.onnx"), *work.rglob("*.xml")], key=lambda path: path.stat().st_mtime)
    if not peer.portable or not found:
        size = sum(path.stat().st_size for path in work.rglob("*") if path.is_file()) / 1e6
        return entry | {"failed": f"leaves no ONNX or OpenVINO model, but {size:.0f} MB that its own library reads"}
    artifact = home / "artifact"
    shutil.rmtree(artifact, ignore_errors=True)
    artifact.mkdir()
    for path in found[-1].parent.glob(f"{found[-1].stem}.*"):  # weights beside the graph too
        shutil.copyfile(path, artifact / path.name)
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(checkpoint / name, artifact / name)
    return entry


def told(words: list, log: Path) -> str | None:
    """Run a command quietly into a log file; its last line when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        code = subprocess.run(
            [str(word) for word in words], cwd=log.parent, stdout=file, stderr=subprocess.STDOUT, check=False,
            env={**os.environ, "OLIVE_DISABLE_TELEMETRY": "1"},
        ).returncode  # fmt: skip
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return None if code == 0 else (lines[-1].strip() if lines else f"exit code {code}")


if __name__ == "__main__":
    main()
