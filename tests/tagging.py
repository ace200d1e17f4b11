"""Tagged sentences and a tiny checkpoint that learns them: what the tests of token classification share."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from paredown.compress.config import Finetune
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.training.trainer import finetune
from paredown.compress.types import TrainingData
from paredown.tasks.registry import TASKS
from paredown.tasks.rows import Rows

TASK = TASKS["token-classification"]
PEOPLE, PLACES = ["ann", "bob", "carla", "dieter"], ["york", "paris", "oslo", "lima"]
FILLER = ["met", "in", "from", "saw", "and", "then", "went", "to"]
NAMES = ("B-person", "B-place", "I-place", "O")
PIECES = ["new", "##s", "##ly", "##ville", ".", ",", "!"]


def sentences(count: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Words and tags; some places have two words, some words two tokens."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        words, tags = [], []
        for _ in range(rng.randrange(2, 6)):
            kind = rng.randrange(5)
            if kind == 0:
                words.append(rng.choice(PEOPLE) + rng.choice(["", "s"]))
                tags.append("B-person")
            elif kind == 1:
                words.append(rng.choice(PLACES) + rng.choice(["", "ville"]))
                tags.append("B-place")
            elif kind == 2:
                words += ["new", rng.choice(PLACES)]
                tags += ["B-place", "I-place"]
            elif kind == 3:
                words += rng.choices(FILLER, k=2)
                tags += ["O", "O"]
            else:
                words += [rng.choice(FILLER) + rng.choice(["", "ly"]), rng.choice([".", ","])]
                tags += ["O", "O"]
        rows.append((words, tags))
    return rows


def write_jsonl(path: Path, rows: list[tuple[list[str], list[str]]]) -> Path:
    path.write_text("".join(json.dumps({"tokens": words, "tags": tags}) + "\n" for words, tags in rows))
    return path


def write_conll(path: Path, rows: list[tuple[list[str], list[str]]]) -> Path:
    path.write_text("\n".join("".join(f"{w}\t{t}\n" for w, t in zip(words, tags, strict=True)) for words, tags in rows))
    return path


def untrained(path: Path, layers: int = 2) -> Checkpoint:
    """A BERT with WordPiece, so that words and tokens are not the same."""
    path.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *PEOPLE, *PLACES, *FILLER, *PIECES]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, pad_token_id=0, id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )  # fmt: skip
    transformers.BertForTokenClassification(config).save_pretrained(path)
    return open_checkpoint(path, TASK)


def trained(path: Path, rows: Rows) -> Checkpoint:
    """Right on nearly every span."""
    source = untrained(path / "untrained")
    encoder = source.encoder()
    settings = Finetune(epochs=8, batch_size=16, learning_rate=5e-3, freeze_embeddings=False)
    model = finetune(
        load(source, TASK),
        TrainingData(encoder.ids(rows.texts), TASK.training_targets(rows, encoder)),
        settings,
        seed=0,
    )
    return save(model, source, path / "teacher")
