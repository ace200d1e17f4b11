"""Tiny models and data made on the spot; session-scoped, so read them and never write to them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    # Before torch: a core for each worker. Threads of two workers on the same cores wait for each other, spinning.
    mine = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {mine[int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) % len(mine)]})

os.environ["PAREDOWN_PROGRESS"] = "json"  # tests read the events, in CI or not

import torch
import transformers
from filelock import FileLock
from same_process import SameProcess
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from paredown.benchmarks.measuring import interleaved
from paredown.benchmarks.measuring import system_monitor as conditions
from paredown.benchmarks.measuring.latency import LatencySettings
from paredown.compress.config import Finetune
from paredown.compress.data import dataset
from paredown.compress.models import inference
from paredown.compress.models.architectures import FAMILIES
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.training import trainer as train
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData
from paredown.pipeline.cli import main as cli
from paredown.pipeline.steps import latency_table
from paredown.tasks.base import Task
from paredown.tasks.registry import TASKS

TASK, IMAGES, PROSE = (TASKS[name] for name in ("text-classification", "image-classification", "text-generation"))
GOOD = ["good", "fine", "lovely", "brilliant", "moving", "sharp"]
BAD = ["bad", "dull", "awful", "boring", "weak", "empty"]
FILLER = ["the", "a", "film", "plot", "actor", "scene", "and", "was", "is", "very", "quite", "with", "of", "in"]
LABELS = ("negative", "positive")


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Sentences of 4 to 14 words whose label is that of the majority of their telling words."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        label = i % 2
        telling = rng.choices((BAD, GOOD)[label], k=2) + rng.choices((GOOD, BAD)[label], k=rng.randrange(2))
        words = telling + rng.choices(FILLER, k=rng.randrange(2, 12))
        rng.shuffle(words)
        rows.append((" ".join(words), LABELS[label]))
    return rows


def drawn_apart(
    make: Callable[[int, int], list], parts: Mapping[str, tuple[int, int]], text: Callable[[Any], str] = str
) -> dict[str, list]:
    """`make(count, seed)` for each part, without the rows whose `text` stands in an earlier one."""
    found: dict[str, list] = {}
    seen: set[str] = set()
    for name, (count, seed) in parts.items():
        found[name] = [row for row in make(6 * count, seed) if text(row) not in seen][:count]
        assert len(found[name]) == count
        seen |= {text(row) for row in found[name]}
    return found


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def write_tokenizer(path: Path) -> int:
    """A word-level tokenizer in BERT's layout; returns its vocabulary size."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *FILLER]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    return len(words)


def make_checkpoint(path: Path, kind: str = "bert", layers: int = 3, seed: int = 0) -> Checkpoint:
    """An untrained checkpoint of a family, as transformers saves it, with a tokenizer beside."""
    path.mkdir(parents=True, exist_ok=True)
    if kind == "vit":
        return _make_vit(path, layers, seed)
    if FAMILIES[kind].decoder:
        return _make_decoder(path, kind, layers, seed)
    vocabulary = write_tokenizer(path)
    torch.manual_seed(seed)
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    common = {"vocab_size": vocabulary, "max_position_embeddings": 64, "pad_token_id": 0, **names}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": layers, "n_heads": 4, "hidden_dim": 64}
    elif kind == "deberta-v2":
        sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 64}
        sizes |= {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"]}
        sizes |= {"type_vocab_size": 0, "share_att_key": False}
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 64}
        if kind == "electra":
            sizes["embedding_size"] = 32
        if kind == "modernbert":
            common |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
            sizes |= {"global_attn_every_n_layers": 2, "local_attention": 8}
    config = transformers.AutoConfig.for_model(kind, **common, **sizes)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(path)
    return open_checkpoint(path, TASK)


def _make_vit(path: Path, layers: int, seed: int) -> Checkpoint:
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=64, image_size=16,
        patch_size=8, id2label=dict(enumerate(LABELS)), label2id={name: i for i, name in enumerate(LABELS)},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(path)
    write_preprocessor(path, 16)
    return open_checkpoint(path, IMAGES)


