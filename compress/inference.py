"""One call of a model; apart from training, whose libraries take seconds to import."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from .encoder import Batch
from .tasks import SEVERAL


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch for a model; the numbers are shared, not copied."""
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def answers(logits: torch.Tensor, mask: torch.Tensor | None, several: bool = False) -> torch.Tensor:
    """One answer a line, float32: (rows, labels) as they are; of (rows, tokens, labels), those of the real tokens. A
    line of one is a number.

    `several`: each label is a choice of its own, no or yes, (rows * labels, 2), so that a KL is one of Bernoullis.
    """
    if several:
        yes = logits.float().reshape(-1, 1)
        return torch.cat([torch.zeros_like(yes), yes], dim=1)
    return (logits if logits.ndim == 2 or mask is None else logits[mask.bool()]).float()


def divergence(ours: torch.Tensor, wanted: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Mean of T^2 KL(wanted / T || ours / T) over `answers`, nats; of numbers, half the mean squared difference, which
    is the KL of normal distributions of variance 1 around them."""
    if ours.shape[-1] == 1:
        return functional.mse_loss(ours, wanted) / 2
    mine, target = (functional.log_softmax(x / temperature, dim=-1) for x in (ours, wanted))
    return temperature**2 * functional.kl_div(mine, target, reduction="batchmean", log_target=True)


def has_several(model: PreTrainedModel) -> bool:
    """A row of this model's may have several labels."""
    return model.config.problem_type == SEVERAL


def gives_number(model: PreTrainedModel) -> bool:
    """This model's answer is a number, not a label."""
    return model.config.num_labels == 1 and not has_several(model)


def forward(model: PreTrainedModel, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One inference call: input_ids and attention_mask (rows, length) int64 -> {"logits": float32}, (rows, labels) or
    (rows, length, labels).
    """
    with torch.inference_mode():
        out = model(**tensors(batch))
    return {"logits": out.logits.float().numpy()}
