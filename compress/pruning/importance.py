"""Importance of attention heads and FFN neurons, and the error of leaving some of them out.

Nothing is trained and no labels are needed. Knowledge: the Fisher information of a mask on each unit (Kwon et al. 2022,
arXiv 2204.09656), with respect to the teacher's own distribution, so that it is the curvature of the KL to the teacher
(K-prune, arXiv 2308.03449). Representation: the error that the best linear reconstruction from the other units leaves
(optimal brain surgeon, as in ZipLM, arXiv 2302.04089).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import Batch

from ..models.output_kinds import answers, divergence, kind_of, tensors
from ..models.structure import sublayers

DAMPING = 1e-3  # of the mean diagonal of a Gram matrix, so that units which never fire do not blow up


@dataclass
class Sublayer:
    """An output projection seen on the calibration rows. Its input has one more column, of ones, for the bias."""

    gram: np.ndarray  # (inputs + 1, inputs + 1) float64, over real tokens
    knowledge: np.ndarray  # (units,) float64
    weight: np.ndarray  # (inputs + 1, outputs) float64, the last row is the bias
    unit: int  # inputs that make up one unit
    published: bool = False  # knowledge is a score of `published_importance`: it decides alone, and once


@dataclass
class Removal:
    """One way to thin a sublayer out: the units that stay, and the weight (inputs kept + 1, outputs) solved again."""

    units: np.ndarray
    weight: np.ndarray


def observe(model: PreTrainedModel, batches: Sequence[Batch], seed: int = 0) -> list[Sublayer]:
    """Gram matrices and knowledge of every sublayer, bottom-up, from one forward and backward pass over the rows."""
    found = [
        Sublayer(np.zeros((n := layer.in_features + 1, n)), np.zeros(layer.in_features // unit), weight_of(layer), unit)
        for layer, _, unit in sublayers(model)
    ]
    weights = [layer.weight.detach() for layer, _, _ in sublayers(model)]
    for inputs, gradients, mask, _ in _traced(model, batches, seed):
        for sub, weight, x, g in zip(found, weights, inputs, gradients, strict=True):
            ones = _with_ones(x, mask)
            flat = ones.reshape(-1, ones.shape[-1])
            sub.gram += (flat.T @ flat).double().numpy()
            per_input = (x * (g @ weight)).sum(1)  # (rows, inputs): the gradient of a mask on each input
            per_unit = per_input.reshape(len(x), -1, sub.unit).sum(-1)
            sub.knowledge += per_unit.double().square().sum(0).numpy()
    return found


def removal_path(sub: Sublayer, counts: Sequence[int]) -> dict[int, Removal]:
    """For each number of units in `counts`: which stay, and the output weight re-solved by least squares.

    Units go from the largest count to the smallest, those of least worth first, judged again after each removal.
    """
    units = len(sub.knowledge)
    knowledge = sub.knowledge / max(sub.knowledge.sum(), 1e-30)
    kept, product = np.arange(units), sub.gram @ sub.weight
    path: dict[int, Removal] = {}
    for count in sorted(counts, reverse=True):
        if count < len(kept):
            worth = knowledge[kept]
            if not sub.published:
                error = _error_without_each(sub, kept, product)
                worth = worth + error / max(error.sum(), 1e-30)
            kept = np.sort(kept[np.argsort(-worth, kind="stable")[:count]])
        path[count] = Removal(kept, solve(sub.gram, product, _columns(kept, sub.unit, units), sub.weight))
    return path


def damages(
    model: PreTrainedModel, batches: Sequence[Batch], paths: Sequence[dict[int, Removal]], seed: int = 0
) -> list[dict[int, float]]:
    """Nats of KL an answer of each removal from each sublayer alone, second order: mean (gradient x change)^2 / 2."""
    changes = []
    for path, (layer, _, unit) in zip(paths, sublayers(model), strict=True):
        whole = weight_of(layer)
        rows = []
        for removal in path.values():
            change = -whole
            change[_columns(removal.units, unit, layer.in_features // unit)] += removal.weight
            rows.append(change.ravel())
        changes.append(torch.from_numpy(np.stack(rows)).float())
    totals = [np.zeros(len(path)) for path in paths]
    count = 0
    for inputs, gradients, mask, lines in _traced(model, batches, seed):
        count += lines
        for total, change, x, g in zip(totals, changes, inputs, gradients, strict=True):
            outer = torch.einsum("bti,bto->bio", _with_ones(x, mask), g).reshape(len(x), -1)
            total += (outer @ change.T).double().square().sum(0).numpy()
    return [
        {n: float(t) / (2 * count) for n, t in zip(path, total, strict=True)}
        for path, total in zip(paths, totals, strict=True)
    ]


def solve(gram: np.ndarray, product: np.ndarray, columns: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """The weight on `columns` (the column of ones included) that comes nearest to `product` = X^T target.

    argmin |X[:, columns] w - target|^2 + damping |w - prior[columns]|^2, (columns, outputs) float64.
    """
    inner, damping = _damped(gram, columns)
    return np.linalg.solve(inner, product[columns] + damping * prior[columns])


def _damped(gram: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, float]:
    """The Gram matrix of these columns with the damping on its diagonal, and the damping."""
    inner = gram[np.ix_(columns, columns)]  # a copy
    damping = DAMPING * np.trace(inner) / len(columns) + 1e-12
    inner[np.diag_indices_from(inner)] += damping
    return inner, float(damping)


def kl_to(model: PreTrainedModel, batches: Sequence[Batch], wanted: Sequence[torch.Tensor]) -> float:
    """Mean KL from the teacher's log-probabilities `wanted` (one tensor a batch) to the model's, nats an answer; of
    numbers, half the mean squared difference."""
    total, rows = 0.0, 0
    for batch, want in zip(batches, wanted, strict=True):
        total += float(divergence(log_probabilities(model, batch), want)) * len(want)
        rows += len(want)
    return total / rows


@torch.inference_mode()
def log_probabilities(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """(rows, labels) or (real tokens, labels) float32, the model as it is; numbers (rows, 1) as they are."""
    inputs = tensors(batch)
    found = answers(model(**inputs).logits, inputs.get("attention_mask"), kind_of(model))
    return found if found.shape[-1] == 1 else found.log_softmax(-1)


@contextmanager
def watching(modules: Sequence[nn.Module], call: Callable[[int, torch.Tensor, object], None]) -> Iterator[None]:
    """Call `call(number, first input, output)` whenever one of the modules has run; the hooks come off at the end."""
    hooks = [
        module.register_forward_hook(lambda _, given, output, i=i: call(i, given[0], output))
        for i, module in enumerate(modules)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def random_log_likelihood(lines: torch.Tensor, signs: torch.Generator) -> torch.Tensor:
    """A scalar whose squared gradient has the Fisher information as its mean, over all labels in one backward pass.

    `lines`: `answers` of a batch. It is the sum of e_c sqrt(p_c) log p_c with random signs e; for numbers, the mean of
    a normal distribution, of e times them.
    """
    sign = torch.randint(0, 2, lines.shape, generator=signs) * 2.0 - 1.0
    logs = lines.log_softmax(-1)
    terms = lines if lines.shape[-1] == 1 else (logs.detach() / 2).exp() * logs
    return (sign * terms).sum()


def _traced(model: PreTrainedModel, batches: Sequence[Batch], seed: int):
    """For each batch: inputs and output gradients of every sublayer, (rows, tokens, width), the real-token mask, and
    how many answers the model gave. The gradient is that of `random_log_likelihood`.
    """
    if not batches:
        raise InputError("pruning needs rows to measure on; give at least one")
    layers = [layer for layer, _, _ in sublayers(model)]
    signs = torch.Generator().manual_seed(seed)
    inputs: list[torch.Tensor] = [torch.empty(0)] * len(layers)
    outputs: list[torch.Tensor] = [torch.empty(0)] * len(layers)

    def call(i: int, given: torch.Tensor, output: object) -> None:
        assert isinstance(output, torch.Tensor)
        inputs[i], outputs[i] = given.detach(), output

    model.eval()
    for batch in batches:
        with watching(layers, call), torch.enable_grad():
            given = tensors(batch)
            lines = answers(model(**given).logits, given.get("attention_mask"), kind_of(model))
            gradients = torch.autograd.grad(random_log_likelihood(lines, signs), outputs)
        mask = (
            torch.from_numpy(batch["attention_mask"])
            if "attention_mask" in batch
            else inputs[0].new_ones(inputs[0].shape[:2])
        )
        yield inputs, gradients, mask.float(), len(lines)


def _with_ones(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """x with a column of ones, all zero where a token is padding."""
    return torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=-1) * mask.unsqueeze(-1)


def weight_of(layer: nn.Linear) -> np.ndarray:
    """(inputs + 1, outputs) float64; the last row is the bias, zero where there is none."""
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
    return torch.cat([layer.weight.detach().T, bias[None]]).double().numpy()


def _columns(units: np.ndarray, unit: int, count: int) -> np.ndarray:
    """Input columns of these units, and the column of ones at the end."""
    return np.append((units[:, None] * unit + np.arange(unit)).ravel(), count * unit)


def _error_without_each(sub: Sublayer, kept: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Squared output error that is left when one unit goes and the others are re-solved: tr(w_u^T (H^-1_uu)^-1 w_u)."""
    columns = _columns(kept, sub.unit, len(sub.knowledge))
    inner, _ = _damped(sub.gram, columns)
    weight = np.linalg.solve(inner, product[columns])[:-1]
    inverse = np.linalg.inv(inner)[:-1, :-1]
    if sub.unit == 1:
        return np.square(weight).sum(1) / np.diag(inverse)
    weight = weight.reshape(len(kept), sub.unit, -1)
    block = np.stack([inverse[i : i + sub.unit, i : i + sub.unit] for i in range(0, len(inverse), sub.unit)])
    return np.einsum("uio,uij,ujo->u", weight, np.linalg.inv(block), weight)
