"""Parameter-efficient fine-tuning: adapters of peft, merged into the weights afterwards.

Prompts and prefixes are left out: they have nothing to be merged into, and pruning works on weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from paredown.runtime.errors import InputError, missing_extra

from ..config import Adapter

ORTHOGONAL = 0.5  # weight of AdaLoRA's penalty, the paper's


@dataclass(frozen=True)
class AdapterTraining:
    """Adapters that are being trained: what they add to the loss, and what has to be called during training."""

    model: nn.Module
    callbacks: list[TrainerCallback]
    orthogonal: bool

    def penalty(self) -> torch.Tensor | float:
        """AdaLoRA keeps its factors orthogonal: mean of ||P^T P - I|| (arXiv 2303.10512, eq. 4); otherwise 0."""
        if not self.orthogonal:
            return 0.0
        terms = []
        for name, p in self.model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                square = p @ p.T if ".lora_A." in name else p.T @ p
                terms.append(torch.linalg.norm(square - torch.eye(len(square), device=p.device)))
        return ORTHOGONAL * torch.stack(terms).mean()


@contextmanager
def adapted(model: PreTrainedModel, settings: Adapter, steps: int) -> Iterator[AdapterTraining]:
    """Adapters beside every linear layer below the head, in place; merged and gone when the block has ended well.

    The head is trained in full. `steps`: optimiser steps to come, which AdaLoRA's budget is spread over.
    """
    try:
        import peft
    except ImportError as error:
        raise missing_extra(error.name or "peft", "compress") from None
    own = model.base_model is not model and hasattr(model, model.base_model_prefix)
    base = f"{model.base_model_prefix}." if own else ""  # "": an encoder has no head, a model that writes one
    inside = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and name.startswith(base) and part is not model.get_output_embeddings()
    ]
    if not inside:
        raise InputError("peft: this model has no linear layers below its head; fine-tune it in full")
    wrapped = cast(Any, peft.get_peft_model(model, _config(peft, settings, inside, steps)))  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if base and not name.startswith(base):
            parameter.requires_grad_(True)
    adaptive = settings.kind == "adalora"
    yield AdapterTraining(model, [_Allocate(wrapped.base_model)] if adaptive else [], adaptive)
    wrapped.merge_and_unload()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
        parameter.data = parameter.data.contiguous()  # safetensors takes nothing else
    if hasattr(model, "peft_config"):
        del model.peft_config


def _config(peft: Any, settings: Adapter, inside: list[str], steps: int) -> Any:
    common = {"target_modules": inside}
    low_rank = {"r": settings.rank, "lora_alpha": settings.alpha, "lora_dropout": settings.dropout}
    rank, alpha, dropout = settings.rank, settings.alpha, settings.dropout
    if settings.kind == "adalora":
        if steps < 10:
            raise InputError(f"peft: adalora spreads its ranks over the steps, and {steps} are too few; use lora")
        spread = {"tinit": steps // 10, "tfinal": steps // 3, "deltaT": max(1, steps // 100), "total_step": steps}
        low_rank |= {"target_r": rank, "init_r": round(1.5 * rank), **spread}
        return peft.AdaLoraConfig(**common, **low_rank)
    configs = {
        "lora": lambda: peft.LoraConfig(**common, **low_rank),
        "dora": lambda: peft.LoraConfig(**common, **low_rank, use_dora=True),
        "ia3": lambda: peft.IA3Config(**common, feedforward_modules=[]),
        "loha": lambda: peft.LoHaConfig(**common, r=rank, alpha=alpha, module_dropout=dropout),
        "lokr": lambda: peft.LoKrConfig(**common, r=rank, alpha=alpha, module_dropout=dropout),
        "oft": lambda: peft.OFTConfig(**common, r=0, oft_block_size=_block(rank), module_dropout=dropout),
    }
    return configs[settings.kind]()


def _block(rank: int) -> int:
    """OFT rotates blocks of inputs: the power of two next above the rank divides every usual width."""
    return 1 << max(1, (rank - 1).bit_length())


class _Allocate(TrainerCallback):
    """AdaLoRA moves its ranks to where they matter, after every step and before the gradients are gone."""

    def __init__(self, tuner: Any) -> None:
        self.tuner = tuner

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.tuner.update_and_allocate(state.global_step + 1)
