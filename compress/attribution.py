"""Word attributions: integrated gradients (through captum) and attention rollout.

Integrated gradients: Sundararajan et al. 2017, arXiv 1703.01365. Roll-out: Abnar and Zuidema 2020, arXiv 2005.00928.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding
from transformers import PreTrainedModel

from paredown.runtime.errors import missing_extra
from paredown.runtime.preprocessor import Preprocessor

from .models.architectures import STATIC
from .models.truncation import places_read

STEPS, MOST_STEPS = 32, 256  # of the path integral; where the logit rises steeply, 32 saw a quarter of the rise
MISSED = 0.05  # of the rise, at most: what the sum over the tokens may be off by


def integrated_gradients(model: PreTrainedModel, ids: Sequence[int], label: int, pad_id: int) -> np.ndarray:
    """What each token adds to the logit of `label`, (tokens,) float; the sum is the logit's rise over padding alone.

    The path goes from padding between the row's own first and last token to the row. Its steps are doubled until the
    sum is within MISSED of the rise (completeness: Sundararajan et al. 2017, who ask for 5 %), MOST_STEPS at most.
    """
    try:
        from captum.attr import LayerIntegratedGradients
    except ImportError as error:
        raise missing_extra(error.name or "captum", "explain") from None
    read = places_read(model, len(ids))
    row = torch.tensor([list(ids)])[:, read]
    nothing = torch.full_like(row, pad_id)
    nothing[:, 0], nothing[:, -1] = row[:, 0], row[:, -1]

    def logits(given: torch.Tensor) -> torch.Tensor:
        return model(input_ids=given, attention_mask=torch.ones_like(given)).logits

    method = LayerIntegratedGradients(logits, model.get_input_embeddings())
    steps = STEPS
    while True:
        result: Any = method.attribute(
            row, nothing, label, n_steps=steps, internal_batch_size=STEPS, return_convergence_delta=True
        )
        values, missed = result[0][0].sum(-1).detach().numpy(), float(result[1])
        if abs(missed) <= MISSED * max(abs(values.sum() - missed), 1) or steps >= MOST_STEPS:
            return _of_all(values, read, len(ids))
        steps *= 2


def _of_all(values: np.ndarray, read: list[int], count: int) -> np.ndarray:
    """Values of the tokens that a model reads, and NaN for the others."""
    every = np.full(count, np.nan, values.dtype)
    every[read] = values
    return every


def rollout(model: PreTrainedModel, ids: Sequence[int]) -> np.ndarray | None:
    """How much of each token reaches the first one through all layers, (tokens,) float, sum 1; None without attention.

    Layer by layer: half the mean over the heads, half the token itself.
    """
    if model.config.model_type == STATIC:
        return None
    read, was = places_read(model, len(ids)), model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others do not give their weights out
    try:
        row = torch.tensor([list(ids)])[:, read]
        with torch.inference_mode():
            layers = model(input_ids=row, attention_mask=torch.ones_like(row), output_attentions=True).attentions
    finally:
        model.set_attn_implementation(was or "eager")
    reach = torch.eye(len(read))
    for weights in layers:
        mixed = 0.5 * weights[0].float().mean(0) + 0.5 * torch.eye(len(read))
        reach = (mixed / mixed.sum(-1, keepdim=True)) @ reach
    return _of_all(reach[0].numpy(), read, len(ids))


def word_attributions(model: PreTrainedModel, encoder: Preprocessor, text: str, label: int) -> np.ndarray:
    """`integrated_gradients` summed over the tokens of each word between blanks, (words,); NaN: not read."""
    encoding = encoder.tokenizer.encode(text)
    return by_word(text, encoding, integrated_gradients(model, encoding.ids, label, encoder.pad_id))


def by_word(text: str, encoding: Encoding, values: np.ndarray) -> np.ndarray:
    """Sums over the tokens of each word between blanks, (words,): models with other tokens can be compared.

    NaN for a word of which no token was read (it is past the longest input).
    """
    starts, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        starts.append(at)
        at += len(word)
    total = np.full(len(starts), np.nan)
    for (begin, end), value in zip(encoding.offsets, values, strict=True):
        if end > begin and not np.isnan(value):  # special tokens have no place in the text
            word = max(0, int(np.searchsorted(starts, end - 1, side="right")) - 1)
            total[word] = np.nansum([total[word], value])
    return total
