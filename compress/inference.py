"""One call of a model; apart from training, whose libraries take seconds to import."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from .encoder import Batch


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch for a model; the numbers are shared, not copied."""
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def forward(model: PreTrainedModel, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One inference call: input_ids and attention_mask (rows, length) int64 -> {"logits": (rows, labels) float32}."""
    with torch.inference_mode():
        out = model(**tensors(batch))
    return {"logits": out.logits.float().numpy()}
