"""What a GPU computes, against the CPU of the same machine: training, scoring, distillation and every GPU runtime.

    benchmarks/gpu/check.sh [OUT_DIR] [--dry-run]

Each check is a process of its own with a deadline; what does not fit into the minutes is said to be not run. The model
is a BERT in MiniLM's shape with random weights and no dropout, so that both devices compute the same updates; its task
is to tell which of two sets of words a text has more of.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 450  # of all checks: under eight minutes with what starts and ends them
CHECK_S = 150  # of one
ON_CPU = "PAREDOWN_GPU_CHECK_ON_CPU"  # set in the processes that are to see no GPU
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "s", "x")]
GOOD, BAD, FILLER = WORDS[:40], WORDS[40:80], WORDS[80:]
ROWS = {"train": 2000, "validation": 400}
SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
STUDENT = {"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 768}
RUNTIMES = ("onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt_rtx")
LEARNED = 90.0  # accuracy in points, where guessing has 50
AGREE = 0.99  # share of rows with the same label
TRAINED = 0.05  # logits after the same training on two devices, in their spread
SCORED = 0.02  # logits of one model on two devices, in their spread; a CPU with AMX computes in bf16


Judge = Callable[[Any], tuple[bool | None, str]]  # what a part said -> right, wrong or not run (None), and figures


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    what: str
    result: str  # "right", "wrong", or why it was not run
    figures: str
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("build/gpu"))
    parser.add_argument("--dry-run", action="store_true", help="also without a GPU: all that its absence allows")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # this process is one check: its arguments as JSON
    args = parser.parse_args()
    if args.part:
        name, *given = json.loads(args.part)
        if gpu_name() is not None and not os.environ.get(ON_CPU):
            require_cuda()
        print(json.dumps(PARTS[name](args.out, *given)))
        return 0
    gpu = gpu_name()
    if gpu is None and not args.dry_run:
        print("error: no NVIDIA GPU here; --dry-run does what can be done without one", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    found = list(checks(args.out, gpu))
    table = page(found, gpu, versions())
    (args.out / "gpu.json").write_text(json.dumps([asdict(check) for check in found], indent=1) + "\n")
    (args.out / "gpu.md").write_text(table, encoding="utf-8")
    print(table)
    return 1 if any(check.result.startswith("wrong") for check in found) else 0


def gpu_name() -> str | None:
    """Name and driver of the first GPU; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def checks(out: Path, gpu: str | None) -> list[Check]:
    """All checks, in the order of what stands on what."""
    until, done = time.monotonic() + LIMIT_S, []

    def part(what: str, judge: Judge, name: str, *given: object, cpu: bool = False) -> None:
        """Run PARTS[name] in a process, on the CPU alone if `cpu`, and judge what it says."""
        began = time.monotonic()
        left = min(CHECK_S, until - began)
        if left < 5:
            done.append(Check(what, "not run: the minutes were used up", "", 0.0))
            return
        said, error = run_part(out, [name, *given], left, cpu)
        right, figures = (False, "") if error else judge(said)
        result = error or {True: "right", False: "wrong", None: "not run"}[right]
        done.append(Check(what, result, figures, time.monotonic() - began))
        print(f"{what}: {result} {figures}", file=sys.stderr)

    def learned(figures: Any) -> tuple[bool, str]:
        return figures["accuracy"] > LEARNED, f"accuracy {figures['accuracy']:.1f} on validation"

    def same_training(figures: Any) -> tuple[bool, str]:
        text = f"logits off by {figures['off']:.2g} of their spread, {100 * figures['agree']:.1f} % the same labels"
        return figures["off"] < TRAINED and figures["agree"] >= AGREE, text

    def same_scores(figures: Any) -> tuple[bool, str]:
        return figures["off"] < SCORED, f"logits off by {figures['off']:.2g} of their spread"

    def speed(figures: Any) -> tuple[bool, str]:
        return True, f"{figures['rows_per_s']:.0f} rows a second"

    part("data and base checkpoints", lambda x: (True, ""), "prepare", cpu=True)
    for job in ("finetune", "distill"):
        part(f"{job} on the CPU", learned, job, f"{job}-cpu", cpu=True)
        if gpu:
            part(f"{job} on the GPU", learned, job, f"{job}-gpu")
            part(f"{job}: GPU against CPU", same_training, "compare", f"{job}-cpu", f"{job}-gpu", cpu=True)
        else:
            done.append(Check(f"{job} on the GPU", "not run: no GPU", "", 0.0))
    part("scoring on the CPU", speed, "score", "score-cpu", cpu=True)
    if gpu:
        part("scoring on the GPU", speed, "score", "score-gpu")
        part("scoring: GPU against CPU", same_scores, "compare_scores", "score-cpu", "score-gpu", cpu=True)
    else:
        done.append(Check("scoring on the GPU", "not run: no GPU", "", 0.0))
    for runtime in RUNTIMES:
        for precision in part_precisions(runtime):
            part(f"{runtime} {precision}", judged, "runtime", runtime, precision)
    return done


