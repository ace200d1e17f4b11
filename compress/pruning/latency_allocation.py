"""Latency-aware allocation: how much of each layer to keep within a time budget, from measured milliseconds. Without
torch.

A dynamic program over the layers, as in ZipLM (arXiv 2302.04089): each layer is taken at one of its measured shapes, or
left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from paredown.runtime.errors import InputError

from ..config import Prune

Layers = Sequence[tuple[int, int]]  # (heads, neurons) of each layer
BINS = 2000  # the budget's resolution: time is rounded up to budget / BINS


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a model's parts, measured on one machine in one runtime and precision on the user's own rows.

    `base_ms`: everything but the blocks. `heads_ms[n]`, `ffn_ms[n]`: what attention with n heads and a feed-forward
    part of n neurons take in one block.
    """

    runtime: str
    precision: str
    batch_size: int
    base_ms: float
    heads_ms: Mapping[int, float]
    ffn_ms: Mapping[int, float]

    def predict(self, layers: Layers) -> float:
        """Milliseconds of a model with these (heads, neurons), a pair for each block; between counts, interpolated."""
        return self.base_ms + sum(_between(self.heads_ms, h) + _between(self.ffn_ms, f) for h, f in layers)

    def agreeing(self, full: Layers, layers: Layers, share: float) -> LatencyTable:
        """The table with what is saved scaled so that `layers` take `share` of what `full` take, as it was measured."""
        whole = self.predict(full)
        predicted = whole - self.predict(layers)
        if predicted <= 0:
            return self
        scale = max(0.1, whole * (1 - share) / predicted)  # noise must not turn a saving into a loss
        return replace(
            self,
            base_ms=whole - scale * (whole - self.base_ms),
            heads_ms={n: scale * ms for n, ms in self.heads_ms.items()},
            ffn_ms={n: scale * ms for n, ms in self.ffn_ms.items()},
        )

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(data: dict) -> LatencyTable:
        """Read what `to_json` gave; KeyError, TypeError, AttributeError or ValueError where it is something else."""
        numbers = {key: {int(n): float(ms) for n, ms in data[key].items()} for key in ("heads_ms", "ffn_ms")}
        times = [float(data["base_ms"]), *(ms for part in numbers.values() for ms in part.values())]
        if not all(numbers.values()) or not np.isfinite(times).all():
            raise ValueError("a latency table without times")
        return LatencyTable(**{**data, **numbers})


@dataclass(frozen=True)
class Damage:
    """Nats of KL to the teacher: by heads left in a layer, by neurons left, and without the layer."""

    heads: Mapping[int, float]
    ffn: Mapping[int, float]
    without: float


def budget_ms(now: float, speedup: float | None, ms: float | None) -> float:
    """The time that a target allows, ms; `now`: what the unpruned model takes."""
    if ms is not None:
        return ms
    assert speedup is not None
    return now / speedup


def least_ms(table: LatencyTable, heads: Iterable[int], ffn: Iterable[int]) -> float:
    """Milliseconds of one layer with the fewest of these heads and neurons: the smallest pruned model."""
    return table.predict([(min(heads), min(ffn))])


def reachable(table: LatencyTable, now: float, least: float, budget: float) -> None:
    """InputError with the best that can be reached, `least` ms, when the budget is below it. `now`: of the unpruned
    model, ms."""
    if budget < least:
        raise InputError(
            f"prune: {budget:.2f} ms ({now / budget:.1f}x) cannot be reached by pruning: the smallest shape takes "
            f"{least:.2f} ms ({now / least:.1f}x faster than {now:.2f} ms) in {table.runtime} {table.precision}; "
            "ask for less, or make a static student"
        )


