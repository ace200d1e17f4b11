"""For every task a tiny untrained checkpoint and files of rows, both made in a moment; `EXAMPLES` has them by name."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import picturing
import prose
import tagging
import torch
import transformers
import writing
from conftest import BAD, FILLER, GOOD, LABELS, drawn_apart, make_checkpoint, sentences, write_tokenizer

SPLITS = {"train": (48, 1), "validation": (24, 2), "test": (24, 3)}  # rows, seed
POOLING = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


@dataclass(frozen=True)
class Example:
    """`checkpoint(path)` writes an untrained model; `rows(count, seed)` draws rows, each a line of a JSONL file."""

    checkpoint: Callable[[Path], object]
    rows: Callable[[int, int], list[dict]]
    said: tuple[str, ...]  # fields of an answer, the same from `predict` and from a server
    metric: str = ""  # where it depends on the rows, not on the task alone
    recipe: str = ""  # further lines
    asked: tuple[str, ...] = ("text",)  # what a request has

    def files(self, path: Path) -> None:
        """train.jsonl, validation.jsonl and test.jsonl; no row is in two of them."""
        made = drawn_apart(self.rows, SPLITS, lambda row: str([*row.values()][:2]))
        for name, lines in made.items():
            (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))

    def request(self, path: Path, *, served: bool = False) -> dict[str, str]:
        """A row to ask about, by the names that `predict` and /predict have for its columns. An image is a file beside
        the rows, or, `served`, its bytes in base64."""
        if self.asked != ("image",):
            return dict(zip(self.asked, ("good film", "the dull plot and a sharp film"), strict=False))
        uri = self.rows(1, 1)[0]["image"]
        if served:
            return {"image": uri}
        file = path / "asked.png"
        file.write_bytes(base64.b64decode(uri.partition(",")[2]))
        return {"image": str(file)}


def bert(path: Path, head: str = "SequenceClassification", labels: Sequence[str] = (), *, types: bool = True) -> None:
    """An untrained BERT of two layers. `types`: the embeddings of the two token types differ much."""
    path.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    config = transformers.BertConfig(
        vocab_size=write_tokenizer(path), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0, **(names if labels else {}),
    )  # fmt: skip
    model = getattr(transformers, f"Bert{'For' if head else 'Model'}{head}")(config)
    if types:
        (model.bert if head else model).embeddings.token_type_embeddings.weight.data.normal_(0, 0.5)
    model.save_pretrained(path)


def sentence_transformer(path: Path, *, types: bool = True) -> None:
    """An untrained encoder of sentences, in the layout of sentence-transformers."""
    bert(path, "", types=types)
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps(POOLING))
    names = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{name}", "path": where} for name, where in names.items()]
    (path / "modules.json").write_text(json.dumps(modules))


def labelled(count: int, seed: int) -> list[dict]:
    return [{"text": text, "label": label} for text, label in sentences(count, seed)]


def labelled_pairs(count: int, seed: int) -> list[dict]:
    """The second sentence decides, and the first one only distracts: nobody can tell without knowing which is which."""
    rng, found = random.Random(seed), []
    for i in range(count):
        words = (BAD, GOOD)[i % 2], (BAD, GOOD)[rng.randrange(2)]
        second, first = ([*rng.choices(FILLER, k=rng.randrange(1, 6)), rng.choice(kind)] for kind in words)
        found.append({"text": " ".join(first), "text_pair": " ".join(second), "label": LABELS[i % 2]})
    return found


def several_labels(count: int, seed: int) -> list[dict]:
    """Each label, or none, with two words of its own."""
    telling = {"blame": BAD[:2], "praise": GOOD[:2], "question": ["is", "was"]}
    rng, found = random.Random(seed), []
    for _ in range(count):
        labels = [name for name in telling if rng.randrange(2)]
        words = [word for name in labels for word in rng.choices(telling[name], k=2)]
        words += rng.choices([word for word in FILLER if word not in telling["question"]], k=2)
        found.append({"text": " ".join(rng.sample(words, len(words))), "labels": labels})
    return found


def numbers(count: int, seed: int) -> list[dict]:
    """A thousand for nothing said, 200 up for each good word, 200 down for each bad one."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        good, bad = rng.randrange(4), rng.randrange(4)
        words = rng.choices(GOOD[:3], k=good) + rng.choices(BAD[:3], k=bad) + rng.choices(FILLER, k=3)
        found.append({"text": " ".join(rng.sample(words, len(words))), "score": 1000 + 200 * (good - bad)})
    return found