def part_precisions(runtime: str) -> tuple[str, ...]:
    """The precisions of a runtime's classifiers."""
    from paredown.export.runtimes.registry import RUNTIMES as known

    return known[runtime].SPEC.precisions["single"]


def judged(figures: Any) -> tuple[bool | None, str]:
    """A runtime's answers and times, or why it did not answer."""
    if "why" in figures:
        return None, figures["why"]
    text = f"{100 * figures['agree']:.1f} % the same labels as PyTorch fp32 on the CPU, off by {figures['off']:.2g}; "
    text += ", ".join(f"{rows} row{'s' * (rows > 1)} {ms:.2f} ms" for rows, ms in figures["ms"])
    return figures["agree"] >= AGREE, f"{text}; {figures['size_mb']:.1f} MB"


def run_part(out: Path, part: list, seconds: float, cpu: bool) -> tuple[Any, str | None]:
    """What a part printed last, and why there is nothing: it failed, or took too long."""
    command = [sys.executable, __file__, str(out), "--part", json.dumps(part)]
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": "", ON_CPU: "1"} if cpu else {})}
    log = out / f"{'-'.join(map(str, part))}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True
        )
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started
            process.communicate()
            verdict = "wrong" if seconds == CHECK_S else "not run"
            return None, f"{verdict}: no result after {seconds:.0f} s"
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
        return None, f"wrong: {lines[-1][-200:]}"
    return json.loads(printed.strip().splitlines()[-1]), None


# What follows runs in the process of a check. Each function returns what JSON can hold.


def prepare(out: Path) -> dict:
    """Rows, and two BERTs of random weights: the base of the teacher and that of the student."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    rng = random.Random(13)
    for name, count in ROWS.items():
        with (out / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for i in range(count):
                words = rng.choices((BAD, GOOD)[i % 2], k=rng.randint(2, 6)) + rng.choices(FILLER, k=rng.randint(2, 20))
                rng.shuffle(words)
                writer.writerow([" ".join(words), ("negative", "positive")[i % 2]])
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    for name, shape in (("base", SHAPE), ("small", STUDENT)):
        torch.manual_seed(13)
        config = transformers.BertConfig(
            **shape,
            vocab_size=len(vocabulary),
            max_position_embeddings=128,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            id2label={0: "negative", 1: "positive"},
            label2id={"negative": 0, "positive": 1},
        )
        transformers.BertForSequenceClassification(config).save_pretrained(out / name)
        tokenizer.save(str(out / name / "tokenizer.json"))
    return {}


def finetune(out: Path, name: str) -> dict:
    """The base, trained for two epochs by `paredown finetune`."""
    command(out, name, "finetune", out / "base", "--epochs", 2)
    return {"accuracy": accuracy(out, name)}


def distill(out: Path, name: str) -> dict:
    """The small base, trained for two epochs by `paredown distill` from the teacher that the CPU trained."""
    command(out, name, "distill", out / "finetune-cpu", "--student", out / "small", "--hidden-weight", 0, "--epochs", 2)
    return {"accuracy": accuracy(out, name)}


def command(out: Path, name: str, stage: str, *given: object) -> None:
    """Run a stage with the rows of this check into OUT/NAME, made anew."""
    import shutil

    shutil.rmtree(out / name, ignore_errors=True)
    rows = ["--train", out / "train.csv", "--validation", out / "validation.csv", "--max-length", 64]
    words = [sys.executable, "-m", "paredown", stage, *given, *rows, "--output-dir", out / name]
    done = subprocess.run([str(word) for word in words], stdout=sys.stderr, check=False)
    if done.returncode:
        raise SystemExit(f"paredown {stage}: exit code {done.returncode}")


def compare(out: Path, one: str, other: str) -> dict:
    """Logits of two checkpoints on the validation rows, both computed on the CPU."""
    return distance(logits(out, one), logits(out, other))


def score(out: Path, name: str) -> dict:
    """The scores that distillation learns from (`teacher_scores`) on the device of this process, kept as NAME.npy."""
    import numpy as np

    from paredown.compress.models.inference import teacher_scores

    ids, model = token_ids(out), load(out, "finetune-cpu")
    teacher_scores(model, ids[:32])  # the first call on a device loads its kernels
    began = time.monotonic()
    np.save(out / f"{name}.npy", teacher_scores(model, ids))
    return {"rows_per_s": len(ids) / (time.monotonic() - began)}


def compare_scores(out: Path, one: str, other: str) -> dict:
    """Two files that `score` wrote."""
    import numpy as np

    return distance(np.load(out / f"{one}.npy"), np.load(out / f"{other}.npy"))


def runtime(out: Path, name: str, precision: str) -> dict:
    """A runtime's artefact of the teacher, exported as a run does, opened and timed in the shapes of two profiles."""
    import shutil
    import tempfile

    import numpy as np

    from paredown.compress.data.dataset import read_rows
    from paredown.compress.models.loading import open_checkpoint
    from paredown.export.onnx.exporter import plain_onnx
    from paredown.export.opening import open_artifact
    from paredown.export.runtimes.registry import RUNTIMES as known
    from paredown.export.runtimes.tensorrt_config import Engine
    from paredown.pipeline.steps import stages
    from paredown.runtime.session import CannotRunHere
    from paredown.tasks.registry import task_named

    if reason := known[name].available(building=True):
        return {"why": f"not exported: {reason}"}
    home, task = out / f"{name}-{precision}", task_named("text-classification")
    shutil.rmtree(home, ignore_errors=True)
    source = open_checkpoint(out / "finetune-cpu", task)
    wanted = stages.ExportFormat(name, precision, 64, engine=Engine(lengths=[16, 64], batch_sizes=[1, 8]))
    rows = read_rows(task, str(out / "train.csv"), names=source.labels).sample(300)
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        plain = plain_onnx(source, task, Path(scratch) / "plain.onnx")
        artifact = stages.export(source, task.for_rows(rows), plain, wanted, home, rows)
    size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file()) / 1e6
    if name == "tensorrt_rtx" and capability() == (9, 0):
        return {"why": f"exported, {size:.1f} MB; not run: TensorRT for RTX is not made for compute capability 9.0"}
    try:
        session = open_artifact(artifact, threads=1)
    except CannotRunHere as error:
        return {"why": f"exported, {size:.1f} MB; {error}"}
    ids, output = token_ids(out), artifact.outputs[0]

    def answer(rows: list[list[int]]) -> np.ndarray:
        width = max(map(len, rows))
        padded = np.array([row + [0] * (width - len(row)) for row in rows], np.int64)
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], np.int64)
        return np.asarray(session({"input_ids": padded, "attention_mask": mask})[output])

    found = np.concatenate([answer(ids[i : i + 8]) for i in range(0, len(ids), 8)])
    times = []
    for rows in (1, 8):
        seconds = []
        for i in range(60):
            batch = ids[i : i + rows]
            began = time.perf_counter()
            answer(batch)
            seconds.append(time.perf_counter() - began)
        times.append([rows, 1e3 * sorted(seconds[10:])[25]])  # the median after ten calls
    return distance(logits(out, "finetune-cpu"), found) | {"ms": times, "size_mb": size}


