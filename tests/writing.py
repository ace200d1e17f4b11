"""Tiny text-to-text models, and rows for them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
import transformers
from conftest import BAD, FILLER, GOOD
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from paredown.compress.models.loading import Checkpoint, open_checkpoint
from paredown.tasks.registry import TASKS

TASK = TASKS["text-to-text"]
SPECIAL = ["<pad>", "</s>", "<unk>"]


def write_tokenizer(path: Path) -> int:
    """A word-level tokenizer that ends each text as T5's does; returns its vocabulary size."""
    words = [*SPECIAL, *GOOD, *BAD, *FILLER]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(path / "tokenizer.json"))
    return len(words)


def make_writer(path: Path, kind: str = "t5", spread: float | None = None) -> Checkpoint:
    """An untrained checkpoint as transformers saves it; `spread`: of its weights, so that answers differ."""
    path.mkdir(parents=True)
    common = {
        "vocab_size": write_tokenizer(path), "d_model": 32, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }  # fmt: skip
    if kind == "marian":
        sizes = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
        sizes |= {"forced_eos_token_id": None}
    else:
        sizes = {"d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    torch.manual_seed(0)
    model = transformers.AutoModelForSeq2SeqLM.from_config(transformers.AutoConfig.for_model(kind, **common, **sizes))
    if spread is not None:
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(0, spread)
    model.save_pretrained(path)
    return open_checkpoint(path, TASK)


def rows(count: int, seed: int) -> list[dict]:
    """Which of the words are good? As many as there are, in their order, and "film" behind them."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        words = rng.choices(GOOD, k=rng.randrange(1, 3)) + rng.choices([*BAD, *FILLER], k=rng.randrange(1, 4))
        rng.shuffle(words)
        target = [word for word in words if word in GOOD]
        found.append({"text": " ".join(words), "target": " ".join([*target, "film"])})
    return found


def write_rows(path: Path, made: list[dict], labelled: bool = True) -> Path:
    lines = [row if labelled else {"text": row["text"]} for row in made]
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    return path
