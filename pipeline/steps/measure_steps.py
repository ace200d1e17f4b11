"""Plans the measuring steps and what may run between them."""

from __future__ import annotations

from functools import partial

from paredown.export.hardware import fingerprint

from ..estimates import answering, sitting
from ..job import Candidate, Job, Step, evaluation_name, further_name, rows_digest, sitting_name
from .evaluate import further
from .measure import PROFILE, measure, profiled
from .step_keys import code_of, digest_of


def further_step(job: Job, candidate: Candidate, steps: dict[str, Step]) -> Step:
    inputs = {
        "stage": "further",
        "test": rows_digest(job.test),
        "validation": rows_digest(job.validation) if job.recipe.robustness_rows else None,
        "robustness": job.recipe.robustness_rows,
        "machine": fingerprint(job.machine),
        "after": {name: steps[name].key for name in (candidate.step, evaluation_name(candidate))},
        "scoring": digest_of("pipeline/steps/evaluate.py"),
        **code_of("compress", "export"),
    }
    rows = 3 * job.recipe.robustness_rows + (len(job.test) if job.test else 0)
    seconds = answering(job, rows, candidate)
    title = f"{candidate.name}: test rows and perturbed rows"
    return Step(further_name(candidate), inputs, seconds, partial(further, job, candidate), title=title)


def sitting_step(job: Job, candidates: list[Candidate], number: int, steps: dict[str, Step]) -> Step:
    """One fresh process of every candidate; after the sittings before it, which know what cannot be measured."""
    settings = job.recipe.latency
    inputs = {
        "stage": "measure",
        "number": number,
        "latency": settings.model_dump(exclude={"sweep", "wait_s"}),
        **_measured(job, candidates, steps),
    }
    inputs["after"] |= {sitting_name(i): steps[sitting_name(i)].key for i in range(number)}
    seconds = sitting(job, candidates)
    title = f"measuring latency, {number + 1} of {settings.processes}"
    work = partial(measure, job, candidates, number)
    return Step(sitting_name(number), inputs, seconds, work, takes_what_is_there=True, title=title)


def profile_step(job: Job, candidates: list[Candidate], steps: dict[str, Step], first: Step) -> Step:
    """Where the time goes; `first`: the first sitting, which shows how many threads each candidate is best with."""
    settings = job.recipe.latency
    inputs = {
        "stage": "profile",
        "threads": settings.threads,
        "sweep": settings.sweep.model_dump(),
        **_measured(job, candidates, steps),
    }
    inputs["after"] |= {first.name: first.key}
    shapes = len(settings.sweep.batch_sizes) + len(settings.sweep.threads) + len(settings.sweep.lengths)
    return Step(
        PROFILE,
        inputs,
        len(candidates) * (0.6 + 1.5 * shapes),
        partial(profiled, job, candidates),
        takes_what_is_there=True,
        title="where the time goes",
    )


def _measured(job: Job, candidates: list[Candidate], steps: dict[str, Step]) -> dict:
    """What every step that times candidates stands on."""
    return {
        "validation": rows_digest(job.validation),
        "seed": job.recipe.seed,
        "machine": fingerprint(job.machine),
        "candidates": [candidate.name for candidate in candidates],  # results are kept under these
        "after": {name: steps[name].key for c in candidates for name in (c.step, evaluation_name(c))},
        "measuring": digest_of("pipeline/steps/measure.py"),
        **code_of("benchmarks"),
    }