PARTS: dict[str, Callable[..., dict]] = {
    "prepare": prepare,
    "finetune": finetune,
    "distill": distill,
    "compare": compare,
    "score": score,
    "compare_scores": compare_scores,
    "runtime": runtime,
}


def rows_of(out: Path) -> list[dict]:
    with (out / "validation.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def token_ids(out: Path) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(out / "base" / "tokenizer.json"))
    return [tokenizer.encode(row["text"]).ids for row in rows_of(out)]


def load(out: Path, name: str) -> Any:
    import transformers

    return transformers.AutoModelForSequenceClassification.from_pretrained(out / name).eval()


def logits(out: Path, name: str) -> Any:
    """(rows, 2) float32, of the validation rows, on the CPU, one row a call."""
    import numpy as np
    import torch

    model = load(out, name)
    with torch.inference_mode():
        return np.concatenate([model(input_ids=torch.tensor([row])).logits.numpy() for row in token_ids(out)])


def accuracy(out: Path, name: str) -> float:
    found = logits(out, name).argmax(1)
    names = load(out, name).config.id2label
    gold = [row["label"] for row in rows_of(out)]
    return 100 * sum(names[int(i)] == label for i, label in zip(found, gold, strict=True)) / len(gold)


def distance(wanted: Any, found: Any) -> dict:
    """The largest difference of two (rows, labels) arrays in standard deviations of the first, and the share of rows
    with the same label."""
    import numpy as np

    off = float(np.abs(found - wanted).max() / wanted.std())
    return {"off": off, "agree": float((found.argmax(1) == wanted.argmax(1)).mean())}


def require_cuda() -> None:
    """SystemExit where PyTorch does not see the GPU that the driver shows."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} does not see the GPU; install its build for CUDA")


def capability() -> tuple[int, int] | None:
    """The GPU's compute capability; None where there is no GPU."""
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def versions() -> str:
    from importlib import metadata

    names = ("torch", "transformers", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13-bindings")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def page(found: list[Check], gpu: str | None, packages: str) -> str:
    """The table for docs/tensorrt.md."""
    lines = [
        f"`benchmarks/gpu/check.sh` on {gpu or 'a machine without a GPU (dry run)'}, Python "
        f"{sys.version.split()[0]}, {packages}:",
        "",
        "| check | result | figures | seconds |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {c.what} | {c.result} | {c.figures} | {c.seconds:.0f} |" for c in found]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
