"""One call of a model; apart from training, whose libraries take seconds to import."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from .encoder import Batch


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch for a model; the numbers are shared, not copied."""
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def answers(logits: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """One answer a line, float32: (rows, labels) as they are; of (rows, tokens, labels), those of the real tokens."""
    return (logits if logits.ndim == 2 or mask is None else logits[mask.bool()]).float()


def forward(model: PreTrainedModel, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One inference call: input_ids and attention_mask (rows, length) int64 -> {"logits": float32}, (rows, labels) or
    (rows, length, labels).
    """
    with torch.inference_mode():
        out = model(**tensors(batch))
    return {"logits": out.logits.float().numpy()}
