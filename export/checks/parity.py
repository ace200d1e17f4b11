"""The parity gate: an artefact must agree with its checkpoint before its timings count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from paredown.runtime.errors import InputError, StepError
from paredown.runtime.preprocessor import PAIR, Preprocessor, parts_of, run_rows
from paredown.runtime.session import Session
from paredown.tasks.base import Task

from ..artifact import GRAPH, Artifact
from ..runtimes.registry import RUNTIMES
from .divergence import VALUES, first_departure


@dataclass(frozen=True)
class Tolerance:
    """How far an artefact may be from its checkpoint."""

    # Of a logit, absolute, or of a number or vector, in `spread`s; None where only answers count.
    max_difference: float | None
    min_agreement: float  # share of rows with the same prediction, 0..1 (Task.same)
    max_metric_drop: float  # points


# INT8 may move logits a lot and still answer the same: there the answers and the metric are the gate. A loss within
# these limits is for the choice to judge; beyond them something broke.
TOLERANCES = {
    "fp32": Tolerance(2e-3, 0.999, 0.2),
    "fp16": Tolerance(0.05, 0.99, 0.5),
    "bf16": Tolerance(None, 0.97, 2.0),
    "int8-dynamic": Tolerance(None, 0.85, 6.0),
    "int8-static": Tolerance(None, 0.85, 6.0),
    "int8-weight": Tolerance(None, 0.9, 2.0),
    "int4-weight": Tolerance(None, 0.75, 6.0),
}


# By Task.graph, where they differ. One token that is another changes all behind it, so the share of texts that stay the
# same says less.
SEQ2SEQ = {
    "fp32": Tolerance(None, 0.95, 0.2),
    "bf16": Tolerance(None, 0.5, 2.0),
    **dict.fromkeys(("int8-dynamic", "int8-static"), Tolerance(None, 0.2, 6.0)),
}
LIMITS = {"seq2seq": SEQ2SEQ}


def tolerance_of(task: Task, precision: str) -> Tolerance:
    """The gate's limits where nobody gives others."""
    return (TOLERANCES | LIMITS.get(task.graph, {}))[precision]


@dataclass(frozen=True)
class Parity:
    """What was compared: logits of the artefact and of the checkpoint on the same rows."""

    max_difference: float
    mean_difference: float
    agreement: float  # share of rows, 0..1
    metric_drop: float  # points, positive = worse

    def to_json(self) -> dict:
        return asdict(self)


def compare(ours: np.ndarray, theirs: np.ndarray, gold: Any, task: Task, lengths: Sequence[int] = ()) -> Parity:
    """Compare outputs (rows, labels) of an artefact with its checkpoint's; `gold` as `Task.correct` takes it, None
    where nobody knows what is right: then the metric counts for nothing. `lengths`: as `Task.same` takes them.
    """
    difference = task.difference(ours, theirs)
    return Parity(
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        agreement=float(task.same_answers(ours, theirs, lengths).mean()),
        metric_drop=0.0 if gold is None else float(task.metric(theirs, gold) - task.metric(ours, gold)),
    )


def longest_row(encoder: Preprocessor, texts: Sequence[str], *, second: bool) -> list[int] | None:
    """A row of exactly `encoder.max_length` tokens, of the words of `texts` or of an ordinary sentence; None for
    images, and where no text becomes that long. `second`: a row is two texts.
    """
    if encoder.shape:
        return None
    given = [parts_of(text) for text in texts[:64]] or [encoder.example]
    parts = [[text if isinstance(text, str) else text[i] for text in given] for i in range(1 + second)]
    for times in (1, 8, 64, 512, 4096):
        ids = encoder.ids([PAIR.join(" ".join(part * times) for part in parts)])[0]
        if len(ids) == encoder.max_length:
            return ids
    return None


def _knob(candidate: str) -> str:
    """What to do about a candidate of a recipe, MODEL/RUNTIME/PRECISION; nothing of anything else."""
    precision = candidate.rpartition("/")[2]
    if precision not in TOLERANCES:
        return ""
    return f". Drop this target, or set the limit under parity.{precision} in the recipe"


@dataclass(frozen=True)
class Expected:
    """The checkpoint's outputs of a row, and how far an artefact's may be from them."""

    outputs: np.ndarray
    tolerance: Tolerance
    unit: float = 1.0  # of a difference (Task.unit)


