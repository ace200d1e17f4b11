"""Structured pruning in three steps: importance, allocation, removal.

After pruning the output projections are solved again, bottom-up, so that the pruned model's sums come nearest to the
unpruned model's (K-prune, arXiv 2308.03449). Post-training: minutes, a few hundred rows, no labels, no gradient steps.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import Batch

from ..config import Prune
from ..models.architectures import CONVOLUTIONAL, check_pruning
from ..models.output_kinds import tensors
from ..models.structure import (
    blocks,
    cut,
    describe_by_config,
    family,
    heads_of_groups,
    heads_per_group,
    keep_blocks,
    linear_layers,
    structure_of,
    sublayers,
)
from ..types import Progress
from .importance import (
    Removal,
    Sublayer,
    damages,
    kl_to,
    log_probabilities,
    observe,
    removal_path,
    solve,
    watching,
    weight_of,
)
from .latency_allocation import (
    Damage,
    LatencyTable,
    Layers,
    allocate,
    allocate_even,
    budget_ms,
    by_shares,
    grid,
    least_ms,
    reachable,
)

TimeShare = Callable[[Layers], float]  # measured time of a model of this shape, as a share of the unpruned model's
LAYER_ROWS = 128  # rows on which the layers are missed
SOLVE_TOKENS = 32_000  # tokens that the output projections are solved on
PICKS = 3  # shapes that are timed, at most, before one of them is pruned
NEAR_ENOUGH = 0.04  # of the time that was asked for


@dataclass(frozen=True)
class Latency:
    """What shapes of the model take on the target: needed for `speedup` and `latency_ms`."""

    table: LatencyTable
    time_share: TimeShare | None = None  # measures the selected shape, to correct the table and the selection


@dataclass(frozen=True)
class Pruned:
    """What pruning promises: milliseconds before and after (None without a latency table), and what is left."""

    promised_ms: float | None
    full_ms: float | None
    layers: list[tuple[int, int]]  # heads and neurons of each
    channels: tuple[int, ...] = ()  # of each stage of a convolutional network

    def to_json(self) -> dict:
        speedup = self.full_ms / self.promised_ms if self.full_ms and self.promised_ms else None
        shape = [{"heads": h, "ffn": f} for h, f in self.layers]
        channels = {"channels": list(self.channels)} if self.channels else {}
        return {"promised_ms": self.promised_ms, "promised_speedup": speedup, "layers": shape, **channels}


def prune(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    settings: Prune,
    *,
    latency: Latency | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Prune `model` in place; `batches` are inputs of the model, from training rows. No labels, no training here.

    With `speedup` or `latency_ms`, the damage is least within that time, by the table in `latency`. Otherwise `layers`
    are dropped by measured effect, then the heads and neurons of least importance.
    """
    report = progress or (lambda share, text: None)
    if not batches:
        raise InputError("pruning needs rows to measure on; give at least one")
    check_pruning(model.config.model_type, settings)
    if model.config.model_type in CONVOLUTIONAL:
        return _prune_channels(model, batches, settings, report)
    with linear_layers(model):
        return _prune(model, batches, settings, latency, report)


def _prune_channels(model: PreTrainedModel, batches: Sequence[Batch], settings: Prune, report: Progress) -> Pruned:
    from .channels import prune_channels

    report(0.1, "importance of the channels")
    before = list(model.config.hidden_sizes)
    after = prune_channels(model, batches, settings)
    if after == before:
        _warn_of_nothing(settings)
    model.zero_grad(set_to_none=True)
    report(1.0, "pruned")
    return Pruned(None, None, [], tuple(after))


def _warn_of_nothing(settings: Prune) -> None:
    logging.getLogger("paredown").warning(
        "prune: nothing was pruned: of each layer a whole number of heads is kept (where they share keys and values: "
        "of groups of them), and neurons and channels in multiples of %d (multiple)",
        settings.multiple,
    )


def _prune(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    settings: Prune,
    latency: Latency | None,
    report: Progress,
) -> Pruned:
    """`prune` of a transformer."""
    teacher, full, per_group = copy.deepcopy(model), shape_of(model), heads_per_group(model)
    if settings.even and len({heads for heads, _ in full}) > 1:
        raise InputError("even: the layers have different numbers of heads already; prune the original checkpoint")
    report(0.0, "which layers are missed least")
    kept = list(range(len(full)))
    if settings.layers is not None:
        kept = layers_to_keep(model, batches, settings.layers)
        keep_blocks(model, kept)
    report(0.1, "what heads and neurons are worth")
    table = None if latency is None else latency.table
    if settings.timed:
        if latency is None:
            raise InputError("prune: speedup and latency_ms need a latency table of this machine")
        paths, damage = _weigh(model, batches, settings, report)
        wanted, table = _pick(latency, damage, full, settings, report)
    else:
        seen = _seen(model, batches, settings)
        counts = by_shares(
            [s.knowledge for s in seen],
            settings,
            seen[0].weight.shape[1],
            per_group=per_group,
            even_heads=bool(family(model).shared_in),
        )
        paths = [removal_path(s, [count]) for s, count in zip(seen, counts, strict=True)]
        wanted = list(zip(counts[0::2], counts[1::2], strict=True))
    report(0.7, "pruning")
    stays = [i for i, shape in enumerate(wanted) if shape is not None]
    shapes = [shape for shape in wanted if shape is not None]
    keep_blocks(model, stays)
    cut(
        model,
        [heads_of_groups(paths[2 * i][h].units, per_group) for i, (h, _) in zip(stays, shapes, strict=True)],
        [paths[2 * i + 1][f].units for i, (_, f) in zip(stays, shapes, strict=True)],
    )
    left = shape_of(model)
    if left == full and not settings.timed:
        _warn_of_nothing(settings)
    if settings.even:
        describe_by_config(model)
    if settings.resolve and left != full:
        resolve(model, teacher, batches, [kept[i] for i in stays], report)
    model.zero_grad(set_to_none=True)
    report(1.0, "pruned")
    model.eval()
    return Pruned(table.predict(left) if table else None, table.predict(full) if table else None, left)


