"""Sequence-to-sequence models (T5, Marian): encoder and decoder as two modules, and generation.

Each is exported by itself, so that PyTorch, ONNX Runtime and OpenVINO are called in the same way
(`runtime.seq2seq_decoding.writer`).
Word-level distillation: Hinton et al. 2015, arXiv 1503.02531, along a given text; a row that has none learns along
the teacher's own (sequence-level: Kim and Rush 2016, arXiv 1606.07947).
"""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import Batch
from paredown.runtime.seq2seq_decoding import RULES, writer

from .architectures import SEQ2SEQ, Seq2SeqArchitecture
from .generation_config import NEUTRAL
from .output_kinds import tensors


def halves_of(model: PreTrainedModel) -> Seq2SeqArchitecture:
    """The record of a model's architecture; InputError names the known ones when it is not among them."""
    kind = model.config.model_type
    if kind not in SEQ2SEQ:
        raise InputError(f"text-to-text generation is not supported for '{kind}'; supported: {', '.join(SEQ2SEQ)}")
    return SEQ2SEQ[kind]


def depths(model: PreTrainedModel) -> tuple[int, int]:
    """Layers of the encoder and of the decoder."""
    parts = halves_of(model)
    return len(attrgetter(parts.encoder)(model)), len(attrgetter(parts.decoder)(model))


def rules_of(model: PreTrainedModel) -> dict[str, Any]:
    """How it writes: the token that begins a text, the one that ends it, padding, the most tokens of one, and what
    changes the logits (`seq2seq_decoding.RULES`)."""
    own = model.generation_config
    given = {key: getattr(own, key, None) for key in RULES}
    logits = {key: value for key, value in given.items() if value is not None and value != NEUTRAL.get(key, [])}
    return {
        **({"logits": logits} if logits else {}),
        "start_id": own.decoder_start_token_id,
        "eos_id": own.eos_token_id,
        "pad_id": own.pad_token_id,
        "max_new_tokens": own.max_new_tokens,
    }


class EncoderHalf(nn.Module):
    """Texts to the keys and values of the cross-attention of every decoder layer."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model, parts = model, halves_of(model)
        self.reads = [
            attrgetter(path)(block) for block in attrgetter(parts.decoder)(model) for path in (parts.key, parts.value)
        ]
        self.heads = getattr(model.config, parts.heads)
        self.inputs = ["input_ids", "attention_mask"]
        self.outputs = held_names("cross", len(self.reads) // 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = self.model.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return tuple(
            read(hidden).view(hidden.shape[0], -1, self.heads, read.out_features // self.heads).transpose(1, 2)
            for read in self.reads
        )


class DecoderHalf(nn.Module):
    """One more token of each row: its logits, and the keys and values with this token's own at their end."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.depth = len(attrgetter(halves_of(model).decoder)(model))
        crossed = held_names("cross", self.depth)
        self.inputs = ["input_ids", "attention_mask", *held_names("past", self.depth), *crossed]
        self.outputs = ["logits", *held_names("present", self.depth)]

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *held: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        pairs = list(zip(held[::2], held[1::2], strict=True))
        past, crossed = DynamicCache(pairs[: self.depth]), DynamicCache(pairs[self.depth :])
        width = self.model.config.d_model
        out = self.model(
            decoder_input_ids=input_ids,
            attention_mask=attention_mask,
            # of the right shape, never read: what the decoder needs of the encoder is in `crossed`
            encoder_outputs=BaseModelOutput(last_hidden_state=held[-1][:, 0, :, :1].expand(-1, -1, width)),
            past_key_values=EncoderDecoderCache(past, crossed),
            use_cache=True,
        )
        layers = cast(list[Any], past.layers)
        return (out.logits.flatten(0, 1), *(tensor for layer in layers for tensor in (layer.keys, layer.values)))


def held_names(kind: str, depth: int) -> list[str]:
    """Names of the keys and values of every layer."""
    return [f"{kind}.{i}.{part}" for i in range(depth) for part in ("key", "value")]


def write(model: PreTrainedModel, batch: Batch) -> Batch:
    """input_ids and attention_mask (rows, length) int64 -> sequences (rows, max_new_tokens) int64."""
    encoder, decoder = (partial(_run, half(model)) for half in (EncoderHalf, DecoderHalf))
    return writer(encoder, decoder, rules_of(model))(batch)


def _run(half: EncoderHalf | DecoderHalf, batch: Batch) -> Batch:
    given = tensors(batch)
    with torch.inference_mode():
        found = half(*(given[name] for name in half.inputs))
    return {name: tensor.numpy() for name, tensor in zip(half.outputs, found, strict=True)}