def numbered_pairs(count: int, seed: int) -> list[dict]:
    """How many of the good words are in both?"""
    rng, found = random.Random(seed), []
    for _ in range(count):
        first, second = (rng.sample(GOOD[:4], rng.randrange(1, 4)) for _ in range(2))
        row = {"text": " ".join([*first, rng.choice(FILLER)]), "text_pair": " ".join([*second, rng.choice(FILLER)])}
        found.append({**row, "score": len({*first} & {*second})})
    return found


def tagged(count: int, seed: int) -> list[dict]:
    return [{"tokens": words, "tags": tags} for words, tags in tagging.sentences(count, seed)]


def questions(count: int, seed: int) -> list[dict]:
    """What is good, if anything? Its words begin with a good one and end with "film"; a bad "plot" is beside it."""
    rng, found = random.Random(seed), []
    for i in range(count):
        parts = rng.choices([word for word in FILLER if word not in ("film", "plot")], k=rng.randrange(2, 7))
        parts.insert(rng.randrange(len(parts)), f"{rng.choice(BAD)} plot")
        answers = {"text": [], "answer_start": []}
        if i % 4:
            answers["text"] = [f"{rng.choice(GOOD)} film"]
            parts.insert(rng.randrange(len(parts)), answers["text"][0])
            answers["answer_start"] = [" ".join(parts).index(answers["text"][0])]
        found.append({"context": " ".join(parts), "question": "good", "answers": answers})
    return found


def passages(count: int, seed: int) -> list[dict]:
    """A question has the two telling words of its passage, which several questions may have."""
    rng, found = random.Random(seed), []
    topics = [(good, bad) for good in GOOD for bad in BAD]
    passages = {topic: " ".join([*topic, *rng.choices(FILLER, k=4)]) for topic in topics}
    for i in range(count):
        topic = rng.choice(topics)
        words = [*topic, *rng.choices(FILLER, k=rng.randrange(1, 5))]
        query = " ".join(rng.sample(words, len(words)))
        found.append({"query": query, "passage": passages[topic], "kind": ("short", "long")[i % 2]})
    return found


def texts(count: int, seed: int) -> list[dict]:
    """`prose.rows` has most texts for seed 0, and the splits begin with 1."""
    return [{"text": text} for text in dict.fromkeys(prose.rows(20 * count, seed - 1))][:count]


def images(count: int, seed: int) -> list[dict]:
    """PNG files as data URIs."""
    uri = "data:image/png;base64,"
    found = picturing.examples(count, seed)
    return [{"image": uri + base64.b64encode(raw).decode(), "label": label} for raw, label in found]


PAIR = ("text", "text_pair")
EXAMPLES = {
    "text-classification": Example(lambda path: bert(path, labels=LABELS), labelled, ("label", "score", "scores")),
    "text-pair-classification": Example(
        lambda path: bert(path, labels=LABELS), labelled_pairs, ("label", "score", "scores"), asked=PAIR
    ),
    "multi-label-classification": Example(bert, several_labels, ("labels", "scores")),
    "text-regression": Example(bert, numbers, ("value",)),
    "text-pair-regression": Example(bert, numbered_pairs, ("value",), asked=PAIR),
    "token-classification": Example(tagging.untrained, tagged, ("entities",)),
    "question-answering": Example(
        lambda path: bert(path, "QuestionAnswering"), questions, ("answer", "score", "start", "end"), asked=PAIR
    ),
    "sentence-embedding": Example(sentence_transformer, passages, ("embedding",), "MRR"),
    "text-to-text": Example(writing.make_writer, writing.rows, ("text",), recipe="max_new_tokens: 4"),
    "text-generation": Example(
        lambda path: make_checkpoint(path, "llama", 2), texts, ("text",), recipe="max_new_tokens: 4"
    ),
    "image-classification": Example(picturing.untrained, images, ("label", "score", "scores"), asked=("image",)),
}  # fmt: skip