def _pick(
    latency: Latency,
    damage: Sequence[Damage],
    full: Layers,
    settings: Prune,
    report: Progress,
) -> tuple[list[tuple[int, int] | None], LatencyTable]:
    """The layers' shapes within the budget, and the table that agrees with what was measured of them.

    Of the shapes that were timed, the one nearest to the budget: what noise made of the last one does not decide.
    """
    table, time_share = latency.table, latency.time_share
    now = table.predict(full)
    budget = budget_ms(now, settings.speedup, settings.latency_ms)

    def choose() -> list[tuple[int, int] | None]:
        reachable(table, now, least_ms(table, damage[0].heads, damage[0].ffn), budget)
        if settings.even:
            return allocate_even(table, damage, budget, full[0][0])
        return allocate(table, damage, budget)

    timed: list[tuple[float, list[tuple[int, int] | None], LatencyTable]] = []
    while len(timed) < PICKS:
        try:
            wanted = choose()
        except InputError:
            if not timed:
                raise
            break  # the measured time leaves less than the table predicted
        left = [shape for shape in wanted if shape is not None]
        if time_share is None or left == list(full):
            return wanted, table
        report(0.6, f"timing the shape that was picked ({len(timed) + 1})")
        table = table.agreeing(full, left, time_share(left))
        miss = abs(table.predict(left) / budget - 1)
        timed.append((miss, wanted, table))
        if miss <= NEAR_ENOUGH:
            break
    return min(timed, key=lambda entry: entry[0])[1:]


def _seen(model: PreTrainedModel, batches: Sequence[Batch], settings: Prune) -> list[Sublayer]:
    """The sublayers with the importance of their units."""
    seen = observe(model, batches)
    if settings.importance == "fisher":
        return seen
    from .published_importance import importance_of_units

    scores = importance_of_units(model, batches, settings.importance)
    return [replace(s, knowledge=score, published=True) for s, score in zip(seen, scores, strict=True)]


def _weigh(
    model: PreTrainedModel, batches: Sequence[Batch], settings: Prune, report: Progress
) -> tuple[list[dict[int, Removal]], list[Damage]]:
    """For each sublayer its removals, for each layer what they cost: enough for any latency target."""
    seen = _seen(model, batches, settings)
    heads, widths = options(model, settings)
    paths = [removal_path(s, heads if s.unit > 1 else widths) for s in seen]
    report(0.3, "what each removal would cost")
    return paths, _damage(model, batches, paths)


def shape_of(model: PreTrainedModel) -> list[tuple[int, int]]:
    """(heads, neurons) of every block."""
    return [(layer.heads, layer.ffn) for layer in structure_of(model).layers]


def options(model: PreTrainedModel, settings: Prune) -> tuple[list[int], list[int]]:
    """Head counts and feed-forward widths that timed pruning chooses from."""
    heads, width = (max(counts) for counts in zip(*shape_of(model), strict=True))
    fixed = settings.even or not family(model).prunes_heads
    return [heads] if fixed else grid(heads), grid(width, settings.multiple)


def layers_to_keep(model: PreTrainedModel, batches: Sequence[Batch], layers: int | list[int]) -> list[int]:
    """Which layers stay: the list as given, or `layers` of them, dropping each time the one that is missed least.

    Missed: the KL of the answers to the unpruned model's, on the first rows.
    """
    depth = len(blocks(model))
    if isinstance(layers, list):
        return layers
    if not 1 <= layers <= depth:
        raise InputError(f"layers: {layers} is not between 1 and the model's {depth}")
    some = _some(batches, LAYER_ROWS)
    wanted = [log_probabilities(model, batch) for batch in some]
    kept = list(range(depth))
    while len(kept) > layers:
        droppable = kept[1:] if family(model).first_stays else kept
        losses = [_kl_with(model, [k for k in kept if k != drop], some, wanted) for drop in droppable]
        kept.remove(droppable[int(np.argmin(losses))])
    return kept


