"""What a task is: the base class. Its defaults are those of a task whose rows have one label each. Without torch.

A task says how its rows are read, what a model is trained on, how outputs are scored, compared and decoded, and what it
supports. Nothing outside `tasks/` asks which task it has.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Self

import numpy as np

from paredown.runtime.answers import classes, softmax
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import PAIR, Preprocessor

from . import perturbations
from .columns import TEXT, Columns
from .rows import Rows
from .scores import kl, points

Tensor = tuple[str, Any, list[int]]  # of the Open Inference Protocol: datatype, values, shape
NO_LABEL = -100  # the label of a token, or of a row, that is not trained on; torch's ignore_index
MULTI_LABEL = "multi_label_classification"  # `problem_type` in config.json, in transformers' spelling
COMPARES_ROWS = "it compares rows of one label"
OWN_EXPORT = "it needs our own export or bundle, with its generation settings"
PER_TOKEN_AXES = {0: "batch", 1: "length"}  # `output_axes` of a task that answers for each token
EXCERPT = 400  # characters of a text in a report


class Feature(Enum):
    """What a task may not support; the value is its name in an error."""

    PRUNE = "prune"
    TRIM = "trim"
    TRUNCATE = "truncate"
    STATIC = "a static student"
    CASCADE = "a cascade"
    WIDTH = "a narrower student (width)"
    LABEL_WEIGHT = "label_weight"
    TEACHERS = "more than one teacher"
    SEARCH = "search"
    AUGMENT = "augment"
    RECOMBINE = "texts made of parts of two"
    TUNE = "tune"
    UPDATE = "update"
    NEW_LABELS = "a new label"
    ADVERSARIAL = "adversarial training"
    EXPLAIN = "word attribution (explain)"
    FAIRNESS = "fairness"
    ROBUSTNESS = "robustness"
    LENGTHS = "lengths"
    FIXED_SHAPES = "a fixed batch size or length"
    MOBILE = "the .ort format"
    GPU = "a GPU runtime"
    MAX_NEW_TOKENS = "max_new_tokens"
    CACHED_SCORES = "teacher outputs kept on disk"
    REFERENCE = "reference counts for drift"
    IDS_IN_REQUESTS = "token ids in a request"
    NEW_HEAD = "a new head"
    OTHER_TOOLS = "a model file of another tool"


class Match(Enum):
    """What two models must have in common before their outputs can be compared."""

    LABELS = "labels"
    WIDTH = "width"  # of the hidden states, which are the outputs
    TOKENS = "tokens"


class Task:
    """One task.

    `outputs` below are what `run_rows` gives: (rows, labels) float32; (tokens of all rows, labels) where the model
    answers for each token; token ids (rows, tokens) int64 where it generates text.
    """

    name: str
    heads: tuple[str, ...] = ("ForSequenceClassification",)  # what the name of the architecture's class ends in
    auto_class = "AutoModelForSequenceClassification"  # the transformers class that loads it
    problem_type: str | None = None  # `problem_type` in config.json
    adapters: tuple[
        str, ...
    ] = ()  # what a loaded model is given: "pooling", "generation", "joined_ends", "token_types"
    graph = "single"  # how it is exported: "single", "seq2seq" (two graphs) or "causal_lm" (a key/value cache)
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")  # of the model
    optional_inputs: tuple[str, ...] = ("token_type_ids",)  # that a model file of another tool may have too
    input_axes: ClassVar[Mapping[int, str]] = {0: "batch", 1: "length"}  # dynamic axes of an exported graph
    output_axes: ClassVar[Mapping[int, str]] = {0: "batch"}
    output = "logits"  # the model's output that is scored
    metric_name = "accuracy"
    answer = "label"  # how a golden row's answer is read off its output: a key of `runtime.answers.ANSWERS`
    columns: Columns = TEXT
    per_token = False  # the model answers for each token
    text_column: str | None = None  # of the files that are read, where the user names it; None: found
    label_column: str | None = None
    pipeline_tag = "text-classification"  # the Hub's name of the task
    unsupported: ClassVar[Mapping[Feature, str]] = {Feature.MAX_NEW_TOKENS: "its answer is no text"}  # and why
    must_match: tuple[Match, ...] = (Match.LABELS,)  # of a teacher and its student, or of two teachers
    reference_rows = 1000  # validation rows that are kept to detect drift, at most

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    # What it supports

    def supports(self, feature: Feature) -> bool:
        return feature not in self.unsupported

    def refusal(self, feature: Feature) -> str | None:
        """One sentence on why a feature is not supported; None where it is."""
        if self.supports(feature):
            return None
        return f"{feature.value} is not supported for {self.name}: {self.unsupported[feature]}"

    def require(self, feature: Feature, where: str) -> None:
        """InputError that begins with `where` unless the feature is supported."""
        refusal = self.refusal(feature)
        if refusal is not None:
            raise InputError(f"{where}: {refusal}")

    @property
    def reads_images(self) -> bool:
        return self.columns.images

    @property
    def compares_tokens(self) -> bool:
        """Two models are compared token by token."""
        return Match.TOKENS in self.must_match

    @property
    def reads_pairs(self) -> bool:
        """A row of the model is two texts."""
        return bool(self.columns.second)

    # Rows

    def for_rows(self, rows: Rows | None, *others: Rows | None) -> Self:
        """The task with the metric that these rows ask for; InputError where `others` ask for another one."""
        return self

    def with_columns(self, text: str | None, label: str | None) -> Self:
        """The task with the names of the columns of the files that are read; None: as before, or found."""
        if text is None and label is None:
            return self
        task = copy.copy(self)
        task.text_column, task.label_column = text or self.text_column, label or self.label_column
        return task

    def with_metric(self, name: str) -> Self:
        task = copy.copy(self)
        task.metric_name = name
        return task

    def row_texts(self, texts: Sequence[str], seconds: Sequence[str] = ()) -> list[str]:
        """Texts as rows, each with its second text where the task reads two. InputError where these do not fit."""
        if not self.reads_pairs:
            if seconds:
                raise InputError(f"a second text is given, and {self.name} reads one")
            return list(texts)
        if len(seconds) != len(texts):
            raise InputError(
                f"{self.name} reads two texts a row: {len(texts)} first and {len(seconds)} second ones are given"
            )
        return [f"{first}{PAIR}{second}" for first, second in zip(texts, seconds, strict=True)]

    def row_of(self, text: str) -> str:
        """A row in which each text is `text`."""
        return f"{text}{PAIR}{text}" if self.reads_pairs else text

    def rows_of_images(self, files: Sequence[str], option: str) -> list[str]:
        """Image files as rows. InputError, which begins with the option that gave them, where they cannot be read."""
        raise InputError(f"{option}: the bundle is for {self.name}; give --text")

    def example_rows(self, encoder: Preprocessor) -> list[str]:
        """Two rows, of different lengths where lengths differ."""
        return [self.row_of(encoder.example), self.row_of("a sentence")]

    def example_input(self, encoder: Preprocessor) -> np.ndarray:
        """An input for tracing a graph: (2, 16) int64; sizes of 1 would become constants."""
        return np.ones((2, 16), dtype=np.int64)

    def excerpt(self, row: str, encoder: Preprocessor) -> str:
        """A row for a report: the beginning of its text."""
        return row.replace(PAIR, " | ")[:EXCERPT]

    def has_gold(self, rows: Rows) -> bool:
        """Whether outputs for these rows can be scored."""
        return rows.labels is not None

    def row_labels(self, rows: Rows) -> np.ndarray | None:
        """The class of each row, (rows,) int64, so that confidence, calibration and flips of rows have a meaning; None
        where rows have none, or several."""
        return rows.gold

    def gold(self, rows: Rows, encoder: Preprocessor) -> Any:
        """What `correct` compares outputs with."""
        return rows.gold

    def training_targets(self, rows: Rows, encoder: Preprocessor) -> np.ndarray | Sequence[np.ndarray]:
        """Labels to train on: of each row, or of its tokens."""
        return rows.gold

    def missing_targets(self, ids: Sequence[Sequence[int]], labels: int) -> list[np.ndarray]:
        """The targets of rows that have none: nothing is trained on them. `labels`: how many the task has."""
        return [np.full((), NO_LABEL)] * len(ids)

    def own_targets(self, rows: int) -> int:
        """How many of `rows` labelled rows a student is trained on without its teacher's outputs."""
        return 0

    def perturbed(
        self,
        texts: Sequence[str],
        change: perturbations.Change,
        share: float = perturbations.SHARE,
        seed: int = 0,
    ) -> tuple[str, ...]:
        """The texts under a perturbation, the same ones for a seed."""
        return perturbations.all_changed(texts, change, share, seed)

    def keeps_labels(self, change: perturbations.Change) -> bool:
        """Whether the labels of a row stay true under a perturbation."""
        return True

    # Scores

    def correct(self, outputs: np.ndarray, gold: Any) -> np.ndarray:
        """(rows,) bool; or (rows, 2): what each row adds to the numerator and the denominator of the metric."""
        return outputs.argmax(axis=-1) == gold

    def metric(self, outputs: np.ndarray, gold: Any) -> float:
        """The metric in points, 0..100."""
        return points(self.correct(outputs, gold))

    def further_metrics(self, outputs: np.ndarray, gold: Any) -> dict[str, float]:
        """Metrics that are reported beside the one that selects."""
        return {}

    certainty: ClassVar[str] = "label"  # what `confidence` is of: a key of CONFIDENCE in `export/onnx/cascade.py`

    def confidence(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """How sure a model is of its answers to rows that are `lengths` tokens long, (rows,) 0..1: what a cascade asks
        of its first model. The probability of the likeliest label."""
        return softmax(outputs).max(axis=-1)

    def probabilities(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """(rows, labels) of rows that are `lengths` tokens long: what drift of the traffic is told by."""
        return softmax(outputs)

    def predicted(self, outputs: np.ndarray, gold: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """The predicted and the true class of each row or word, (n,) int64; None where answers are no classes."""
        return outputs.argmax(axis=-1), np.asarray(gold)

    def output_lines(self, ids: Sequence[Sequence[int]]) -> int:
        """How many lines `outputs` have for these rows."""
        return sum(map(len, ids)) if self.per_token else len(ids)

    # Two models compared

    def same_answers(self, ours: np.ndarray, theirs: np.ndarray, lengths: Sequence[int] = ()) -> np.ndarray:
        """Which rows, or tokens, two models answer the same, bool. `lengths`: of the rows in tokens."""
        return self.same_choices(ours, theirs)

    def same_choices(self, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Of the outputs of a graph: where two models choose the same, row by row or token by token."""
        return ours.argmax(axis=-1) == theirs.argmax(axis=-1)

    def unit(self, outputs: np.ndarray) -> float:
        """The unit of a difference of two outputs: 1 for logits; their spread for numbers and vectors."""
        return 1.0

    def difference(self, ours: np.ndarray, theirs: np.ndarray, unit: float | None = None) -> np.ndarray:
        """Absolute differences of two models' outputs, in units of `unit`, or of that of `theirs`."""
        return np.abs(ours.astype(np.float64) - theirs) / (unit or self.unit(theirs))

    distance_name: ClassVar[tuple[str, str]] = ("KL", "nats a row")  # what `distances` measures, and its unit

    def distances(self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
        """How far each row's output (labels,), or (tokens, labels), is from another model's, (rows,) float64."""
        return np.array([kl(a, b).mean() for a, b in zip(ours, theirs, strict=True)])

    def comparable(self, outputs: np.ndarray, gold: Any) -> list[np.ndarray]:
        """For each row those of its outputs that `distances` and `regrets` compare with another model's, whatever
        tokens the two have. `gold`: as `self.gold` has the rows for the tokenizer that the outputs belong to."""
        return list(outputs)

    def regrets(self, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> np.ndarray:
        """What each row's answer costs by another model's own probabilities, (rows,) float64: that of its answer less
        that of ours, 0 where both answer the same; the mean of a row's tokens. Without classes: `distances`."""
        lost = []
        for a, b in zip(ours, theirs, strict=True):
            chances = softmax(np.atleast_2d(b).astype(np.float64))
            chosen = np.take_along_axis(chances, np.atleast_2d(a).argmax(axis=-1)[:, None], axis=-1)[:, 0]
            lost.append((chances.max(axis=-1) - chosen).mean())
        return np.array(lost)

    def describe_parity(self, agreement: float, difference: float, rows: int, where: str) -> str:
        """How an artefact's outputs compare with its checkpoint's. `agreement`: share of answers that are the same,
        0..1; `difference`: the largest; `rows`: how many were compared; `where`: which."""
        return f"logits differ from the checkpoint's by {difference:.2g} at most on {where}"

    # Answers

    def decode(
        self, outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Preprocessor
    ) -> list[dict]:
        """outputs (rows, labels) -> one {label, score, scores} a row; scores are softmax probabilities."""
        return classes(outputs, labels)

    def tensor_types(self, labels: int) -> dict[str, tuple[str, list[int]]]:
        """Outputs of the Open Inference Protocol: name -> (datatype, shape)."""
        return {"label": ("BYTES", [-1]), "scores": ("FP32", [-1, labels]), self.output: ("FP32", [-1, labels])}

    def tensors(
        self,
        outputs: np.ndarray,
        lengths: Sequence[int],
        answers: Sequence[dict],
        labels: tuple[str, ...],
        encoder: Preprocessor,
    ) -> dict[str, Tensor]:
        """Rows of `lengths` tokens as outputs of the Open Inference Protocol. `answers`: `decode` of them, empty where
        the request had no text."""
        shape = list(outputs.shape)
        return {
            "label": ("BYTES", [labels[i] for i in outputs.argmax(axis=-1)], shape[:1]),
            "scores": ("FP32", softmax(outputs), shape),
            self.output: ("FP32", outputs, shape),
        }

    def request_inputs(self) -> tuple[str, ...]:
        """Inputs of the Open Inference Protocol that hold rows as BYTES."""
        return ("text", "text_pair") if self.reads_pairs else ("text",)

    # Words for the model card

    def describe_answer(self, manifest: dict) -> str:
        """Continues "For text-classification of texts like those it was trained on, "."""
        return f"into {len(manifest['labels'])} labels"

    limits = "it has no way to say that none of them fits."
    rows_are = "texts"

    def listed_labels(self, labels: Sequence[str]) -> Sequence[str]:
        """Those of the labels that the model card lists."""
        return labels

    def describe_length(self, manifest: dict) -> str:
        return (
            f"Inputs are truncated to {manifest['max_length']} tokens, on the {manifest['length_policy']['truncate']}."
        )

    def predict_options(self) -> str:
        """The options of `paredown predict` that give one row."""
        return '--text "..." --text-pair "..."' if self.reads_pairs else '--text "..."'

    def model_arguments(self) -> str:
        """One row as Python, for `Model` of a bundle."""
        return '"...", "..."' if self.reads_pairs else '"..."'

    vectors = False  # outputs are vectors: drift is told by their product with the mean of the reference rows
    generates = False  # outputs are made token by token

    # Checkpoints and model files

    pools = False  # the answer is pooled from token vectors
    output_ends: tuple[str, ...] = ()  # names by which other tools give the output in two parts

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the output in model files of other tools, the likeliest first."""
        return (self.output,)

    def needs_pooling(self, shape: tuple[int, ...]) -> bool | None:
        """Whether an output of this shape has to be pooled; None where outputs are no vectors."""
        return None

    def other_task(self, shape: tuple[int, ...], tokens: int) -> str:
        """For an error: the task whose models have an output of this shape, for rows of `tokens` tokens."""
        if len(shape) == 3 and shape[1] == tokens and not self.per_token:
            return "; of a model that answers for every token: --task token-classification"
        if len(shape) == 2 and self.per_token:
            return "; of a model that answers for the text: --task text-classification"
        return ""

    def missing_setting(self, architecture: str, config: Mapping[str, Any]) -> tuple[str, str, str] | None:
        """What a config.json with a head of this task does not say: the key, its value, and the meaning."""
        return None

    def shares_heads(self, other: Task | None) -> bool:
        """Whether models of another task have classes of the same names."""
        return other is not None and other.heads == self.heads

    def fits_shape(self, shape: tuple[int, ...], rows: int, tokens: int, labels: int) -> bool:
        """Whether an output of a model file, for `rows` rows of `tokens` tokens, can be this task's."""
        return shape == ((rows, tokens, labels) if self.per_token else (rows, labels))

    def output_dims(self, length: int, labels: int) -> tuple[int, ...]:
        """Sizes of the output for one row of `length` tokens."""
        return (length, labels) if self.per_token else (labels,)

    def describe_shape(self, labels: Sequence[str]) -> str:
        """The shape that `fits_shape` asks for, in an error."""
        count = f"{len(labels)} labels, as config.json names them"
        return f"(rows, tokens, {count})" if self.per_token else f"(rows, {count})"

    def labels_of(self, named: tuple[str, ...], width: int) -> tuple[str, ...]:
        """Label names of a checkpoint with this head; `named`: those in its config.json, `width`: its hidden size."""
        return named

    def new_head(self, labels: tuple[str, ...]) -> dict:
        """What config.json says of a fresh head for these labels."""
        return {
            "num_labels": len(labels),
            "id2label": dict(enumerate(labels)),
            "label2id": {name: i for i, name in enumerate(labels)},
            "problem_type": self.problem_type,
        }

    def fits_config(self, problem_type: str | None, labels: int) -> bool:
        """Whether a head with this `problem_type` and so many labels is of this task, and not of one with the same
        class."""
        return problem_type != MULTI_LABEL and labels != 1


class TaskWithoutClasses(Task):
    """A task whose answers are numbers, vectors, parts of a text or texts: no class is predicted."""

    def row_labels(self, rows: Rows) -> None:
        return None

    def predicted(self, outputs: np.ndarray, gold: Any) -> None:
        return None
