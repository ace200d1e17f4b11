"""Text preprocessing with numpy and `tokenizers`: token ids, padding, and batches of tokens or pixels.

The same file runs in training, in measuring and inside the bundle (it is copied there as it stands), so what was
measured is what is served. It imports nothing of ours but its sibling `images`, where there are images.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

PAIR = "\x1e"  # between two texts that are read as one row: the record separator, which no text holds
MARK = 1 << 30  # added to the number of the separator between two texts where the second one holds more of them
MARKED = "separator_marked"  # the key of an artefact's details that says that its graph knows that
PIXELS = "pixel_values"  # the one input of a model that sees images
INPUTS = ("input_ids", "attention_mask", PIXELS)  # what a model of either kind takes
Batch = dict[str, np.ndarray]  # a model's inputs by name, (rows, ...)


def is_text(value: str) -> bool:
    """False for a string that UTF-8 cannot write, which no tokenizer takes, and for one that would be read as two."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return PAIR not in value


class RowError(ValueError):
    """A row that the preprocessor cannot read: an image that is broken, too large, or none."""


@dataclass(frozen=True)
class Words:
    """The words of a text, which blanks part: where each stands in it, and its first token (-1: it has none, or it was
    truncated)."""

    spans: list[tuple[int, int]]  # characters, the end not included
    first: list[int]
    tokens: int  # of the whole text, special tokens included