def resolve(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    batches: Sequence[Batch],
    layers: Sequence[int],
    report: Progress,
) -> None:
    """Solve every output projection of `model` again, bottom-up and in place, by least squares.

    The target of a sublayer is the unpruned model's sum (residual + projection) at the same place, less the residual
    that the pruned model has there by then, so that earlier errors are made up for too. `layers`: for each block of
    `model`, the number of the teacher's block it was.
    """
    some = _some_tokens(batches, SOLVE_TOKENS)
    theirs = list(sublayers(teacher))
    places = [2 * layer + half for layer in layers for half in (0, 1)]
    sums = [_stream(teacher, [theirs[place] for place in places], batch) for batch in some]
    ours = list(sublayers(model))
    for number, (layer, norm, unit) in enumerate(ours):
        report(0.75 + 0.25 * number / len(ours), f"solving projection {number + 1} of {len(ours)}")
        size = layer.in_features + 1
        gram, product = np.zeros((size, size)), np.zeros((size, layer.out_features))
        for batch, wanted in zip(some, sums, strict=True):
            inputs, residual = _until(model, (layer, norm, unit), batch)
            x = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
            gram += (x.T @ x).double().numpy()
            product += (x.T @ (wanted[number] - residual)).double().numpy()
        columns = np.arange(size if layer.bias is not None else size - 1)
        solved = torch.from_numpy(solve(gram, product, columns, weight_of(layer))).float()
        with torch.no_grad():
            layer.weight.copy_(solved[: layer.in_features].T)
            if layer.bias is not None:
                layer.bias.copy_(solved[-1])


def _damage(model: PreTrainedModel, batches: Sequence[Batch], paths: list[dict[int, Removal]]) -> list[Damage]:
    """What removals from each layer and its absence cost, nats of KL."""
    costs = damages(model, batches, paths)
    some = _some(batches, LAYER_ROWS)
    wanted = [log_probabilities(model, batch) for batch in some]
    depth = len(blocks(model))
    found = []
    for i in range(depth):
        stays = depth == 1 or (i == 0 and family(model).first_stays)
        without = np.inf if stays else _kl_with(model, [k for k in range(depth) if k != i], some, wanted)
        found.append(Damage(costs[2 * i], costs[2 * i + 1], without))
    return found


def _kl_with(model: PreTrainedModel, kept: list[int], batches: Sequence[Batch], wanted: list[torch.Tensor]) -> float:
    trial = copy.deepcopy(model)
    keep_blocks(trial, kept)
    return kl_to(trial, batches, wanted)


class _Enough(Exception):
    """What lies above the sublayer that is observed need not be computed."""


def _until(model: PreTrainedModel, place: tuple[nn.Linear, nn.Module, int], batch: Batch):
    """(inputs, residual) of one sublayer on the real tokens, (tokens, width) each; nothing above it is computed."""
    return _places(model, [place], batch)[0]


def _stream(model: PreTrainedModel, places: Sequence[tuple[nn.Linear, nn.Module, int]], batch: Batch):
    """Residual + projection at each place on the real tokens: a list of (tokens, width)."""
    found = []
    for (layer, _, _), (inputs, residual) in zip(places, _places(model, places, batch), strict=True):
        found.append(nn.functional.linear(inputs, layer.weight, layer.bias).detach() + residual)
    return found


def _places(model: PreTrainedModel, places: Sequence[tuple[nn.Linear, nn.Module, int]], batch: Batch):
    """(inputs, residual) at each place. Where norms come after the sum, the residual is the norm's input less the
    projection's output; where they come before, it is the norm's own input."""
    pre = family(model).pre_norm
    watched = [module for layer, norm, _ in places for module in ((norm, layer) if pre else (layer, norm))]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(number: int, given: torch.Tensor, output: object) -> None:
        assert isinstance(output, torch.Tensor)
        seen.append((given.detach(), output.detach()))
        if len(seen) == len(watched):
            raise _Enough

    with contextlib.suppress(_Enough), torch.no_grad(), watching(watched, keep):
        model(**tensors(batch))
    found = []
    for (first, first_out), (second, _) in zip(seen[0::2], seen[1::2], strict=True):
        inputs, residual = (second, first) if pre else (first, second - first_out)
        real = torch.from_numpy(batch["attention_mask"]).bool() if "attention_mask" in batch else ...
        found.append((inputs[real].reshape(-1, inputs.shape[-1]), residual[real].reshape(-1, residual.shape[-1])))
    return found


def _some(batches: Sequence[Batch], rows: int) -> list[Batch]:
    """Batches spread over all of them, with about this many rows together."""
    size = max(len(next(iter(batch.values()))) for batch in batches)
    count = min(len(batches), max(1, rows // size))
    return _spread(batches, count)


def _some_tokens(batches: Sequence[Batch], tokens: int) -> list[Batch]:
    """Batches spread over all of them, with about this many tokens together."""
    total = sum(
        batch["attention_mask"].sum() if "attention_mask" in batch else 200 * len(next(iter(batch.values())))
        for batch in batches
    )
    count = min(len(batches), max(1, round(len(batches) * tokens / total)))
    return _spread(batches, count)


def _spread(batches: Sequence[Batch], count: int) -> list[Batch]:
    """`count` of the batches, from the first to the last."""
    return [batches[int(i)] for i in np.linspace(0, len(batches) - 1, count).round()]
