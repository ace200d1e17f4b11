"""Selects a candidate from measurements.json and publishes choice.json, report and bundle; reads only the run
directory, so another rule needs no new run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import TypeAdapter

from paredown.benchmarks.measurements import Measurements
from paredown.benchmarks.measuring.records import Record
from paredown.benchmarks.report.report import RESOLVED, Reproduction, rerun, write_report
from paredown.benchmarks.selection.choice import CHOICE_SCHEMA, CandidateResult, Choice, Selection, known
from paredown.benchmarks.selection.selection import ChooseSettings, choose, with_bounds
from paredown.benchmarks.selection.sensitivity import card
from paredown.compress.models.model_card import CARD
from paredown.export.artifact import read_artifact
from paredown.export.bundle.archive import pack
from paredown.export.bundle.model_card import About, read_card
from paredown.export.bundle.writer import Contents, write_bundle
from paredown.runtime.errors import InputError
from paredown.runtime.selftest import BundleError, check_files, read_manifest

from .candidate import certified, gate_bounds, opponents_of, row_of
from .journal import PUBLISHED, STAMP, publication
from .lineage import lineage

CERTIFIED = "certified.json"  # which candidates were evaluated on the test rows, and when; it outlives every choice


def decide(
    measurements: Measurements, settings: ChooseSettings, run_dir: Path | None = None, named: str | None = None
) -> Choice:
    """The choice under a rule, or of the candidate that is `named`.

    `run_dir`: where earlier certificates are noted; each further candidate that is evaluated on the test rows widens
    the bound of all.
    """
    against, bounds = opponents_of(measurements), gate_bounds(measurements)
    rows = [
        row_of(entry, against, measurements).updated(**bounds.get(entry.name, {})) for entry in measurements.candidates
    ]
    baseline = next(i for i, row in enumerate(rows) if row.name == measurements.baseline)
    rows = with_bounds(rows, rows[baseline], settings)
    selected = choose(rows, rows[baseline], settings, named)
    looks, at = _looks(measurements, selected.chosen.name, run_dir)
    selected = _unsealed(selected, measurements, looks, at)
    return Choice(
        version=CHOICE_SCHEMA,
        **dict(selected),
        certificate=selected.chosen.certificate,
        plain_int8=against.plain_int8 and against.plain_int8.name,
        noisy=against.noisy,
        card=card(rows, rows[baseline], settings, measurements.prices.price_per_hour),
        control=measurements.conditions.control,
        conditions=measurements.conditions,
        notes=measurements.notes,
    )


def _looks(measurements: Measurements, name: str, run_dir: Path | None) -> tuple[int, str]:
    """How many candidates were evaluated on these test rows in this run directory, this one included; when it was."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    earlier = _certified(run_dir) if run_dir is not None else []
    artifact = measurements.entry(name).artifact
    same = [look for look in earlier if look.test == measurements.test_digest]
    mine = next((look for look in same if look.artifact == artifact), None)
    return (len(same), mine.at) if mine else (len(same) + 1, now)


class Look(Record):
    """A candidate that was evaluated on test rows: their digest, and when."""

    name: str
    artifact: str | None
    test: str | None
    at: str


LOOKS = TypeAdapter(list[Look])