def write_preprocessor(path: Path, size: int) -> None:
    """What transformers saves for a ViT that takes images of this size."""
    known = {"do_resize": True, "size": {"height": size, "width": size}, "resample": 2, "do_normalize": True,
             "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "ViTImageProcessor"}  # fmt: skip
    (path / "preprocessor_config.json").write_text(json.dumps(known))


def _make_decoder(path: Path, kind: str, layers: int, seed: int) -> Checkpoint:
    """Its tokenizer puts [CLS] before a text and [SEP], which ends it, behind; tied embeddings."""
    vocabulary = write_tokenizer(path)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.save(str(path / "tokenizer.json"))
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 64}
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": layers, "n_head": 4, "n_inner": 64, "n_positions": 64}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(kind, vocab_size=vocabulary, tie_word_embeddings=True, **ends, **sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return open_checkpoint(path, PROSE)


def example_inputs(kind: str, rows: int = 2) -> dict[str, torch.Tensor]:
    """Inputs that every tiny model of a family takes."""
    if kind == "vit":
        return {"pixel_values": torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    ids = torch.tensor([[2, 5, 11, 20, 3]] * rows)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def task_of(kind: str) -> Task:
    return IMAGES if kind == "vit" else PROSE if FAMILIES[kind].decoder else TASK


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """train, validation and test CSV files and unlabelled JSONL."""
    path = tmp_path_factory.mktemp("data")
    found = {
        name: write_csv(path / f"{name}.csv", sentences(count, seed))
        for name, count, seed in (("train", 400, 1), ("validation", 200, 2), ("test", 200, 3))
    }
    found["unlabeled"] = path / "unlabeled.jsonl"
    found["unlabeled"].write_text("".join(f'{{"text": "{text}"}}\n' for text, _ in sentences(100, 4)))
    return found


@pytest.fixture(autouse=True)
def as_without_a_server() -> None:
    """A server that a test starts in this process takes the log records of the package for itself, and a tracker's
    database disables every logger that it does not know."""
    logger = logging.getLogger("paredown")
    logger.handlers, logger.propagate, logger.disabled = [], True, False
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, untrained: Checkpoint, files: dict[str, Path]) -> Checkpoint:
    """A tiny BERT that has learned the task: right on nearly every row."""
    rows = dataset.read(str(files["train"]), names=LABELS)
    model = load(untrained, TASK)
    ids = dataset.encode(untrained.encoder(), rows)
    settings = Finetune(epochs=8, learning_rate=5e-3, freeze_embeddings=False)
    finetune(model, TrainingData(ids, rows.gold), settings, seed=0)
    return save(model, untrained, tmp_path_factory.mktemp("teacher") / "teacher")


@pytest.fixture
def copy_of_teacher(teacher: Checkpoint, tmp_path: Path) -> Path:
    """The teacher's directory, to be damaged."""
    return shutil.copytree(teacher.path, tmp_path / "checkpoint")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One file that needs the finished run, then those that do not, then the others: one worker makes it for both."""
    need = list(dict.fromkeys(i.path for i in items if "finished" in getattr(i, "fixturenames", ())))
    first = need[-1:]  # tests/test_readme.py, the longest
    items.sort(key=lambda i: 0 if i.path in first else 1 + (i.path in need))


@pytest.fixture(scope="session", autouse=True)
def quick_tables() -> Iterator[None]:
    """Latency tables from a few calls, and the load measured briefly: what is tested is how they are made and used."""
    few = LatencySettings(processes=1, rounds=2, min_seconds=0.1, min_repeats=24)
    quick = mock.patch.multiple(latency_table, SETTINGS=few, PAIR=few, PROMISE=few, TRIES=1)
    with quick, mock.patch.object(conditions, "SAMPLE_S", 0.1):
        yield


@pytest.fixture(scope="session", autouse=True)
def one_arithmetic() -> Iterator[None]:
    """Training in float32 also where bf16 is fast: the tiny models are the same on every machine."""
    training = mock.patch.object(train, "fast_bf16", return_value=False)
    with training, mock.patch.object(inference, "has_amx", return_value=False):
        yield


@pytest.fixture(scope="module")
def same_process() -> Iterator[None]:
    """Latency is measured in this process in all tests of a module that asks for it, where times do not matter: a fresh
    process for every artefact imports a runtime for seconds each time."""
    with mock.patch.object(interleaved, "Worker", SameProcess):
        yield


def paredown(*args: object, cwd: Path | None = None, env: dict | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, in this process: a new one imports torch and transformers for six seconds each time."""
    command, code = ["paredown", *map(str, args)], 0
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ, env or {}),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        try:
            cli.main()
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 0
        except Exception:
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(command, code, stdout.getvalue(), stderr.getvalue())


