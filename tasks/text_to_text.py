"""Text-to-text generation: training targets, decoding, and ROUGE-L. Without torch.

The metric is ROUGE-L (Lin 2004): F1 over the longest common subsequence of words, the mean over the rows. Corpus BLEU
is no sum over rows, and 0 for short answers: it is reported beside the metric.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from paredown.runtime.answers import texts_of, written
from paredown.runtime.errors import missing_extra
from paredown.runtime.preprocessor import Preprocessor

from . import perturbations
from .base import COMPARES_ROWS, OWN_EXPORT, Feature, Match, TaskWithoutClasses, Tensor
from .columns import TEXTS
from .rows import Rows


@dataclass(frozen=True)
class Wanted:
    """The gold texts of some rows, and the tokenizer that turns what a model wrote into text."""

    texts: list[str]
    encoder: Preprocessor


def wanted(rows: Rows, encoder: Preprocessor) -> Wanted:
    """What `rouge` compares with."""
    return Wanted(list(rows.gold), encoder)


def targets(rows: Rows, encoder: Preprocessor) -> list[np.ndarray]:
    """Token ids of each gold text, (tokens,) int64, truncated to the encoder's longest input: training targets."""
    return [np.array(ids, dtype=np.int64) for ids in encoder.ids(list(rows.gold))]


def rouge(sequences: np.ndarray, gold: Wanted) -> np.ndarray:
    """sequences (rows, tokens) int -> (rows, 2) float64: ROUGE-L F1 of what was written, and 1."""
    rows = np.ones((len(sequences), 2))
    rows[:, 0] = [rouge_l(said, true) for said, true in zip(written(sequences, gold.encoder), gold.texts, strict=True)]
    return rows


def beside(sequences: np.ndarray, gold: Wanted) -> dict[str, float]:
    """Further metrics in points: corpus BLEU by sacrebleu, and the share of exact matches."""
    try:
        import sacrebleu
    except ImportError as error:
        raise missing_extra(error.name or "sacrebleu", "compress") from None
    said = written(sequences, gold.encoder)
    return {
        "BLEU": float(sacrebleu.corpus_bleu(said, [gold.texts]).score),
        "exact": 100 * sum(a == b.strip() for a, b in zip(said, gold.texts, strict=True)) / len(said),
    }


def tokens_of(sequences: np.ndarray) -> np.ndarray:
    """(rows, tokens) -> (rows, 1) float64: how many tokens each has, one of the padding behind it included."""
    ended = sequences[:, ::-1] == sequences[:, -1:]
    same = np.where(ended.all(axis=1), sequences.shape[1], (~ended).argmax(axis=1))
    return (sequences.shape[1] - same + 1.0)[:, None]


def rouge_l(said: str, true: str) -> float:
    """F1 of the longest common subsequence of words; words are runs of letters and digits, without case. Two texts
    without a word are the same."""
    ours, theirs = words(said), words(true)
    if not ours or not theirs:
        return float(ours == theirs)
    return 2 * longest_common(ours, theirs) / (len(ours) + len(theirs))


def words(text: str) -> list[str]:
    """Runs of letters and digits of any script, in small letters."""
    return re.findall(r"[^\W_]+", text.lower())