def _certified(run_dir: Path) -> list[Look]:
    """The candidates that earlier choices evaluated on test rows."""
    try:
        return LOOKS.validate_json((run_dir / CERTIFIED).read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        raise InputError(f"{run_dir / CERTIFIED}: damaged; remove it, and with it what it counts") from None


def _noted(measurements: Measurements, choice: Choice, run_dir: Path) -> dict[str, str]:
    """certified.json with the certificate of this choice, where it has one."""
    if choice.certificate is None:
        return {}
    name = choice.chosen.name
    look = Look(
        name=name,
        artifact=measurements.entry(name).artifact,
        test=measurements.test_digest,
        at=choice.certificate.certified_at,
    )
    earlier = _certified(run_dir)
    looks = earlier if look in earlier else [*earlier, look]
    return {CERTIFIED: LOOKS.dump_json(looks, indent=1).decode() + "\n"}


def _unsealed(selected: Selection, measurements: Measurements, looks: int, at: str) -> Selection:
    """With what the test rows say of the selected candidate and of the baseline, and of no others."""
    chosen = certified(measurements, selected.chosen, looks, at)

    def opened(result: CandidateResult) -> CandidateResult:
        if result.name == chosen.name:
            return chosen
        if result.name != selected.baseline.name:
            return result
        return certified(measurements, result, 1, at).model_copy(update={"certificate": None})

    changed = {"baseline": opened(selected.baseline), "candidates": [opened(result) for result in selected.candidates]}
    return selected.model_copy(update={"chosen": chosen, **changed})


def publish(
    run_dir: Path,
    measurements: Measurements,
    choice: Choice,
    command: str,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write choice.json, report.html, bundle/ and bundle.tar.gz of a choice, and files of the run that go with them.

    `beside`: their texts by name. All of them take the places of an earlier choice at once (`publication`); one that
    cannot be packed leaves that as it was. Raises InputError when the checkpoint's licence or card is missing.
    """
    content = choice.to_json()
    origin, names = _origin(run_dir, measurements)
    with publication(run_dir) as scratch:
        again = reproduction(run_dir, command, beside.get(RESOLVED))
        report = write_report(scratch / "report.html", measurements, choice, again)
        bundle = write_bundle(
            scratch / "bundle",
            read_artifact(run_dir / known(measurements.entry(choice.chosen.name).artifact)),
            Contents(
                name=measurements.name,
                choice=content,
                golden_texts=measurements.golden_texts,
                reference_texts=measurements.reference_texts,
                about=_about(origin, measurements),
                lineage=lineage(run_dir, measurements, choice.chosen.name, beside.get(RESOLVED)),
                extra_files=[report, *(origin / name for name in names if name != CARD)],
            ),
        )
        pack(bundle, scratch / "bundle.tar.gz")
        texts = {"choice.json": json.dumps(content, indent=2) + "\n", **_noted(measurements, choice, run_dir), **beside}
        for name, text in texts.items():
            (scratch / name).write_text(text, encoding="utf-8")


def reproduction(run_dir: Path, command: str | None = None, recipe: str | None = None) -> Reproduction:
    """How a report's run is made again. `command`: what made it, by default the run's own. `recipe`: the text of its
    recipe, read where it is None; its files are shown by their names alone, for a report is handed on. InputError where
    the file is damaged."""
    file, run = run_dir / RESOLVED, as_typed(run_dir)
    if recipe is None and file.is_file():
        recipe = file.read_text(encoding="utf-8", errors="replace")
    if recipe is None:
        return Reproduction(command or f"paredown report {run}", run)
    try:
        content = yaml.safe_load(recipe)
    except yaml.YAMLError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{file}: damaged; run the recipe again, finished steps are kept, or remove the file")
    recipe = yaml.safe_dump(_named(content), sort_keys=False, allow_unicode=True)
    return Reproduction(command or rerun(run), run, recipe)


def _named(value: Any) -> Any:
    """The keys and values of a recipe, absolute paths by their last part."""
    if isinstance(value, dict):
        return {key: _named(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_named(part) for part in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def as_typed(path: Path) -> str:
    """A path as it is typed here: relative, below the working directory."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _origin(run_dir: Path, measurements: Measurements) -> tuple[Path, list[str]]:
    """Where the checkpoint's licence, notices and card are kept, and their names; InputError when one is missing."""
    again = "run the recipe again, finished steps are kept"
    if measurements.origin is None:
        raise InputError(f"{run_dir / 'measurements.json'}: without the checkpoint's licence and card; {again}")
    origin = run_dir / measurements.origin.path
    for name in measurements.origin.files:
        if not (origin / name).is_file():
            raise InputError(
                f"{origin / name}: missing, and the bundle needs the checkpoint's licence and card; {again}"
            )
    return origin, measurements.origin.files


def _about(origin: Path, measurements: Measurements) -> About:
    """What the checkpoint's own card says, and the data of this run: files by their name, others as on the Hub."""
    data = measurements.data
    hub = {split: source.partition(":")[0] for split, source in data.items() if not Path(source).is_absolute()}
    card = read_card(origin)
    return replace(
        card,
        datasets=tuple(dict.fromkeys((*card.datasets, *hub.values()))),
        data={split: hub.get(split, Path(source).name) for split, source in data.items()},
        rows=measurements.rows.model_dump(),
    )


def read_choice(run_dir: Path, measurements: Measurements) -> Choice:
    """choice.json of the run that `measurements` are of. InputError names the command that makes it."""
    file = run_dir / "choice.json"
    again = f"make it with: paredown choose {as_typed(run_dir)}"
    try:
        data = json.loads(file.read_text())
        names = {entry["name"] for entry in data["candidates"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file}: missing or damaged; {again}") from None
    try:
        choice = Choice.model_validate(data)
        if names != {entry.name for entry in measurements.candidates} or choice.chosen.name not in names:
            raise ValueError("other candidates")
        if any(entry.rejected_because and not entry.rejected_for for entry in choice.candidates):
            raise ValueError("of an older paredown")
    except ValueError:
        raise InputError(f"{file}: not of these measurements, or of an older paredown; {again}") from None
    return choice


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
