"""One small adapter per task: what a row's answer is, how it is scored, what the head is called.

Nothing else in the house knows one task from another; a new task is a new record in TASKS.
Without torch, because the bundle is scored where torch is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from paredown.compress.data import dataset as data
from paredown.compress.data.dataset import Rows
from paredown.runtime.causal_decoding import NEXT
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import PAIR, PIXELS, Encoder

from . import perturbations as noise
from . import question_answering as questions
from . import sentence_embedding as similar
from . import text_generation as continuations
from . import text_to_text as written
from . import token_classification as tags
from .classification import (
    class_scores,
    classified_right,
    explained,
    label_scores,
    labels_right,
    near,
    points,
    sigmoid,
    softmax,
    values,
)
from .columns import (
    ALIKE,
    IMAGES,
    LABELS,
    NUMBERS,
    PAIR_NUMBERS,
    PAIRS,
    PROSE,
    QUESTIONS,
    TEXT,
    TEXTS,
    WORDS,
    Columns,
)

SEVERAL = "multi_label_classification"  # `problem_type` in config.json, as transformers calls it


@dataclass(frozen=True)
class Task:
    """How one kind of model is read, scored and answered.

    `outputs` are what `run_rows` gives: (rows, labels), or (tokens of all rows, labels) when `per_token`; or token ids,
    (rows, tokens), of a model that writes.
    """

    name: str
    head: str | tuple[str, ...]  # what the architecture's class name ends in
    auto_class: str  # the transformers class that loads it
    inputs: tuple[str, ...]  # names of the model's inputs
    output: str  # name of the model output that is compared and scored
    metric_name: str
    gold: Callable[[Rows, Encoder], Any]  # what `correct` compares with
    taught: Callable[[Rows, Encoder], np.ndarray | Sequence[np.ndarray]]  # labels to train on: of rows, or of tokens
    correct: Callable[[np.ndarray, Any], np.ndarray]  # (rows,) bool; or (rows, 2): points gained, points possible
    decode: Callable[[np.ndarray, tuple[str, ...], Sequence[str], Encoder], list[dict]]  # one answer a text
    columns: Columns = TEXT
    per_token: bool = False  # the model answers for every token, not for the row
    several: bool = False  # a row may have several labels, or none: each logit is a yes or a no of its own
    beside: Callable[[np.ndarray, Any], dict[str, float]] | None = None  # further figures of the rows, by name
    text_column: str | None = None  # of the files that are read, where the user names it; None: found
    label_column: str | None = None

    @property
    def number(self) -> bool:
        """The answer is a number, the model's one output."""
        return self.columns.number

    @property
    def answer(self) -> bool:
        """The answer is a part of the second text: each output is a choice among the tokens of a row."""
        return self.columns.answers

    @property
    def vector(self) -> bool:
        """The answer is a vector of length 1, whose components the labels number."""
        return bool(self.columns.partner)

    @property
    def has_unit(self) -> bool:
        """A difference of two outputs is told in `spread`s, as that of logits is not."""
        return self.number or self.vector

    @property
    def writes(self) -> bool:
        """The answer is a text of the model's own: token ids, and a text that it is taught with."""
        return self.columns.written

    @property
    def goes_on(self) -> bool:
        """It goes on with a text: the model says of each token how likely the next one is (decode.NEXT)."""
        return self.columns.own

    @property
    def gives_text(self) -> bool:
        """The answer is made token by token: a text of the model's own, or what comes after one."""
        return self.writes or self.goes_on

    @property
    def token_by_token(self) -> bool:
        """Two models can be compared only where they cut text into the same tokens."""
        return self.per_token or self.writes

    @property
    def one_label(self) -> bool:
        """A row has exactly one label."""
        return not (self.per_token or self.several or self.has_unit or self.writes)

    def judging(self, rows: Rows | None, *others: Rows | None) -> Task:
        """This task with the metric that goes with `rows`; InputError where those of `others` have another one."""
        if not self.vector or rows is None:
            return self
        return replace(self, metric_name=similar.metric_of(rows, *others))

    def same(self, ours: np.ndarray, theirs: np.ndarray, lengths: Sequence[int] = ()) -> np.ndarray:
        """Which rows, or tokens, two models answer alike, (rows,) bool: all labels the same; numbers within a tenth of
        how far `theirs` are spread; vectors of nearly one direction. `lengths`: of the rows in tokens, where the
        answers are parts of them, or come after."""
        if self.vector:
            return similar.alike(ours, theirs)
        if self.answer:
            return questions.alike(ours, theirs, lengths)
        if self.writes:
            return written.alike(ours, theirs)
        if self.number:
            return near(ours, theirs)
        if self.goes_on:
            return continuations.alike(ours, theirs, lengths)
        if self.several:
            return ((ours > 0) == (theirs > 0)).all(axis=-1)
        return ours.argmax(axis=-1) == theirs.argmax(axis=-1)

    def weighed(self, outputs: np.ndarray) -> np.ndarray:
        """The outputs that are compared as numbers: all, but not the number of a token."""
        return outputs[..., :1] if self.goes_on else outputs

    @property
    def reads_text(self) -> bool:
        return not self.columns.images

    def read(self, source: str, *, text: str | None = None, label: str | None = None, **how: Any) -> Rows:
        """`data.read` with this task's columns."""
        text, label = text or self.text_column, label or self.label_column
        return data.read(source, columns=self.columns, text=text, label=label, **how)

    def read_unlabeled(self, source: str) -> Rows:
        """`data.read_unlabeled` with this task's columns."""
        return data.read_unlabeled(source, columns=self.columns, text=self.text_column, label=self.label_column)

    def label_names(self, source: str) -> tuple[str, ...]:
        """`data.label_names` with this task's columns."""
        return data.label_names(source, self.label_column, self.columns)

    def changed(
        self, texts: Sequence[str], change: noise.Change, share: float = noise.SHARE, seed: int = 0
    ) -> tuple[str, ...]:
        """`noise.all_changed`; of a question and a context the question alone, so that the answer stays where it is.
        A passage that answers several questions stays one."""
        if self.vector:
            once = tuple(dict.fromkeys(texts))
            new = dict(zip(once, noise.all_changed(once, change, share, seed), strict=True))
            return tuple(new[text] for text in texts)
        return noise.all_changed(texts, change, share, seed, first=self.answer)

    def bears(self, change: noise.Change) -> bool:
        """The labels of a row stay true under a change; a text that is its own label has another one then."""
        moved = self.columns.of_words or self.writes
        return self.reads_text and not self.goes_on and (not moved or change in noise.KEEP_THE_WORDS)

    def metric(self, outputs: np.ndarray, gold: Any) -> float:
        """What was gained of what could be, in points, 0..100: the mean of `correct` where that is of bools."""
        return points(self.correct(outputs, gold))

    def probabilities(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """(rows, labels) of rows that are `lengths` tokens long; per token: their mean. Numbers and vectors as they
        are; of answers (rows, 2): that there is none, and that it is the likeliest; of what was written (rows, 1): how
        long it is."""
        if self.has_unit:
            return outputs
        if self.writes:
            return written.lengths(outputs)
        if self.answer:
            return questions.says(outputs, lengths)
        found = sigmoid(outputs) if self.several else softmax(outputs)
        if not self.per_token:
            return found
        return np.stack([part.mean(axis=0) for part in np.split(found, np.cumsum(lengths)[:-1])])


def rows_of_texts(task: Task, texts: Sequence[str], seconds: Sequence[str]) -> list[str]:
    """What a model reads: the texts, or each with its second one. InputError where these do not fit the task."""
    if not task.columns.second:
        if seconds:
            raise InputError(f"a second text is given, and {task.name} reads one")
        return list(texts)
    if len(seconds) != len(texts):
        raise InputError(
            f"{task.name} reads two texts a row: {len(texts)} first and {len(seconds)} second ones are given"
        )
    return [f"{first}{PAIR}{second}" for first, second in zip(texts, seconds, strict=True)]


def _gold(rows: Rows, encoder: Encoder) -> np.ndarray:
    return rows.gold


def _entities(logits: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Encoder) -> list[dict]:
    return tags.decode(softmax(logits), labels, texts, encoder)


def _continued(outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Encoder) -> list[dict]:
    return continuations.decode(outputs, texts, encoder)


def _found_answers(outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Encoder) -> list[dict]:
    return questions.decode(outputs, texts, encoder)


_CLASSES = Task(
    name="text-classification",
    head="ForSequenceClassification",
    auto_class="AutoModelForSequenceClassification",
    inputs=("input_ids", "attention_mask"),
    output="logits",
    metric_name="accuracy",
    gold=_gold,
    taught=_gold,
    correct=classified_right,
    decode=class_scores,
)
_NUMBERS = replace(
    _CLASSES, name="text-regression", metric_name="R2", correct=explained, decode=values, columns=NUMBERS
)
_RECORDS = (
    _CLASSES,
    replace(_CLASSES, name="text-pair-classification", columns=PAIRS),
    replace(
        _CLASSES,
        name="multi-label-classification",
        metric_name="F1",
        correct=labels_right,
        decode=label_scores,
        columns=LABELS,
        several=True,
    ),
    _NUMBERS,
    replace(_NUMBERS, name="text-pair-regression", columns=PAIR_NUMBERS),
    Task(
        name="token-classification",
        head="ForTokenClassification",
        auto_class="AutoModelForTokenClassification",
        inputs=("input_ids", "attention_mask"),
        output="logits",
        metric_name="F1",
        gold=tags.aligned,
        taught=tags.token_labels,
        correct=tags.found,
        decode=_entities,
        columns=WORDS,
        per_token=True,
    ),
    Task(
        name="question-answering",
        head="ForQuestionAnswering",
        auto_class="AutoModelForQuestionAnswering",
        inputs=("input_ids", "attention_mask"),
        output="logits",
        metric_name="F1",
        gold=questions.asked,
        taught=questions.ends,
        correct=questions.right,
        decode=_found_answers,
        columns=QUESTIONS,
        per_token=True,
    ),
    replace(
        _CLASSES,
        name="sentence-embedding",
        head="Model",
        auto_class="AutoModel",
        metric_name="similarity",  # `judging` says which
        gold=similar.pairs,
        correct=similar.right,
        decode=similar.decode,
        columns=ALIKE,
    ),
    Task(
        name="text-to-text",
        head=("ForConditionalGeneration", "MTModel"),
        auto_class="AutoModelForSeq2SeqLM",
        inputs=("input_ids", "attention_mask"),
        output="sequences",
        metric_name="ROUGE-L",
        gold=written.wanted,
        taught=written.targets,
        correct=written.rouge,
        decode=written.decode,
        columns=TEXTS,
        beside=written.beside,
    ),
    Task(
        name="text-generation",
        head=("ForCausalLM", "LMHeadModel"),
        auto_class="AutoModelForCausalLM",
        inputs=("input_ids", "attention_mask"),
        output=NEXT,
        metric_name="next-token accuracy",
        gold=continuations.own_tokens,
        taught=continuations.own_tokens,
        correct=continuations.right,
        decode=_continued,
        columns=PROSE,
        per_token=True,
        beside=continuations.perplexity,
    ),
    replace(
        _CLASSES,
        name="image-classification",
        head="ForImageClassification",
        auto_class="AutoModelForImageClassification",
        inputs=(PIXELS,),
        columns=IMAGES,
    ),
)
TASKS = {task.name: task for task in _RECORDS}