def allocate(table: LatencyTable, damage: Sequence[Damage], budget: float) -> list[tuple[int, int] | None]:
    """(heads, neurons) of each layer, None where it goes: least total damage within `budget` ms. One stays at least."""
    step = (budget - table.base_ms) / BINS
    if step <= 0:
        raise InputError(f"prune: {budget:.2f} ms is less than all but the layers take, {table.base_ms:.2f} ms")
    best = np.full(BINS + 1, np.inf)
    best[0] = 0.0
    picks: list[list[tuple[int, int] | None]] = []
    taken: list[np.ndarray] = []
    for layer in damage:
        options: list[tuple[tuple[int, int] | None, float, int]] = [(None, layer.without, 0)]
        for h, lost_heads in layer.heads.items():
            for f, lost_ffn in layer.ffn.items():
                ms = _between(table.heads_ms, h) + _between(table.ffn_ms, f)
                options.append(((h, f), lost_heads + lost_ffn, int(np.ceil(ms / step - 1e-9))))
        reached = np.full((len(options), BINS + 1), np.inf)
        for i, (_, lost, bins) in enumerate(options):
            if bins <= BINS:
                reached[i, bins:] = best[: BINS + 1 - bins] + lost
        taken.append(reached.argmin(axis=0))
        best = reached.min(axis=0)
        picks.append([shape for shape, _, _ in options])
        bins_of = np.array([bins for _, _, bins in options])
        taken[-1] = np.stack([taken[-1], bins_of[taken[-1]]])
    if not np.isfinite(best[1:]).any():
        raise InputError(f"prune: no choice of layers fits {budget:.2f} ms")
    at = 1 + int(best[1:].argmin())  # bin 0 would be a model without layers
    chosen = []
    for shapes, choice in zip(reversed(picks), reversed(taken), strict=True):
        option, bins = choice[0, at], choice[1, at]
        chosen.append(shapes[option])
        at -= bins
    return chosen[::-1]


def allocate_even(
    table: LatencyTable, damage: Sequence[Damage], budget: float, heads: int
) -> list[tuple[int, int] | None]:
    """As `allocate`, with one width for all layers and every head kept, so that config.json can describe it."""
    order = np.argsort([layer.without for layer in damage], kind="stable")  # the layers that are missed least go first
    found: tuple[float, list[tuple[int, int] | None]] | None = None
    for gone in range(len(damage)):
        drop = set(order[:gone].tolist())
        for width in damage[0].ffn:
            shape: list[tuple[int, int] | None] = [None if i in drop else (heads, width) for i in range(len(damage))]
            if table.predict([s for s in shape if s]) > budget:
                continue
            lost = sum(d.without if s is None else d.ffn[width] for d, s in zip(damage, shape, strict=True))
            if found is None or lost < found[0]:
                found = (lost, shape)
    if found is None:
        raise InputError(f"prune: no even shape fits {budget:.2f} ms")
    return found[1]


def by_shares(
    worth: Sequence[np.ndarray], settings: Prune, width: int, *, per_group: int = 1, even_heads: bool = False
) -> list[int]:
    """Units to keep in each sublayer: the settings' shares, the same for all layers (`even`; of heads alone:
    `even_heads`) or by worth over all.

    `worth`: (units,) of each sublayer, heads (or groups of `per_group` of them) and neurons in turns. Even heads have
    to divide `width`, the hidden size, or config.json could not describe them: fewer are kept until they do.
    """
    counts = [0] * len(worth)
    for half, share, multiple in ((0, settings.heads, 1), (1, settings.ffn, settings.multiple)):
        everything = np.sort(np.concatenate(worth[half::2]))
        threshold = everything[len(everything) - max(1, round(share * len(everything)))]
        even = settings.even or (even_heads and half == 0)
        for i, layer in enumerate(worth[half::2]):
            count = share * len(layer) if even else int((layer >= threshold).sum())
            snapped = round(count / multiple) * multiple
            low = min(multiple, len(layer))
            kept = len(layer) if share >= 1 else min(max(snapped, low), len(layer))
            while even and half == 0 and share < 1 and width % (kept * per_group):
                kept -= 1
            counts[2 * i + half] = kept
    return counts


def grid(full: int, multiple: int = 1) -> list[int]:
    """Counts to measure and to choose from, largest first: steps of a tenth of what is left, as ZipLM times them."""
    counts = {full}
    share = 0.9
    while share > 0.03:
        count = round(full * share / multiple) * multiple
        if 0 < count < full:
            counts.add(count)
        share *= 0.85
    return sorted(counts, reverse=True)


def _between(measured: Mapping[int, float], count: int) -> float:
    if count in measured:
        return measured[count]
    known = sorted(measured)
    return float(np.interp(count, known, [measured[n] for n in known]))
