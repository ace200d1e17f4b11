"""The columns that each task reads, and what a label belongs to. Without torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

TEXT_COLUMNS = ("text", "sentence", "review", "content", "utterance")
LABEL_COLUMNS = ("label", "labels", "category", "class", "intent", "sentiment")
SOURCE_COLUMNS = ("text", "source", "input", "article", "document", "dialogue", "sentence")
TARGET_COLUMNS = ("target", "summary", "highlights", "translation", "output", "label")
GOLD_COLUMNS = ("target", "y", "gold", "gold_label")  # further names of what only labelled rows have
NUMBER_COLUMNS = ("score", "rating", "stars", "value", "similarity", "similarity_score", "label")


@dataclass(frozen=True)
class Columns:
    """What a task reads: the usual names of its columns, and whether a label belongs to the text or to each word."""

    text: tuple[str, ...] = TEXT_COLUMNS
    label: tuple[str, ...] = LABEL_COLUMNS
    of_words: bool = False
    second: tuple[str, ...] = ()  # of the text that makes a row of two
    several: bool = False  # labels a row: a list of them, or a cell with semicolons between them
    number: bool = False  # instead of a label
    answers: bool = False  # parts of the second text, which answer the first
    images: bool = False  # instead of a text
    partner: tuple[str, ...] = ()  # of a text that belongs to it: the two are read each by itself
    written: bool = False  # a text of its own instead of a label
    own: bool = False  # a row has no label: each of its tokens is judged by those before it

    @property
    def named(self) -> bool:
        """Labels are names, of which there are so many."""
        return not (self.number or self.answers or self.written)


TEXT = Columns()
PAIRS = Columns(
    ("text", "sentence1", "question1", "premise", "question", "text1"),
    second=("text_pair", "sentence2", "question2", "hypothesis", "answer", "text2", "sentence"),
)
SECOND = ("text_pair", "sentence2", "question2", "hypothesis", "text2")  # names that only a second text has
LABELS = Columns(label=("labels", *LABEL_COLUMNS), several=True)
NUMBERS = Columns(label=NUMBER_COLUMNS, number=True)
PAIR_NUMBERS = replace(PAIRS, label=NUMBER_COLUMNS, number=True)
QUESTIONS = Columns(
    ("question", "text"), ("answers", "answer"), second=("context", "passage", "paragraph", "text_pair"), answers=True
)
IMAGES = Columns(("image", "path", "file", "file_name", "image_path"), images=True)
SIMILAR = Columns(
    ("text", "sentence1", "question1", "premise", "query", "anchor", "question", "text1", *TEXT_COLUMNS[1:]),
    NUMBER_COLUMNS,
    partner=(
        "text_pair", "sentence2", "question2", "hypothesis", "passage", "positive", "document", "answer", "context",
        "text2",
    ),
)  # fmt: skip
TEXTS = Columns(SOURCE_COLUMNS, TARGET_COLUMNS, written=True)
PROSE = Columns(label=(), own=True)
WORDS = Columns(("tokens", "words", *TEXT_COLUMNS), ("tags", "ner_tags", "labels"), of_words=True)