def takes_longest(
    session: Session,
    row: list[int] | None,
    encoder: Preprocessor,
    task: Task,
    name: str,
    expected: Expected | None = None,
) -> np.ndarray | None:
    """Run a row of `max_length` tokens, the length that is promised; returns its outputs, None where there is no row.

    StepError when it does not run, is not finite, or departs from what is expected by more than the tolerance.
    """
    if row is None:
        return None
    try:
        found = run_rows(session, [row], encoder.pad_id, task.output)
    except (InputError, StepError):
        raise
    except Exception as error:  # each runtime has classes of its own
        reason = " ".join(str(error).split())[-300:]
        raise StepError(f"parity: {name} does not take a text of {len(row)} tokens, its max_length: {reason}") from None
    if not np.isfinite(found).all():
        raise StepError(f"parity: {name} gives numbers that are not finite for a text of {len(row)} tokens")
    if expected is None:
        return found
    wanted, limit = expected.outputs, expected.tolerance.max_difference
    if found.shape != wanted.shape:
        raise StepError(
            f"parity: for a text of {len(row)} tokens, {name} gives outputs of {found.shape}, its checkpoint of "
            f"{wanted.shape}"
        )
    apart = float(task.difference(found, wanted, expected.unit).max())
    if limit is not None and apart > limit:
        raise StepError(
            f"parity: for a text of {len(row)} tokens, its max_length, {name} is {apart:.2g} from its checkpoint, > "
            f"{limit:g} (max_difference){_knob(name)}"
        )
    return found


def stand_in(artifact: Artifact, threads: int) -> Session | None:
    """The ONNX graph of an artefact for GPUs, each node computed as it stands on this CPU: for answers, not for times.

    None for other artefacts, and in bf16, which ONNX Runtime's CPU kernels do not know.
    """
    if not RUNTIMES[artifact.runtime].SPEC.gpu or artifact.precision == "bf16":
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(_graph(artifact)), options, providers=["CPUExecutionProvider"])

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = session.run(None, {entry.name: batch[entry.name] for entry in session.get_inputs()})
        return {entry.name: np.asarray(array) for entry, array in zip(session.get_outputs(), arrays, strict=True)}

    return run


def _graph(artifact: Artifact) -> Path:
    return artifact.path / (GRAPH if RUNTIMES[artifact.runtime].SPEC.engine else artifact.files[0])


def gate(
    parity: Parity, tolerance: Tolerance, name: str, precision: str, where: Callable[[], str] = lambda: ""
) -> None:
    """Raise StepError when the artefact is not its checkpoint any more; the message has all differences and a setting.

    `where` says which node departs first; it is asked only then.
    """
    broken = []
    limit = tolerance.max_difference
    if not np.isfinite(parity.max_difference):
        broken.append("a logit is not finite")
    elif limit is not None and parity.max_difference > limit:
        broken.append(f"max logit difference {parity.max_difference:.2g} > {limit:g} (max_difference)")
    if parity.agreement < tolerance.min_agreement:
        broken.append(f"agreement {parity.agreement:.4f} < {tolerance.min_agreement:g} (min_agreement)")
    if parity.metric_drop > tolerance.max_metric_drop:
        broken.append(f"metric drop {parity.metric_drop:.2f} > {tolerance.max_metric_drop:g} points (max_metric_drop)")
    if broken:
        raise StepError(
            f"parity: {name} does not answer as its checkpoint does: {'; '.join(broken)}; mean logit difference "
            f"{parity.mean_difference:.2g}{where()}. Drop this target, or set the limit under parity.{precision} in "
            "the recipe"
        )


def departure(plain: Path, artifact: Artifact, batch: dict[str, np.ndarray]) -> str:
    """For the message of `gate`: the node of the plain ONNX graph whose output the artefact first departs from."""
    graph = _graph(artifact)
    if graph.suffix not in VALUES or artifact.halves:
        return ""  # an .ort file: nothing inside can be asked for; of two graphs, no one departs by itself
    found = first_departure(plain, replace(artifact, files=(graph.name,)), batch)
    return f"; {found}" if found else "; no node departs by itself, the differences add up"