IN_FLOAT32 = """
from paredown.compress.training import trainer
from paredown.pipeline.cli.main import main
trainer.fast_bf16 = lambda: False
main()
"""


def paredown_alone(*args: object, cwd: Path | None = None, env: dict | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, where that matters; it trains in float32 too (`one_arithmetic`)."""
    command = [sys.executable, "-c", IN_FLOAT32, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, check=False)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, one line, no traceback, and the words in it."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], lines[0]


RECIPE = """
name: tiny
checkpoint: {checkpoint}
data: {{train: {train}, validation: {validation}, test: {test}, unlabeled: {unlabeled}}}
max_length: 32
calibration_rows: 32
models:
  - name: distil-1
    steps:
      - distill: {{layers: 1, epochs: 2, learning_rate: 0.005}}
      - trim: {{frequent: 0}}
{static}targets:
  - {{runtime: onnxruntime}}
  - {{runtime: onnxruntime, precision: int8-dynamic}}
  - {{runtime: openvino}}
  - {{runtime: openvino, precision: bf16}}
  - {{runtime: openvino, precision: int8-static}}
latency: {{threads: 1, processes: 3, rounds: 2, min_seconds: 0.05, min_repeats: 20, batch_size: 4}}
choose: {{max_drop: 5, budgets: {{size_mb: 0.2}}}}  # two turns tie with nearly everything; OpenVINO is larger
"""


STATIC = """  - name: static
    steps:
      - static: {epochs: 8, width: 8, pairs: 64, learning_rate: 0.02}
      - trim: {frequent: 0}
  - name: both
    cascade: {first: static, then: distil-1, max_drop: 1}
"""
OPENVINO = """  - {runtime: openvino}
  - {runtime: openvino, precision: bf16}
  - {runtime: openvino, precision: int8-static}
"""
# Two models in two targets, timed once, are enough where the candidates are not the point.
SMALL = {STATIC: "", OPENVINO: "", "processes: 3": "processes: 1"}


def write_recipe(path: Path, teacher: Checkpoint, files: dict[str, Path], **changes: str) -> Path:
    """The tiny recipe; `changes` replace text in it."""
    text = RECIPE.format(checkpoint=teacher.path, static=STATIC, **files)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher: Checkpoint, files: dict[str, Path]) -> Path:
    """A finished run directory of the tiny recipe, every runtime and precision in it; `recipe.yaml` lies beside it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # whichever worker comes first makes it for all of them
        base = base.parent
    path = base / "finished"
    path.mkdir(exist_ok=True)
    with FileLock(path / ".lock"):
        if not (path / "done").exists():
            explained = {"calibration_rows: 32\n": "calibration_rows: 32\nexplain_rows: 6\n"}
            recipe = write_recipe(path / "recipe.yaml", teacher, files, **explained)
            done = paredown_alone("run", recipe, "--output-dir", path / "run")
            assert done.returncode == 0, done.stderr
            (path / "done").touch()
    return path / "run"
