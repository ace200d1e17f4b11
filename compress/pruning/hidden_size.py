"""Pruning of the hidden size in every layer (through torch-pruning), so that config.json still describes the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch_pruning
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import batches_of
from paredown.tasks.rows import some_of

from ..models.output_kinds import OutputKind, answers, kind_of, pad_id, tensors
from ..models.structure import blocks, cut, describe_by_config, family, head_size, structure_of, sublayers
from .importance import observe, removal_path, watching

ROWS = 128  # that the width is chosen on


def narrow(model: PreTrainedModel, ids: Sequence[Sequence[int]], width: int) -> None:
    """Prune the hidden size of `model` to `width` in place, least important components first; training has to follow.

    Worth: |value x gradient| at the layer norms (Molchanov et al. 2017, arXiv 1611.06440), summed over rows `ids`.
    """
    size, hidden = head_size(model), model.config.hidden_size
    if family(model).pre_norm or not family(model).prunes_heads or family(model).head_counts:
        raise InputError(f"width: a '{model.config.model_type}' model cannot be made narrower; use layers or ffn")
    if width % size or not size <= width <= hidden:
        raise InputError(f"width: {width} is not a multiple of the size of a head, {size}, between {size} and {hidden}")
    if width == hidden:
        return
    if kind_of(model) is OutputKind.VECTOR:
        raise InputError("width: a student's vectors have to be as wide as its teacher's; use layers, heads or ffn")
    batches = batches_of([ids[i] for i in some_of(len(ids), ROWS)], pad_id(model))
    heads = [removal_path(s, [width // size])[width // size].units for s in observe(model, batches)[0::2]]
    cut(model, heads, [np.arange(layer.ffn) for layer in structure_of(model).layers])
    worth = _worth(model, batches)
    gone = worth.argsort()[: hidden - width].tolist()
    attention = model.config._attn_implementation or "eager"
    model.set_attn_implementation("eager")  # the graph is traced through the plain formula
    words = model.get_input_embeddings()
    assert isinstance(words, nn.Embedding)
    narrow_words = words.embedding_dim != hidden  # ELECTRA's embeddings have a width of their own
    start = next(sublayers(model))[0] if narrow_words else words
    prune = torch_pruning.prune_linear_out_channels if narrow_words else torch_pruning.prune_embedding_out_channels
    _graph(model).get_pruning_group(start, prune, gone).prune()
    for layer in _outside(model):  # what comes after the encoder is as wide as config.json's hidden size too
        if layer.out_features == hidden:
            least = layer.weight.detach().norm(dim=1).argsort()[: hidden - width].tolist()
            _graph(model).get_pruning_group(layer, torch_pruning.prune_linear_out_channels, least).prune()
    model.set_attn_implementation(attention)
    model.config.hidden_size = width
    model.config.num_attention_heads = width // size
    if words.embedding_dim == width and hasattr(model.config, "embedding_size"):
        model.config.embedding_size = width
    describe_by_config(model)
    model.zero_grad(set_to_none=True)


def _worth(model: PreTrainedModel, batches) -> torch.Tensor:
    norms = [norm for _, norm, _ in sublayers(model)]
    outputs: list[torch.Tensor] = [torch.empty(0)] * len(norms)

    def keep(i: int, given: torch.Tensor, output: object) -> None:
        assert isinstance(output, torch.Tensor)
        outputs[i] = output

    worth = torch.zeros(model.config.hidden_size)
    model.eval()
    for batch in batches:
        with watching(norms, keep), torch.enable_grad():
            given = tensors(batch)
            logits = answers(model(**given).logits, given["attention_mask"], kind_of(model))
            sure = logits if logits.shape[-1] == 1 else logits.log_softmax(-1).amax(-1)
            gradients = torch.autograd.grad(sure.sum(), outputs)
        for output, gradient in zip(outputs, gradients, strict=True):
            worth += (output.detach() * gradient).abs().sum((0, 1))
    return worth


def _graph(model: PreTrainedModel) -> torch_pruning.DependencyGraph:
    example = {name: torch.ones(1, 8, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example)


def _outside(model: PreTrainedModel) -> list[nn.Linear]:
    inside = set(blocks(model).modules())
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m not in inside]
