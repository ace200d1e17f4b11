"""Exports a decoder as one plain ONNX graph with a key/value cache.

Positions and the causal mask are worked out inside, from attention_mask alone, so that rows may be padded on the right
and an empty cache is nothing special.
"""

from __future__ import annotations

from pathlib import Path

from paredown.compress.models.architectures import FAMILIES, supported
from paredown.compress.models.loading import Checkpoint, load
from paredown.runtime.causal_decoding import LOGITS, cache_names
from paredown.runtime.errors import InputError
from paredown.tasks.base import Task

MASKED = -1e4  # added to scores of what a token must not see; half precision can hold it
PAST, PRESENT = "past_key_values", "present"


def decoder_onnx(checkpoint: Checkpoint, task: Task, target: Path) -> None:
    """Write the graph to `target`: input_ids (rows, tokens) and attention_mask (rows, past + tokens) int64, the cache
    (rows, heads, past, head size) float32; gives logits (rows, tokens, vocabulary) and the cache with these tokens."""
    import torch
    from transformers.cache_utils import DynamicCache

    from .trace import traced

    kind = str(checkpoint.config.get("model_type", ""))
    if kind not in FAMILIES or not FAMILIES[kind].decoder:
        raise InputError(
            f"{checkpoint.path}: cannot export a '{kind}' model for {task.name} yet; supported: "
            f"{', '.join(supported(decoders=True))}"
        )
    if {*(checkpoint.config.get("layer_types") or ())} - {"full_attention"}:
        raise InputError(f"{checkpoint.path}: layers that see a window of the text only cannot be exported yet")
    about = checkpoint.generation
    model = load(checkpoint, task)
    model.set_attn_implementation("eager")

    class WithCache(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
            cache = DynamicCache()
            for layer, (keys, values) in enumerate(zip(past[0::2], past[1::2], strict=True)):
                cache.update(keys, values, layer)
            total, length = mask.shape[1], ids.shape[1]
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, total - length :]
            places = torch.arange(total)
            seen = (places[None, :] <= places[total - length :, None]) & mask[:, None, :].bool()
            hidden = torch.where(seen, 0.0, MASKED)[:, None]  # four axes: transformers takes it as it is
            out = self.model(ids, attention_mask=hidden, position_ids=positions, past_key_values=cache, use_cache=True)
            present = [tensor for layer in out.past_key_values.layers for tensor in (layer.keys, layer.values)]
            return (out.logits, *present)

    ids, mask = torch.ones(2, 5, dtype=torch.long), torch.ones(2, 8, dtype=torch.long)  # 0 and 1 would be constants
    past, present = (cache_names(about["layers"], of) for of in (PAST, PRESENT))
    examples = (ids, mask, *(torch.zeros(2, about["heads"], 3, about["head_size"]) for _ in past))
    axes = {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "total"}}
    axes |= {LOGITS: axes["input_ids"], **{name: {0: "batch", 2: "past"} for name in past}}
    axes |= {name: {0: "batch", 2: "total"} for name in present}
    traced(WithCache(), examples, target, [*task.inputs, *past], [LOGITS, *present], axes)
