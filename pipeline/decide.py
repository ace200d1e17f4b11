"""From measurements to choice.json, report and bundle. Reads nothing but the run directory, so that another rule can
be tried without running again."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..benchmarks.choose import ChooseSettings, Row, choose
from ..benchmarks.cost import Prices, cost_per_million
from ..benchmarks.latency import CONTROL, OFFLINE, SINGLE, Measurement, Timing, ratio
from ..benchmarks.quality import drop_upper_95, mcnemar_p, negative_flips, paired_drop, wilson
from ..benchmarks.report import write_report
from ..compress.errors import InputError
from ..compress.settings import Prune, Timed
from ..export.archive import pack
from ..export.artifact import read_artifact
from ..export.bundle import write_bundle
from ..export.card import About, read_card
from ..export.machine import machine
from ..export.reference import ROWS as REFERENCE_ROWS
from ..export.selftest import BundleError, check_files, read_manifest
from .job import SCORES, Candidate, Job, Step, chain_of, evaluation_name, graph_name, has_teacher, parts_of, table_name
from .recipe import BASELINE, Model
from .store import Done, write_atomic

SCHEMA = 1
SPLITS = ("train", "unlabeled", "validation", "test")
# What a candidate that cannot run has no figure for.
MEASURED = (
    "metric_validation",
    "metric_test",
    "drop_validation",
    "drop_test",
    "drop_upper_95",
    "latency_ms",
    "speedup_vs_baseline",
    "throughput_per_s",
    "memory_mb",
    "cost_per_million",
)
STAMP = ".published"  # the key of the run that published; gone as soon as anything else did
REPLACE = "replace.json"  # what an older run said about the bundle; it goes when the bundle does
PUBLISHED = ("choice.json", "report.html", "bundle.tar.gz", "bundle")


def measurements_of(job: Job, steps: list[Step], done: Mapping[str, Done], run_dir: Path) -> dict:
    """Everything that was measured, raw samples included: the content of measurements.json."""
    timings = json.loads((done["measure"].path / "timings.json").read_text())
    candidates = []
    for candidate in job.candidates:
        evaluated = done[evaluation_name(candidate)]
        export = done[candidate.step]
        chain = chain_of(candidate.model)
        candidates.append(
            {
                "name": candidate.name,
                "model": candidate.model.name,
                "runtime": candidate.target.runtime,
                "precision": candidate.target.precision,
                "steps": _steps_of(candidate.model),
                "artifact": export.path.relative_to(run_dir).as_posix(),
                "size_mb": export.result["size_mb"],
                "details": export.result["details"],
                "compression_s": sum(done[name].seconds for name in _made_by(job, candidate)),
                "parameters": done[chain[-1]].result["parameters"] if chain else None,
                "made": {name: done[name].result for name in chain},
                **evaluated.result,
                "timing": timings.get(candidate.name),
                "why_slower": done["measure"].result["why_slower"].get(candidate.name),
            }
        )
    return {
        "schema": SCHEMA,
        "name": job.recipe.name,
        "task": job.recipe.task,
        "metric": job.task.metric_name,
        "labels": list(job.checkpoint.labels),
        "machine": machine(),
        "rows": {
            "train": len(job.train),
            "unlabeled": len(job.unlabeled) if job.unlabeled else 0,
            "validation": len(job.validation),
            "test": len(job.test) if job.test else 0,
        },
        "data": {split: source for split, source in job.recipe.data.model_dump().items() if split in SPLITS and source},
        "golden_texts": list(job.validation.texts[:8]),
        "reference_texts": list(job.validation.texts[:: 1 + (len(job.validation) - 1) // REFERENCE_ROWS]),
        "latency": job.recipe.latency.model_dump(),
        "prices": job.recipe.cost.model_dump(),
        "choose": job.recipe.choose.model_dump(),
        **{key: value for key, value in done["measure"].result.items() if key != "why_slower"},
        "compression_s": sum(d.seconds for d in done.values()),
        "control": timings[CONTROL],
        "baseline": job.candidates[0].name,
        "checkpoint": str(job.checkpoint.path),
        "candidates": candidates,
    }


def _steps_of(model: Model) -> list[dict]:
    if model.cascade is not None:
        return [{"stage": "cascade", **model.cascade.model_dump()}]
    return [{"stage": step.stage[0], **step.stage[1].model_dump(exclude_defaults=True)} for step in model.steps]


def _shared(model: Model) -> list[str]:
    """Steps that several models stand on, counted in full for each: the teacher's scores, the latency table."""
    stages = [step.stage[1] for step in model.steps]
    names = [SCORES] if any(map(has_teacher, stages)) else []
    return names + [table_name(s.target) for s in stages if isinstance(s, Prune) and s.timed]