class Preprocessor:
    """A tokenizer.json with one length policy: truncate to `max_length` tokens, on the side that the file names, pad to
    the longest row of the batch. `text`: what the file would say with the settings beside it. `marks`: the model that
    the rows are for knows MARK."""

    unit = "tokens"  # what a row is made of
    settled: str | None = None
    side = "right"
    _boundary: tuple[int, int] | None = None

    def __init__(
        self, tokenizer_json: Path, max_length: int, pad_id: int, text: str | None = None, *, marks: bool = False
    ) -> None:
        from tokenizers import Tokenizer  # not there, where a bundle sees images

        self.settled = text
        self.tokenizer = Tokenizer.from_file(str(tokenizer_json)) if text is None else Tokenizer.from_str(text)
        self.side = (self.tokenizer.truncation or {}).get("direction", "right")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length, direction=self.side)
        self._boundary = boundary(self.tokenizer.encode("a", "b")) if marks else None
        self.max_length = max_length
        self.pad_id = pad_id
        self._lock = Lock()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text (or of two with PAIR between them), special tokens included, at most `max_length`
        long: of two texts the longer one is truncated.
        """
        return [self._marked(row) for row in self.tokenizer.encode_batch([parts_of(text) for text in texts])]

    def _marked(self, encoding: Encoding) -> list[int]:
        ids = encoding.ids
        if self._boundary is None or 1 not in encoding.type_ids:
            return ids
        separator, after = self._boundary
        second = encoding.type_ids.index(1)
        if ids[second:].count(separator) != after and ids[second - 1] == separator:
            ids[second - 1] += MARK
        return ids

    @property
    def marks(self) -> bool:
        """Its rows may have MARK in them."""
        return self._boundary is not None

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def prompts(self, texts: Sequence[str], most: int | None = None) -> list[list[int]]:
        """Token ids of texts that are to be continued: of a long one the last `max_length` tokens, or `most`."""
        cut = min(most or self.max_length, self.max_length)
        with self._lock:  # two threads may ask for different lengths
            self._from_the_end.enable_truncation(cut, direction="left")
            return [encoding.ids for encoding in self._from_the_end.encode_batch(list(texts))]

    @cached_property
    def _from_the_end(self) -> Tokenizer:
        return type(self.tokenizer).from_str(self.tokenizer.to_str())

    def words(self, texts: Sequence[str], around: str = "") -> list[Words]:
        """Which token each word of each text begins with: what word-aligned labels are read from and written to.

        As `word_ids` of the tokenizers library gives it for texts that are parted into words already: a token that is a
        blank alone belongs to the word behind it. A token of the characters `around` alone does not begin a word that
        has others: "(New" begins at "New".
        """
        return [self._words(text, encoding, around) for text, encoding in self._encoded(texts)]

    def _encoded(self, texts: Sequence[str]) -> list[tuple[str, Encoding]]:
        return list(zip(texts, self.tokenizer.encode_batch(list(texts)), strict=True))

    def _words(self, text: str, encoding: Encoding, around: str) -> Words:
        spans = [match.span() for match in re.finditer(r"\S+", text)]
        begins, first = [start for start, _ in spans], [-1] * len(spans)
        blank = -1  # a token that is a blank alone, before a word that has not begun
        for place, (start, end) in enumerate(encoding.offsets):
            if encoding.special_tokens_mask[place]:
                continue
            while start < end and text[start].isspace():  # some tokenizers keep the blank with the word
                start += 1
            if start == end and self._is_blank(encoding.tokens[place]):
                blank = place
                continue
            word = bisect_right(begins, start) - 1
            if start < end and word >= 0 and first[word] < 0:
                inside = not text[slice(*spans[word])].strip(around)  # nothing but such characters: they are the word
                if text[start:end].strip(around) or inside:
                    first[word] = blank if blank >= 0 and start == begins[word] else place
            blank = -1
        behind = bisect_right(begins, encoding.offsets[blank][1] - 1) if blank >= 0 else len(spans)
        if behind < len(spans) and first[behind] < 0 and text[begins[behind]] not in around:
            first[behind] = blank  # the rest of the word was truncated
        return Words(spans, first, len(encoding.ids))

    def _is_blank(self, token: str) -> bool:
        """A blank as SentencePiece or a byte-level tokenizer writes it."""
        return not token.strip("Ġ▁ ")

    def places(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Of two texts with PAIR between them, where each token of both stands in the second: (tokens, 2) int64,
        characters, the end not included; -1 for tokens that are not of it."""
        found = []
        for encoding in self.tokenizer.encode_batch([parts_of(text) for text in texts]):
            of_second = np.array([part == 1 for part in encoding.sequence_ids], dtype=bool)
            places = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            found.append(np.where(of_second[:, None] & (places[:, :1] < places[:, 1:]), places, -1))
        return found

    def pad(self, rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """`collate` of rows of ids with this tokenizer's padding."""
        return collate(rows, self.pad_id)

    @property
    def example(self) -> str:
        """An ordinary row."""
        return "an ordinary sentence, as long as most of them are"

    def random_rows(self, count: int, vocabulary: int | None = None) -> list:
        """Rows without meaning, of up to 48 tokens, the same ones each time. `vocabulary`: of the model, where it has
        fewer tokens than the tokenizer."""
        random = np.random.default_rng(0)
        known = self.tokenizer.get_vocab_size()
        known = min(known, vocabulary or known)
        lengths = random.integers(4, min(48, self.max_length) + 1, size=count)
        return [random.integers(min(1000, known // 2), known, size=n).tolist() for n in lengths]

    def write(self, folder: Path) -> None:
        """Complete the file beside an artefact: the settings that lay beside a tokenizer.json are written into it."""
        if self.settled is not None:
            (folder / "tokenizer.json").write_text(self.settled, encoding="utf-8")

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of one row that do not change: none of a text, (channels, height, width) of an image."""
        return ()

    def small(self, text: str) -> str:
        """The row for keeping: a text as it is, an image no larger than the model sees it."""
        return text


def boundary(example: Encoding) -> tuple[int, int] | None:
    """Of a row of two texts: the token that parts them, and how many of it come behind that one; None where the
    tokenizer gives both texts one type."""
    if 1 not in example.type_ids[1:]:
        return None
    second = example.type_ids.index(1)
    return example.ids[second - 1], example.ids[second:].count(example.ids[second - 1])


def reader_file(inputs: Sequence[str]) -> str:
    """Name of the file that says how rows become these inputs."""
    return "preprocessor_config.json" if PIXELS in inputs else "tokenizer.json"


def parts_of(text: str) -> str | tuple[str, str]:
    """A text as the tokenizer takes it: itself, or two."""
    first, pair, second = text.partition(PAIR)
    return (first, second) if pair else text


def collate(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, np.ndarray]:
    """Token ids of uneven length -> input_ids and attention_mask, both (rows, longest) int64.

    Images, each (1, channels, height, width) float32 -> pixel_values, (rows, channels, height, width).
    """
    if isinstance(rows[0], np.ndarray):
        return {PIXELS: np.concatenate(rows)}
    longest = max(len(row) for row in rows)
    input_ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        input_ids[i, : len(row)] = row
        attention_mask[i, : len(row)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def by_length(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[np.ndarray]:
    """Row numbers in batches of similar length, so that little is padding; the order depends on the rows alone."""
    order = np.argsort([len(row) for row in rows], kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def batches_of(
    rows: Sequence[Sequence[int]], pad_id: int, batch_size: int = 32, tokens: int = 4096
) -> list[dict[str, np.ndarray]]:
    """All rows as model inputs, in batches of similar length, at most `tokens` with their padding (one row always)."""
    found = []
    for batch in by_length(rows, batch_size):
        size = max(1, tokens // max(1, len(rows[batch[-1]])))  # the last one is the longest
        found += [
            collate([rows[i] for i in batch[start : start + size]], pad_id) for start in range(0, len(batch), size)
        ]
    return found


def run_rows(
    session: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    rows: Sequence[Sequence[int]],
    pad_id: int,
    output: str,
    batch_size: int = 16,
    calls: int = 1,
) -> np.ndarray:
    """One model output for every row, in the rows' order: (rows, labels) float32; token ids stay int64.

    A model that answers for every token gives (tokens of all rows, labels), none of the padding; `per_row` parts them
    again. Always the same batches for the same rows: a dynamically quantised model answers a little
    differently in other company, and a metric that is checked again elsewhere has to be the same number. `calls`: at
    once, of a session that several threads may call.
    """
    found: list[np.ndarray] = [np.empty(0)] * len(rows)

    def run(batch: np.ndarray) -> None:
        part = np.asarray(session(collate([rows[i] for i in batch], pad_id))[output])
        part = part if part.dtype.kind == "i" else part.astype(np.float32)
        for i, answer in zip(batch, part, strict=True):
            found[i] = answer[: len(rows[i])] if answer.ndim > 1 else answer[None]

    batches = by_length(rows, batch_size)
    with ThreadPoolExecutor(calls) as pool:
        list((pool.map if calls > 1 else map)(run, batches))
    if not found:
        raise ValueError("no rows to run")
    return np.concatenate(found)


def per_row(outputs: np.ndarray, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """The answers of `run_rows` for each row: (labels,), or (tokens, labels) where every token has an answer."""
    if len(outputs) == len(rows):
        return list(outputs)
    return np.split(outputs, np.cumsum([len(row) for row in rows])[:-1])
