"""Compares what transformers has loaded with the weight file: unexpected, missing, newly made or tied weights are
errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from paredown.runtime.errors import InputError

from .advice import drop_names, set_key, write_again
from .transformers4 import OUTPUT, own_output_layer
from .validation import read_json

# Weights beside those of a head that change no answer of it: buffers that are computed, the pooler where the head does
# not use it, and the heads of pre-training.
HARMLESS = re.compile(
    r"(^|\.)position_ids$|(^|\.)token_type_ids$|rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$|num_batches_tracked$"
    r"|(^|\.)mask_token$|(^|\.)pooler\.|^cls\.(predictions|seq_relationship)\.|^lm_head\.|^lm_predictions\."
    r"|^(vocab_transform|vocab_layer_norm|vocab_projector)\.|^(generator|discriminator|mask)_\w+\.|^loss_fct\."
    r"|^class_weights?$"
)
HEADS = {"modernbert": r"^(head\.(dense|norm)|decoder)\."}  # of pre-training, under names that others use too


def compare(report: Mapping[str, Any], model: PreTrainedModel, weights: Path, *, new_head: bool, vector: bool) -> None:
    """Raise InputError where `report`, the `output_loading_info` of transformers, says that the model is not the file.

    `new_head`: the head was made up on purpose, so only the encoder below it counts. `vector`: the model answers with
    its hidden states, and its pooler counts for nothing.
    """
    inside = {name for name, _ in model.base_model.named_children()}
    prefix = f"{model.base_model_prefix}."

    def counts(name: str) -> bool:
        return not new_head or name.removeprefix(prefix).partition(".")[0] in inside

    for name, there, wanted in sorted(map(tuple, report.get("mismatched_keys", ()))):
        if counts(name) and not (vector and name.startswith("pooler.")):
            raise InputError(
                f"{weights}: '{name}' is {_shape(there)}, and config.json beside it makes it {_shape(wanted)}; these "
                "two files are not of one model: copy them again from where it was saved"
            )
    missing = [k for k in report["missing_keys"] if counts(k) and not (_pooler(k) and (vector or new_head))]
    if missing:
        raise InputError(f"{weights.parent}: weights are missing: {_some(missing)}")
    own = re.compile(HEADS.get(str(model.config.model_type), r"(?!)"))
    unexpected = [k for k in report["unexpected_keys"] if not (HARMLESS.search(k) or own.search(k)) and counts(k)]
    if unexpected:
        names = sorted(unexpected)
        kind = type(model).__name__
        without = drop_names(weights, names) if len(names) <= 8 else write_again(weights.parent, kind, "without")
        raise InputError(
            f"{weights}: '{kind}' of config.json has no place for {_some(names)}, and answers without "
            "them; is config.json the one that was saved with these weights? If they are not part of the model, take "
            f"them out: {without}"
        )
    if report.get("error_msgs"):
        raise InputError(f"{weights.parent}: does not load: {' '.join(map(str, report['error_msgs']))[:300]}")
    _tied(model, weights)


def _pooler(name: str) -> bool:
    return "pooler" in name.split(".")[:2]


def _tied(model: PreTrainedModel, weights: Path) -> None:
    """Raise InputError where two weights that the config ties are both in the file, and differ."""
    declared = getattr(model, "get_expanded_tied_weights_keys", None)
    if declared is None:
        return
    wanted, found = declared(all_submodels=True), model.all_tied_weights_keys
    own = own_output_layer(read_json(weights.parent / "config.json"))  # transformers 5 declares it as tied
    for target, source in wanted.items():
        if target in found or source in found or (own and target == OUTPUT):
            continue
        config = weights.parent / "config.json"
        raise InputError(
            f"{weights}: config.json ties '{target}' to '{source}', and the file has both with other values; say which "
            f"count: both ({set_key(config, 'tie_word_embeddings', False)}), or '{source}' for both "
            f"({drop_names(weights, [target])})"
        )


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _shape(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes)) or "one number"
