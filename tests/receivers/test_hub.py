"""The Hub layout, opened by its receivers from a local directory without network: they answer as the golden rows say.

`make receivers` installs them below build/receivers; without it these tests are skipped.
"""

import csv
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundling import bundled
from conftest import paredown
from examples import EXAMPLES

from paredown.compress.models.loading import open_checkpoint
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.predictor import Predictor
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.preprocessor import PAIR
from paredown.tasks.registry import TASKS

ROOT = Path(__file__).resolve().parents[2]
INSTALLED, HERE = ROOT / "build" / "receivers", Path(__file__).parent
DEMO, ROWS = ROOT / "runs" / "demo" / "bundle", ROOT / "build" / "demo" / "test.csv"
TEXTS = ["a good film", "the plot was dull and the actor was very weak", "of"]
PAIRS = [f"good{PAIR}the plot was good and sharp", f"the film{PAIR}a dull scene"]
# Task, precision: the class of a model without its prefix, ORTModel or AutoModel.
CLASSES = {
    ("text-classification", "fp32"): "ForSequenceClassification",
    ("text-classification", "fp16"): "ForSequenceClassification",
    ("text-pair-classification", "int8-dynamic"): "ForSequenceClassification",
    ("multi-label-classification", "int8-static"): "ForSequenceClassification",
    ("token-classification", "int8-dynamic"): "ForTokenClassification",
    ("question-answering", "int8-dynamic"): "ForQuestionAnswering",
}
PROBLEMS = {"multi-label-classification": "multi_label_classification"}  # that an untrained config does not name
pytestmark = pytest.mark.skipif(not (INSTALLED / ".installed").exists(), reason="no receivers here: make receivers")


def made(task: str, precision: str, path: Path, texts: list[str]) -> tuple[Path, Path]:
    """A tiny bundle and its Hub layout."""
    EXAMPLES[task].checkpoint(path / "checkpoint")
    if task in PROBLEMS:
        config = json.loads((path / "checkpoint" / "config.json").read_text())
        (path / "checkpoint" / "config.json").write_text(json.dumps(config | {"problem_type": PROBLEMS[task]}))
    checkpoint = open_checkpoint(path / "checkpoint", TASKS[task]).for_task(TASKS[task])
    plain = plain_onnx(checkpoint, TASKS[task], path / "plain.onnx")
    encoder = checkpoint.encoder()
    rows = [encoder.pad(encoder.ids([text])) for text in texts] if precision.startswith("int8") else ()
    job = ExportJob(plain, checkpoint, TASKS[task], path / "made", 32, precision=precision, calibration=rows)
    bundle = bundled(RUNTIMES["onnxruntime"].export(job), path / "bundle", texts)
    return bundle, laid_out(bundle, path / "hub")


def laid_out(bundle: Path, out: Path) -> Path:
    done = paredown("pack", bundle, "--layout", "hub", "--output-dir", out)
    assert done.returncode == 0, done.stderr
    return out


def golden(bundle: Path) -> tuple[list[dict], float]:
    found = json.loads((bundle / "golden.json").read_text())
    return found["rows"], found["tolerance"]["onnxruntime"]


def ask(command: list[object], directory: Path, texts: list[str], **more: object) -> list[Any]:
    told = {"directory": str(directory), "texts": [text.split(PAIR) for text in texts], **more}
    done = subprocess.run(
        list(map(str, command)), input=json.dumps(told), capture_output=True, text=True, cwd=INSTALLED, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def node(directory: Path, texts: list[str], **more: object) -> list[Any]:
    script = shutil.copy(HERE / "ask.mjs", INSTALLED)  # beside node_modules, where its imports are searched for
    return ask(["node", script], directory, texts, **more)


def python(directory: Path, texts: list[str], *asked: dict) -> list[Any]:
    """The answers of each receiver that is asked, in one process: importing torch takes longer than all of them."""
    return ask([INSTALLED / "python" / "bin" / "python", HERE / "ask.py"], directory, texts, asked=asked)


@pytest.mark.parametrize(("task", "precision"), CLASSES)
def test_transformers_js_and_optimum_give_the_golden_outputs(task: str, precision: str, tmp_path: Path) -> None:
    texts = PAIRS if "pair" in task or task == "question-answering" else TEXTS
    bundle, hub = made(task, precision, tmp_path, texts)
    rows, tolerance = golden(bundle)
    name = CLASSES[task, precision]
    for found in (
        node(hub, texts, model=f"AutoModel{name}"),
        *python(hub, texts, {"receiver": "optimum", "model": f"ORTModel{name}"}),
    ):
        for outputs, row in zip(found, rows, strict=True):
            ends = [outputs[key] for key in ("start_logits", "end_logits") if key in outputs]
            got = np.stack(ends, axis=-1) if ends else outputs["logits"]
            np.testing.assert_allclose(got, row["output"], atol=tolerance)


@pytest.mark.parametrize(("precision", "file"), [("fp32", "model"), ("int8-dynamic", "model_quantized")])
def test_every_receiver_of_vectors_gives_the_golden_ones(precision: str, file: str, tmp_path: Path) -> None:
    bundle, hub = made("sentence-embedding", precision, tmp_path, TEXTS)
    rows, tolerance = golden(bundle)
    want = np.array([row["output"] for row in rows])
    pooled = {"pooling": "mean", "normalize": True}
    sentences, finished, of_tokens, optimum = python(
        hub,
        TEXTS,
        {"receiver": "sentence_transformers", "file": f"onnx/{file}.onnx"},
        {"receiver": "fastembed", "pooling": "DISABLED", "width": 32},
        {"receiver": "fastembed", "pooling": "MEAN", "width": 32},
        {"receiver": "optimum", "model": "ORTModelForFeatureExtraction"},
    )
    found = {
        "transformers.js": node(hub, TEXTS, pipeline="feature-extraction", options=pooled),
        "sentence-transformers": sentences,
        "fastembed": finished,
        "fastembed, of tokens": of_tokens,
    }
    for receiver, vectors in found.items():
        np.testing.assert_allclose(np.array(vectors).reshape(want.shape), want, atol=tolerance, err_msg=receiver)
    assert [np.shape(row["last_hidden_state"])[1] for row in optimum] == [32] * len(TEXTS)


@pytest.mark.skipif(not (DEMO.exists() and ROWS.exists()), reason="no run of the demo here: make demo")
def test_the_demo_gives_the_same_labels_in_node(tmp_path: Path) -> None:
    with ROWS.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row, _ in zip(csv.DictReader(file), range(100), strict=False)]
    ours = [answer for text in texts for answer in Predictor(DEMO)([text])]
    theirs = node(laid_out(DEMO, tmp_path / "hub"), texts, pipeline="text-classification")
    assert [answer["label"] for (answer,) in theirs] == [answer["label"] for answer in ours]
    np.testing.assert_allclose([a["score"] for (a,) in theirs], [a["score"] for a in ours], atol=1e-3)
