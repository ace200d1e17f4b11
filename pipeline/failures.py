"""Failed steps of a run, and the candidates that depend on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import StepError

from .job import Candidate, Job, Step, attribution_name, evaluation_name, further_name, models_of
from .store import Failed


@dataclass(frozen=True)
class Failure:
    """Why a step has no result: the step that failed, this one or one that it stands on."""

    step: str
    reason: str
    path: Path | str  # to be deleted for another try
    kept: Path | None = None  # what the step started from
    host: str = ""  # the machine that did it

    @staticmethod
    def of(step: str, failed: Failed, kept: Path | None = None) -> Failure:
        """The failure that the store has recorded for a step."""
        return Failure(step, failed.reason, failed.path, kept, failed.host)

    def __str__(self) -> str:
        return f"step {self.step}: {self.reason}"

    @property
    def advice(self) -> str:
        """What is kept, and what to do for another try."""
        kept = f"; what it started from is kept: {self.kept}" if self.kept else ""
        return f"(to try it again, delete {self.path}{kept})"


@dataclass
class Ledger:
    """The steps of a run in their order: which have failed, and what the keys of the others say about it.

    A step stands on those whose keys are in its inputs. The key of a step that is done without some of them names
    these, so that it is done again when they come back.
    """

    failed: dict[str, Failure] = field(default_factory=dict)  # by step, those that stand on a failed one too
    direct: dict[str, set[str]] = field(default_factory=dict)  # the steps whose keys are in a step's inputs
    _names: dict[str, str] = field(default_factory=dict)  # of the steps, by the keys that they were planned with
    _behind: dict[str, set[str]] = field(default_factory=dict)

    def behind(self, name: str) -> set[str]:
        """Every step that an admitted step stands on, however far back."""
        return self._behind[name]

    def place(self, step: Step) -> None:
        """Note what a step stands on. Call it in the order of the plan."""
        given = dict(step.inputs)
        named = given.pop("after", {})  # by their names: several steps may have one key
        direct = {name for name in named if name in self.direct}
        direct |= {self._names[key] for name, key in named.items() if name not in self.direct and key in self._names}
        direct |= {self._names[text] for text in texts_of(given) if text in self._names}
        self._names[step.key] = step.name
        behind = direct.union(*(self._behind[name] for name in direct))
        self.direct[step.name], self._behind[step.name] = direct, behind

    def admit(self, step: Step) -> Step | Failure:
        """The step as it can be done now, or the failure that it is skipped for; those that it stands on have ended."""
        if step.name not in self.direct:
            self.place(step)
        direct, behind = self.direct[step.name], self._behind[step.name]
        lost = [name for name in self.failed if name in direct]
        if lost and not step.takes_what_is_there:
            self.failed[step.name] = self.failed[lost[0]]
            return self.failed[lost[0]]
        without = sorted(behind & self.failed.keys())
        return replace(step, inputs={**step.inputs, "without": without}) if without else step


def steps_behind(job: Job, candidate: Candidate) -> list[str]:
    """Names of the steps that a candidate's row is read from; what these stand on is not among them."""
    names = [candidate.step, evaluation_name(candidate), further_name(candidate)]
    if job.recipe.explain_rows:
        names += [attribution_name(part.model.name) for part in models_of(job, candidate)]
    return names


def failures_of(job: Job, failed: Mapping[str, Failure]) -> dict[str, Failure]:
    """The candidates that have no result, by name; `failed`: the steps that have none."""
    found = {c.name: next((failed[s] for s in steps_behind(job, c) if s in failed), None) for c in job.candidates}
    return {name: failure for name, failure in found.items() if failure is not None}


def sentences(job: Job, failed: Mapping[str, Failure]) -> list[str]:
    """One line for each failure: the candidates that it has cost, why, and what to delete for another try."""
    lost: dict[Failure, list[str]] = {}
    for name, failure in failures_of(job, failed).items():
        lost.setdefault(failure, []).append(name)
    for failure in failed.values():  # one that no candidate is read from: a search's
        lost.setdefault(failure, [])
    return [f"{', '.join(names)}{': ' if names else ''}{failure} {failure.advice}" for failure, names in lost.items()]


def require_some(job: Job, failed: Mapping[str, Failure]) -> None:
    """StepError with every reason when no candidate is left that a bundle could be made of."""
    lost = failures_of(job, failed)
    if all(c.name in lost for c in job.candidates if RUNTIMES[c.target.runtime].SPEC.in_bundles):
        raise StepError("nothing is left to choose from: " + "; ".join(sentences(job, failed)))


def texts_of(data: object) -> list[str]:
    """Every text in JSON-like data, however deep."""
    if isinstance(data, str):
        return [data]
    parts = data.values() if isinstance(data, dict) else data if isinstance(data, list | tuple) else ()
    return [text for part in parts for text in texts_of(part)]