def _made_by(job: Job, candidate: Candidate) -> set[str]:
    """Names of the steps that a candidate took, a cascade's two models included."""
    if candidate.model.cascade is None:
        return {candidate.step, graph_name(candidate.model), *chain_of(candidate.model), *_shared(candidate.model)}
    return {candidate.step}.union(*(_made_by(job, part) for part in parts_of(job, candidate)))


def read_measurements(run_dir: Path) -> dict:
    """measurements.json of a finished run."""
    path = run_dir / "measurements.json"
    try:
        data = json.loads(path.read_text())
        if data["schema"] != SCHEMA:
            raise InputError(f"{path}: schema {data['schema']}; this paredown reads {SCHEMA}: run the recipe again")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; a run directory is what `paredown run` has made") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged; run the recipe again, finished steps are kept") from None
    return data


def decide(measurements: dict, settings: ChooseSettings) -> dict:
    """The content of choice.json under a rule."""
    prices = Prices.model_validate(measurements["prices"])
    entries = {entry["name"]: entry for entry in measurements["candidates"]}
    base = entries[measurements["baseline"]]
    rows = [_row(entry, base, prices, measurements, _promise(entry, entries)) for entry in entries.values()]
    control, lo, hi = ratio(measurements["control"]["turns"][SINGLE], base["timing"]["turns"][SINGLE])
    return {**choose(rows, rows[0], settings), "control": {"ratio": control, "ratio_ci": [lo, hi]}}


