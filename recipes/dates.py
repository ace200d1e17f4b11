"""Write dates as people spell them, each with the date in ISO 8601, and an untrained T5, for recipes/dates.yaml.

    python recipes/dates.py OUT_DIR

Nothing is downloaded: train.jsonl, validation.jsonl, test.jsonl, unlabeled.jsonl and OUT_DIR/untrained, a T5 of two
layers each way with a tokenizer made from the training rows. No date is in two splits.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
from pathlib import Path

ROWS = {"test": 400, "validation": 400, "unlabeled": 1000, "train": 4000}
FORMS = (
    "{day} {month} {year}", "{month} {day}, {year}", "the {day}{th} of {month} {year}",
    "{weekday}, {day} {short} {year}", "{day:02}.{number:02}.{year}", "{short} {day}{th} {year}",
    "{day}-{short}-{year}", "{weekday} {month} {day} {year}",
)  # fmt: skip
WORDS = ("due {}", "on {}", "as of {}", "{}, at noon", "by {} at the latest", "{}")


def spelt(date: datetime.date, rng: random.Random) -> str:
    """A date in words, in one of many forms."""
    th = "th" if date.day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(date.day % 10, "th")
    text = rng.choice(FORMS).format(
        day=date.day, month=f"{date:%B}", short=f"{date:%b}", number=date.month, year=date.year,
        weekday=f"{date:%A}", th=th,
    )  # fmt: skip
    text = rng.choice(WORDS).format(text)
    return text.lower() if rng.random() < 0.3 else text


def write_model(path: Path, texts: list[str]) -> None:
    """An untrained T5 and its tokenizer: pieces of words, every digit by itself."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    special = ["<pad>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    torch.manual_seed(13)
    config = transformers.T5Config(
        vocab_size=384, d_model=64, d_kv=16, d_ff=256, num_layers=2, num_decoder_layers=2, num_heads=4,
        dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(13)
    first = datetime.date(1950, 1, 1).toordinal()
    days = rng.sample(range(first, datetime.date(2050, 1, 1).toordinal()), sum(ROWS.values()))
    texts: list[str] = []
    for name, count in ROWS.items():
        dates = [datetime.date.fromordinal(days.pop()) for _ in range(count)]
        rows = [{"text": spelt(date, rng), "target": date.isoformat()} for date in dates]
        if name == "unlabeled":
            rows = [{"text": row["text"]} for row in rows]
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(f"{out / name}.jsonl: {len(rows)} rows")
        texts = [row[key] for row in rows for key in row]  # of train in the end
    write_model(out / "untrained", texts)


if __name__ == "__main__":
    main()