def longest_common(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    best = [0] * (len(theirs) + 1)
    for word in ours:
        before = 0
        for j, other in enumerate(theirs, start=1):
            before, best[j] = best[j], before + 1 if word == other else max(best[j], best[j - 1])
    return best[-1]


GENERATES = "not for models that generate a text; finetune and distill are"
ONE_CALL = "it is for models that answer in one call"


class TextToText(TaskWithoutClasses):
    """A sequence-to-sequence model answers a text with a text; it is exported as two graphs."""

    name = "text-to-text"
    heads = ("ForConditionalGeneration", "MTModel")
    auto_class = "AutoModelForSeq2SeqLM"
    adapters = ("generation",)
    graph = "seq2seq"
    output = "sequences"
    metric_name = "ROUGE-L"
    answer = "text"
    columns = TEXTS
    pipeline_tag = "text2text-generation"
    unsupported: ClassVar = {
        **dict.fromkeys(
            (
                Feature.PRUNE,
                Feature.TRIM,
                Feature.TRUNCATE,
                Feature.STATIC,
                Feature.CASCADE,
                Feature.AUGMENT,
                Feature.RECOMBINE,
                Feature.TUNE,
                Feature.UPDATE,
                Feature.SEARCH,
                Feature.TEACHERS,
                Feature.WIDTH,
            ),
            GENERATES,
        ),
        **dict.fromkeys((Feature.LENGTHS, Feature.FIXED_SHAPES), ONE_CALL),
        Feature.MOBILE: "it is for models of one graph",
        Feature.ADVERSARIAL: "it perturbs word embeddings, which its encoder and decoder share",
        Feature.EXPLAIN: "it attributes a label to words",
        Feature.FAIRNESS: COMPARES_ROWS,
        Feature.OTHER_TOOLS: OWN_EXPORT,
        Feature.NEW_HEAD: "a decoder would have to learn the language first; give a T5 or Marian checkpoint",
    }
    must_match = (Match.LABELS, Match.TOKENS)
    generates = True

    def gold(self, rows: Rows, encoder: Preprocessor) -> Wanted:
        return wanted(rows, encoder)

    def training_targets(self, rows: Rows, encoder: Preprocessor) -> list[np.ndarray]:
        return targets(rows, encoder)

    def own_targets(self, rows: int) -> int:
        """All: a student learns the texts that they have."""
        return rows

    def keeps_labels(self, change: perturbations.Change) -> bool:
        return change in perturbations.KEEP_THE_WORDS

    def correct(self, outputs: np.ndarray, gold: Wanted) -> np.ndarray:
        return rouge(outputs, gold)

    def further_metrics(self, outputs: np.ndarray, gold: Wanted) -> dict[str, float]:
        return beside(outputs, gold)

    def probabilities(self, outputs: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """(rows, 1): how many tokens each text has."""
        return tokens_of(outputs)

    def same_answers(self, ours: np.ndarray, theirs: np.ndarray, lengths: Sequence[int] = ()) -> np.ndarray:
        return (ours == theirs).all(axis=-1)

    def difference(self, ours: np.ndarray, theirs: np.ndarray, unit: float | None = None) -> np.ndarray:
        """Token ids have none: two texts are the same, or not."""
        return np.zeros(1)

    def describe_parity(self, agreement: float, difference: float, rows: int, where: str) -> str:
        return f"{agreement:.1%} of the texts are the checkpoint's, of {rows} rows"

    def decode(
        self, outputs: np.ndarray, labels: tuple[str, ...], texts: Sequence[str], encoder: Preprocessor
    ) -> list[dict]:
        """outputs (rows, tokens) int -> one {text} a row."""
        return texts_of(outputs, encoder)

    def tensor_types(self, labels: int) -> dict[str, tuple[str, list[int]]]:
        return {"text": ("BYTES", [-1]), self.output: ("INT64", [-1, -1])}

    def tensors(
        self,
        outputs: np.ndarray,
        lengths: Sequence[int],
        answers: Sequence[dict],
        labels: tuple[str, ...],
        encoder: Preprocessor,
    ) -> dict[str, Tensor]:
        return {
            "text": ("BYTES", written(outputs, encoder), [len(outputs)]),
            self.output: ("INT64", outputs, list(outputs.shape)),
        }

    def describe_answer(self, manifest: dict) -> str:
        return f"answered with a text of {manifest['generation']['max_new_tokens']} tokens at most"

    limits = "it writes the likeliest token each time, and may write what the text does not say."

    def labels_of(self, named: tuple[str, ...], width: int) -> tuple[str, ...]:
        return ()

    def fits_config(self, problem_type: str | None, labels: int) -> bool:
        return True
