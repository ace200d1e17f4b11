"""The latency table: milliseconds of a model's parts on this machine, fitted to a few exported and timed surrogates.

A surrogate has the checkpoint's own architecture with other layers, so that everything the runtime does to the real
model (fusion, INT8, kernels for that size) happens to it too. It knows the tokens of the measured rows only: the rest
of an embedding takes no time to run and much to export. What it answers does not matter, and is not judged.
The table adds parts up, which no real model quite does: so the shape that pruning selected from the table is timed as
well, beside the unpruned one (`Stopwatch.share`).
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from transformers import PreTrainedModel

from paredown.benchmarks.measuring.interleaved import Protocol, Workload
from paredown.benchmarks.measuring.latency import CONTROL, SINGLE, LatencySettings, Scenario, Timing
from paredown.benchmarks.measuring.repetitions import measure
from paredown.benchmarks.statistics.time_intervals import ratio
from paredown.compress.config import Prune, Timed
from paredown.compress.models.loading import Checkpoint, load, save
from paredown.compress.models.structure import Layer, Structure, family, head_size, keep_blocks, reshape, widen
from paredown.compress.pruning.latency_allocation import LatencyTable, Layers, budget_ms, least_ms, reachable
from paredown.compress.pruning.prune import options, shape_of
from paredown.compress.pruning.vocabulary import keep_tokens
from paredown.export.hardware import cores, fingerprint
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.onnx.static_shapes import shaped
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import MARK, collate
from paredown.tasks.base import Feature, Task
from paredown.tasks.rows import some_of

from ..progress import Report

SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)  # of the heads and of the feed-forward width
DEPTH = 3  # layers of a surrogate
MULTIPLE = 32  # feed-forward widths of the surrogates
ROWS = 256  # of the user's own, for their lengths
SETTINGS = LatencySettings(processes=2, rounds=4, min_seconds=1.6, min_repeats=96)
# one shape beside the unpruned model, while the table is corrected; and what was promised, whose interval is printed
PAIR = LatencySettings(processes=2, rounds=10, min_seconds=4, min_repeats=240)
PROMISE = LatencySettings(processes=5, rounds=4, min_seconds=4, min_repeats=240)
STEADY = 0.04  # that the unpruned model may differ from itself by; a noisier measurement is made again
TRIES = 3
Cut = tuple[Prune, int]  # pruning to a time, and how many layers it is given
Answer = TypeVar("Answer")
VERSION = 4  # of the way it is measured: what was measured in another is not remembered


@dataclass(frozen=True)
class Stopwatch:
    """Times shapes of one checkpoint in one target, on the user's own rows (token `ids`) at their natural lengths.

    What was measured is kept in the cache directory under the machine's fingerprint: the same question again takes no
    time, and a run that was killed continues with the same numbers.
    """

    checkpoint: Checkpoint
    task: Task
    ids: Sequence[Sequence[int]]
    target: Timed
    max_length: int
    lengths: tuple[int, ...] = ()  # that calls are padded to

    def table(self, report: Report = lambda share, text: None) -> LatencyTable:
        """What heads and neurons take."""
        target, known = self.target, RUNTIMES[self.target.runtime].precisions(self.task)
        if target.precision not in known:
            raise InputError(
                f"prune: target: precision {target.precision}: for {self.task.name}, {target.runtime} runs "
                f"{', '.join(known)}"
            )
        return self._remembered("table", lambda: self._measured(report).to_json(), LatencyTable.from_json)

    def check(self, table: LatencyTable, cuts: Sequence[Cut]) -> None:
        """InputError when one of the prunings of a model, one after another, asks for the impossible.

        Steps between them make nothing slower: pruning is given its number of the slowest layers at most, and no more
        time than the pruning before it has left.
        """
        slowest = sorted(self.full, key=lambda shape: -table.predict([shape]))
        left = np.inf
        for cut, depth in cuts:
            now = min(left, table.predict(slowest[:depth]))
            left = budget_ms(now, cut.speedup, cut.latency_ms)
            reachable(table, now, least_ms(table, *options(self._model, cut)), left)

    def share(self, layers: Layers) -> float:
        """Time of a surrogate of this shape, as a share of the unpruned model's, in one interleaved run."""

        def timed() -> float:
            found: list[tuple[float, float]] = []  # how far the unpruned model was from itself, and the share
            with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
                paths = self._stand_ins({"uncut": self.full, "cut": layers}, Path(scratch))
                while len(found) < TRIES and not (found and found[-1][0] < STEADY):
                    turns = {name: t.turns[SINGLE] for name, t in self._measure(paths, self._known, PAIR).items()}
                    again = _paired(turns[CONTROL], turns["uncut"])
                    found.append((abs(again - 1), _paired(turns["cut"], turns["uncut"]) / np.sqrt(again)))
            return float(min(found)[1])

        return self._remembered(f"share of {[list(layer) for layer in layers]}", timed, _share)

    def speedup(self, after: Checkpoint) -> tuple[float, float, float]:
        """How many times faster `after` is than the checkpoint, with its 95 % interval, in one interleaved run."""
        with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
            paths = {
                name: self._exported(checkpoint, self._rows, Path(scratch) / name)
                for name, checkpoint in (("before", self.checkpoint), ("after", after))
            }
            timings = self._measure(paths, self._rows, PROMISE, look=True)
        uncut, ours = timings["before"], timings["after"]
        return ratio(uncut.turns[SINGLE], ours.turns[SINGLE], ours.processes)

    @cached_property
    def full(self) -> list[tuple[int, int]]:
        """(heads, neurons) of the checkpoint's own layers."""
        return shape_of(self._model)

    @property
    def _model(self) -> PreTrainedModel:
        return self._small[0]

    @property
    def _known(self) -> list:
        """The rows in the surrogates' token numbers."""
        numbers = self._small[1]
        if numbers is None:
            return self._rows
        return [[numbers[token % MARK] for token in row] for row in self._rows]

    @cached_property
    def _small(self) -> tuple[PreTrainedModel, dict[int, int] | None]:
        """The checkpoint with the embeddings of the rows' tokens only, and the numbers it gives to them; all of it and
        None where the vocabulary cannot be trimmed. A decoder's last product, as large as its vocabulary, takes time.
        """
        model = load(self.checkpoint, self.task)
        if not self.task.supports(Feature.TRIM):
            return model, None
        return model, keep_tokens(model, {token % MARK for row in self._rows for token in row})

    @cached_property
    def _rows(self) -> list:
        return [self.ids[i] for i in some_of(len(self.ids), ROWS)]

    def _remembered(self, question: str, measured: Callable[[], Any], read: Callable[[Any], Answer]) -> Answer:
        """What `read` makes of the answer (JSON) that was measured on this machine before, or is measured now.

        A file that is damaged, which `read` or the parser finds, counts as missing.
        """
        config = self.checkpoint.config
        key = {
            "question": question,
            "version": VERSION,
            "machine": fingerprint(),
            "threads": cores(),
            "config": {k: v for k, v in config.items() if isinstance(v, int | float | str) and "vocab" not in k},
            "layers": self.full,
            "target": self.target.model_dump(),
            "lengths": sorted(len(row) for row in self._rows),
            "padded_to": self.lengths,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paredown" / f"latency-{digest}.json"
        try:
            return read(json.loads(cache.read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        answer = measured()
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            scratch = cache.with_suffix(f".{os.getpid()}")
            scratch.write_text(json.dumps(answer) + "\n")
            scratch.replace(cache)
        except OSError:
            pass  # a home that cannot be written costs a minute the next time
        return read(answer)

    def _measured(self, report: Report) -> LatencyTable:
        heads, width = (max(counts) for counts in zip(*self.full, strict=True))
        depth = min(DEPTH, len(self.full))
        head_counts = _counts(heads, 1) if family(self._model).prunes_heads else [heads]
        widths = _counts(width, MULTIPLE)
        shapes = {"whole": [(heads, width)] * depth}
        if depth > 1:  # else nothing tells a layer from the rest, and the rest counts as nothing
            shapes["one layer"] = [(heads, width)]
        shapes |= {f"{h} heads": [(h, width)] * depth for h in head_counts if h != heads}
        shapes |= {f"{w} neurons": [(heads, w)] * depth for w in widths if w != width}
        with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
            paths = self._stand_ins(shapes, Path(scratch), lambda share, text: report(0.6 * share, text))
            timings = self._measure(
                paths, self._known, SETTINGS, lambda share, text: report(0.6 + 0.4 * share, text), look=True
            )
        first = timings["whole"].turns[SINGLE]
        whole = float(np.median(np.concatenate(first)))

        def ms(name: str) -> float:
            return whole * _paired(timings[name].turns[SINGLE], first) if name in timings else whole

        layer = (whole - ms("one layer")) / (depth - 1) if depth > 1 else whole
        heads_saved = {h: (whole - ms(f"{h} heads")) / depth for h in head_counts}
        ffn_saved = {w: (whole - ms(f"{w} neurons")) / depth for w in widths}
        # How a layer divides into its two parts cannot be seen, and does not matter: only their sum is ever used.
        attention = max(heads_saved.values()) + 0.5 * max(
            0.0, layer - max(heads_saved.values()) - max(ffn_saved.values())
        )
        return LatencyTable(
            self.target.runtime,
            self.target.precision,
            self.target.batch_size,
            max(0.0, whole - depth * layer),
            _rising({h: attention - saved for h, saved in heads_saved.items()}),
            _rising({w: layer - attention - saved for w, saved in ffn_saved.items()}),
        )

    def _stand_ins(
        self, shapes: Mapping[str, Layers], home: Path, report: Report = lambda share, text: None
    ) -> dict[str, Path]:
        """Exported models of these shapes."""
        paths = {}
        for i, (name, layers) in enumerate(shapes.items()):
            report(i / len(shapes), f"stand-in {i + 1} of {len(shapes)}")
            checkpoint = self._stand_in(layers, home / f"{i}-checkpoint")
            paths[name] = self._exported(checkpoint, self._known, home / str(i))
        return paths

    def _measure(
        self,
        paths: dict[str, Path],
        rows: list[list[int]],
        settings: LatencySettings,
        report: Report = lambda share, text: None,
        look: bool = False,
    ) -> dict[str, Timing]:
        protocol = Protocol(settings, scenarios=[Scenario(SINGLE, self.target.batch_size)], check_load=look)
        timings = measure(Workload(paths, dict.fromkeys(paths, rows)), protocol, report).timings
        for timing in timings.values():
            if timing.cannot_run:
                raise InputError(
                    f"prune: no time can be measured in {self.target.runtime} {self.target.precision}: "
                    f"{timing.cannot_run}"
                )
        return timings

    def _stand_in(self, layers: Layers, out: Path) -> Checkpoint:
        """A model of this shape with the checkpoint's first weights."""
        model = copy.deepcopy(self._model)
        widen(model)
        keep_blocks(model, list(range(len(layers))))
        reshape(model, Structure(head_size(model), tuple(Layer(heads, ffn) for heads, ffn in layers)))
        return save(model, self.checkpoint, out, stand_in=True)

    def _exported(self, checkpoint: Checkpoint, rows: list[list[int]], out: Path) -> Path:
        out.mkdir(parents=True, exist_ok=True)
        plain = plain_onnx(checkpoint, self.task, out / "plain.onnx")
        precision = self.target.precision  # int8-dynamic needs no rows: with some its answers are judged, for minutes
        calibration = [collate([row], checkpoint.pad_id) for row in rows[:16]] if precision == "int8-static" else []
        job = ExportJob(plain, checkpoint, self.task, out / "artifact", self.max_length, precision, calibration)
        made = RUNTIMES[self.target.runtime].export(job)
        if self.lengths:
            shaped(made, self.lengths)
        return out / "artifact"


def _share(answer: Any) -> float:
    if not isinstance(answer, float) or not 0 < answer < np.inf:
        raise ValueError("not a share of time")
    return answer


def _paired(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
    """Ratio of two artefacts' times: the median over all calls, each against the other's on the same row and turn."""
    pairs = [(call, other) for a, b in zip(ours, theirs, strict=True) for call, other in zip(a, b, strict=False)]
    return float(np.median([call / other for call, other in pairs]))


def _counts(full: int, multiple: int) -> list[int]:
    return sorted({min(full, max(multiple, round(full * share / multiple) * multiple)) for share in SHARES})


def _rising(ms: dict[int, float]) -> dict[int, float]:
    """More never takes less: what noise says otherwise is smoothed (isotonic regression)."""
    from sklearn.isotonic import isotonic_regression

    counts = sorted(ms)
    return dict(zip(counts, map(float, isotonic_regression([max(0.0, ms[n]) for n in counts])), strict=True))