def publish(run_dir: Path, measurements: dict, choice: dict, command: str) -> None:
    """Write choice.json, report.html, bundle/ and bundle.tar.gz of a choice; the bundle comes last and whole."""
    scratch = run_dir / ".tmp-publish"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        report = write_report(scratch / "report.html", measurements, choice, command)
        chosen = next(c for c in measurements["candidates"] if c["name"] == choice["chosen"]["name"])
        source = Path(measurements["checkpoint"])
        licences = [p for p in source.glob("*") if p.name.startswith(("LICENSE", "NOTICE")) and p.is_file()]
        bundle = write_bundle(
            scratch / "bundle",
            read_artifact(run_dir / chosen["artifact"]),
            name=measurements["name"],
            golden_texts=measurements["golden_texts"],
            reference_texts=measurements.get("reference_texts", ()),
            choice=choice,
            about=_about(source, measurements),
            extra_files=[report, *licences],
        )
        pack(bundle, scratch / "bundle.tar.gz")
        write_atomic(scratch / "choice.json", json.dumps(choice, indent=2) + "\n")
        withdraw(run_dir)  # only now: a choice that cannot be packed leaves the old one as it was
        for name in PUBLISHED:
            (scratch / name).rename(run_dir / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _about(checkpoint: Path, measurements: dict) -> About:
    """What the checkpoint's own card says, and the data of this run: files by their name, others as on the Hub."""
    data = measurements.get("data", {})
    hub = {split: source.partition(":")[0] for split, source in data.items() if not Path(source).is_absolute()}
    card = read_card(checkpoint)
    return replace(
        card,
        datasets=tuple(dict.fromkeys((*card.datasets, *hub.values()))),
        data={split: hub.get(split, Path(source).name) for split, source in data.items()},
        rows=measurements["rows"],
    )


def is_published(run_dir: Path, key: str) -> bool:
    """True when the run of this key has published here, and everything is still whole."""
    try:
        if (run_dir / STAMP).read_text() != key or not all((run_dir / name).exists() for name in PUBLISHED):
            return False
        json.loads((run_dir / "choice.json").read_text())
        json.loads((run_dir / "measurements.json").read_text())
        check_files(run_dir / "bundle", read_manifest(run_dir / "bundle"))
    except (OSError, ValueError, BundleError):
        return False
    return True


def withdraw(run_dir: Path) -> None:
    """Remove what an earlier choice published, the bundle first: nothing stale may look like a result."""
    (run_dir / STAMP).unlink(missing_ok=True)
    (run_dir / REPLACE).unlink(missing_ok=True)
    for name in reversed(PUBLISHED):
        path = run_dir / name
        if path.is_dir():
            gone = run_dir / ".tmp-withdrawn"
            shutil.rmtree(gone, ignore_errors=True)
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _promise(entry: dict, entries: dict[str, dict]) -> dict | None:
    """What a timed cut promised in this candidate's runtime and precision, and what was measured, in the same run."""
    made = next(iter(entry.get("made", {}).values()), {})
    target = Timed.model_validate(entry["steps"][0].get("target", {})) if made.get("promised_speedup") else None
    if target is None or (entry["runtime"], entry["precision"]) != (target.runtime, target.precision):
        return None
    uncut = entries.get(f"{BASELINE}/{entry['runtime']}/{entry['precision']}")
    if uncut is None or not entry.get("timing") or target.batch_size != 1:
        return None
    slower, lo, hi = ratio(entry["timing"]["turns"][SINGLE], uncut["timing"]["turns"][SINGLE])
    return {"promised": made["promised_speedup"], "measured": 1 / slower, "measured_ci": [1 / hi, 1 / lo]}


def _row(entry: dict, base: dict, prices: Prices, measurements: dict, promise: dict | None) -> Row:
    correct, base_correct = _bits(entry, "validation"), _bits(base, "validation")
    figures: dict = {
        "name": entry["name"],
        "runtime": entry["runtime"],
        "precision": entry["precision"],
        "metric": measurements["metric"],
    }
    steps = len(entry["steps"]) + (entry["precision"] != "fp32")
    if entry.get("cannot_run") or correct is None or base_correct is None:
        figures |= dict.fromkeys(MEASURED) | {"size_mb": entry["size_mb"]}
        return Row(figures, steps, np.zeros(0, bool), 0.0, f"cannot run here: {entry.get('cannot_run')}")
    timing, base_timing = Timing(**entry["timing"]), Timing(**base["timing"])
    single, offline = timing.summary(SINGLE), timing.summary(OFFLINE)
    slower, lo, hi = ratio(timing.turns[SINGLE], base_timing.turns[SINGLE])
    scenario, batch, measured = _serving_scenario(single, offline, prices, measurements["latency"]["batch_size"])
    throughput = 1e3 * batch / measured.mean
    test, base_test = _bits(entry, "test"), _bits(base, "test")
    figures |= {
        "metric_validation": entry["metric_validation"],
        "metric_validation_ci": wilson(correct),
        "metric_test": entry.get("metric_test"),
        "metric_test_ci": wilson(test) if test is not None else None,
        "drop_validation": paired_drop(base_correct, correct)[0],
        "drop_test": paired_drop(base_test, test)[0] if test is not None and base_test is not None else None,
        "drop_upper_95": drop_upper_95(base_correct, correct),
        "mcnemar_p": mcnemar_p(base_correct, correct),
        "negative_flips": negative_flips(base_correct, correct),
        "latency_ms": {"p50": single.p50, "p95": single.p95, "p99": single.p99, "mean": single.mean, "n": single.n},
        "latency_batch_ms": {"p50": offline.p50, "p95": offline.p95, "p99": offline.p99, "n": offline.n},
        "speedup_vs_baseline": 1 / slower,
        "speedup_ci": [1 / hi, 1 / lo],
        "speedup_mean": base_timing.summary(SINGLE).mean / single.mean,
        "promised_speedup": promise,
        "throughput_per_s": throughput,
        "throughput_scenario": {"name": scenario, "batch_size": batch},
        "size_mb": entry["size_mb"],
        "memory_mb": timing.memory_mb,
        "cost_per_million": cost_per_million(prices, throughput, entry["size_mb"], entry["compression_s"]),
        "steps": entry["steps"],
        "why_slower": entry.get("why_slower"),
    }
    cannot = "a bundle runs without torch; PyTorch is measured to compare" if entry["runtime"] == "pytorch" else None
    return Row(figures, steps, correct, _cost_error(timing.turns[scenario]), cannot)


def _serving_scenario(
    single: Measurement, offline: Measurement, prices: Prices, batch: int
) -> tuple[str, int, Measurement]:
    """The one with more throughput among those whose p95 keeps the latency limit; single-stream when none does."""
    options = [(OFFLINE, batch, offline), (SINGLE, 1, single)]
    limit = prices.latency_limit_ms
    kept = [option for option in options if limit is None or option[2].p95 <= limit]
    return max(kept, key=lambda option: option[1] / option[2].mean) if kept else options[1]


def _cost_error(turns: list[list[float]]) -> float:
    """Standard error of the logarithm of the mean time of a call, from turn to turn."""
    logs = np.log([np.mean(turn) for turn in turns])
    return float(logs.std(ddof=1) / math.sqrt(len(logs)))


def _bits(entry: dict, name: str) -> np.ndarray | None:
    bits = entry.get(f"correct_{name}")
    return None if bits is None else np.frombuffer(bits.encode(), dtype=np.uint8) == ord("1")
