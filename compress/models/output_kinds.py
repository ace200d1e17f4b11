"""The kind of output of a model, from its class and config, and the divergence between two models' outputs."""

from __future__ import annotations

from enum import Enum
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from paredown.runtime.preprocessor import INPUTS, Batch
from paredown.tasks.base import MULTI_LABEL
from paredown.tasks.question_answering import ENDS, NOWHERE
from paredown.tasks.registry import TASKS

from ..distributed.group import over_all


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch for a model; the numbers are shared, not copied."""
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def pad_id(model: PreTrainedModel) -> int:
    """The token that fills short rows; 0 where there is none, as in a model that sees images."""
    return int(getattr(model.config, "pad_token_id", None) or 0)


class OutputKind(Enum):
    """What the logits of a model mean."""

    LABEL = "one label for each row or token"
    MULTI_LABEL = "independent labels"
    REGRESSION = "raw logit"
    SPAN = "start and end token"
    VECTOR = "vector of length 1"
    SEQ2SEQ = "next token of the decoder"
    CAUSAL_LM = "next token of the text"


def inputs_of(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What of a batch to train on a model is called with."""
    given: dict[str, Any] = {name: batch[name] for name in INPUTS if name in batch}
    if "decoder_input_ids" in batch:  # all tokens of a text at once: nothing is held for a next one
        given |= {"decoder_input_ids": batch["decoder_input_ids"], "use_cache": False}
    return given


def kind_of(model: PreTrainedModel) -> OutputKind:
    """The kind of output, from the class and the config of a model."""
    if type(model).__name__.endswith("ForQuestionAnswering"):
        return OutputKind.SPAN
    if model.config.is_encoder_decoder and not type(model).__name__.endswith(TASKS["text-classification"].heads):
        return OutputKind.SEQ2SEQ
    if type(model).__name__.endswith(TASKS["text-generation"].heads):
        return OutputKind.CAUSAL_LM
    if type(model).__name__.endswith("Model"):
        return OutputKind.VECTOR
    if model.config.problem_type == MULTI_LABEL:
        return OutputKind.MULTI_LABEL
    return OutputKind.REGRESSION if model.config.num_labels == 1 else OutputKind.LABEL


def answers(logits: torch.Tensor, mask: torch.Tensor | None, kind: OutputKind) -> torch.Tensor:
    """One choice a line, float32: (rows, labels) as they are; of (rows, tokens, labels), those of the real tokens. A
    line of one is a number.

    The token after each: (pairs of neighbouring real tokens, vocabulary).
    Several labels: each is a choice of its own, no or yes, (rows * labels, 2), so that a KL is one of Bernoullis. Ends:
    (rows * 2, tokens), padding with a logit of NOWHERE. A vector is as many numbers, (rows * width, 1), in a unit in
    which half their mean squared difference is 1 less the cosine.
    """
    if kind is OutputKind.VECTOR:
        return logits.float().reshape(-1, 1) * logits.shape[-1] ** 0.5
    if kind is OutputKind.MULTI_LABEL:
        yes = logits.float().reshape(-1, 1)
        return torch.cat([torch.zeros_like(yes), yes], dim=1)
    if kind is OutputKind.SPAN:
        assert mask is not None
        there = mask.bool().repeat_interleave(2, dim=0)
        return logits.float().transpose(1, 2).reshape(len(there), -1).masked_fill(~there, NOWHERE)
    if kind is OutputKind.CAUSAL_LM:
        assert mask is not None
        return logits[:, :-1][mask[:, 1:].bool()].float()
    return (logits if logits.ndim == 2 or mask is None else logits[mask.bool()]).float()


def divergence(ours: torch.Tensor, wanted: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Mean of T^2 KL(wanted / T || ours / T) over `answers`, nats; of numbers, half the mean squared difference, which
    is the KL of normal distributions of variance 1 around them."""
    if ours.shape[-1] == 1:
        return functional.mse_loss(ours, wanted, reduction="sum") / 2 / over_all(torch.tensor(ours.numel()))
    mine, target = (functional.log_softmax(x / temperature, dim=-1) for x in (ours, wanted))
    total = functional.kl_div(mine, target, reduction="sum", log_target=True)
    return temperature**2 * total / over_all(torch.tensor(len(mine)))


def not_finite(model: PreTrainedModel) -> str | None:
    """Name of the first parameter that has a NaN or an infinity in it; None where there is none."""
    return next((name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()), None)


def join_ends(model: PreTrainedModel) -> None:
    """Let a question-answering model, in place, give its two outputs as one, `logits` (rows, tokens, 2), as the others
    do."""
    model.forward = partial(_joined, model.forward)  # not a hook: adapters call forward itself
    model.config.id2label = dict(enumerate(ENDS))
    model.config.label2id = {name: i for i, name in enumerate(ENDS)}


def _joined(forward: Any, *args: Any, **kwargs: Any) -> TokenClassifierOutput:
    out = forward(*args, **kwargs)
    logits = torch.stack([out.start_logits, out.end_logits], dim=-1)
    return TokenClassifierOutput(logits=logits, hidden_states=out.hidden_states, attentions=out.attentions)  # type: ignore[arg-type]


def label_names(model: PreTrainedModel) -> list[str]:
    """The labels of a model, in the order of its outputs."""
    names: dict = model.config.id2label or {}
    return [str(names[i]) for i in range(len(names))]
