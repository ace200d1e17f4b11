"""Selects a candidate from measurements.json and publishes choice.json, report and bundle; reads only the run
directory, so another rule needs no new run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from paredown.benchmarks.cost import Prices
from paredown.benchmarks.report import write_report
from paredown.benchmarks.selection import ChooseSettings, choose, with_bounds
from paredown.benchmarks.sensitivity import card
from paredown.compress.models.model_card import CARD
from paredown.export.artifact import read_artifact
from paredown.export.bundle.archive import pack
from paredown.export.bundle.model_card import About, read_card
from paredown.export.bundle.writer import Contents, write_bundle
from paredown.runtime.errors import InputError
from paredown.runtime.selftest import BundleError, check_files, read_manifest

from .candidate import certified, gate_bounds, opponents_of, promise_of, row_of
from .journal import PUBLISHED, STAMP, publication
from .records import CHOICE_SCHEMA, Choice

CERTIFIED = "certified.json"  # which candidates were held against the test rows, and when; it outlives every choice


def decide(measurements: dict, settings: ChooseSettings, run_dir: Path | None = None, named: str | None = None) -> dict:
    """The content of choice.json under a rule, or of the candidate that is `named`.

    `run_dir`: where earlier certificates are noted; each further candidate that is held against the test rows widens
    the bound of all.
    """
    prices = Prices.model_validate(measurements["prices"])
    entries = {entry["name"]: entry for entry in measurements["candidates"]}
    against = opponents_of(measurements, prices)
    bounds = gate_bounds(measurements)
    rows = [
        row_of(entry, against, prices, measurements, promise_of(entry, entries, against.noisy))
        for entry in entries.values()
    ]
    rows = [replace(row, figures=row.figures | bounds.get(row.name, {})) for row in rows]
    keys = dict.fromkeys(key for row in rows for key in row.figures)  # None for what cannot run, or was not measured
    rows = [replace(row, figures=keys | row.figures) for row in rows]
    number = list(entries).index(measurements["baseline"])
    rows = with_bounds(rows, rows[number], settings.confidence)
    choice = choose(rows, rows[number], settings, named)
    looks, at = _looks(measurements, choice["chosen"]["name"], run_dir)
    _unseal(choice, measurements, looks, at)
    return {
        "schema": CHOICE_SCHEMA,
        **choice,
        "certificate": choice["chosen"]["certificate"],
        "plain_int8": against.plain_int8 and against.plain_int8["name"],
        "noisy": against.noisy,
        "card": card(rows, settings, prices.price_per_hour),
        "control": measurements["conditions"]["control"],
        "conditions": measurements["conditions"],
        "notes": measurements.get("notes", []),
    }


def _looks(measurements: dict, name: str, run_dir: Path | None) -> tuple[int, str]:
    """How many candidates were held against these test rows in this run directory, this one included; when it was."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    earlier = _certified(run_dir) if run_dir is not None else []
    artifact = next(e["artifact"] for e in measurements["candidates"] if e["name"] == name)
    same = [look for look in earlier if look["test"] == measurements.get("test_digest")]
    mine = next((look for look in same if look["artifact"] == artifact), None)
    return (len(same), mine["at"]) if mine else (len(same) + 1, now)


def _certified(run_dir: Path) -> list[dict]:
    """The candidates that earlier choices held against test rows: {name, artifact, test, at}."""
    try:
        found = json.loads((run_dir / CERTIFIED).read_text())
        return [look for look in found if {"name", "artifact", "test", "at"} <= look.keys()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, AttributeError):
        raise InputError(f"{run_dir / CERTIFIED}: damaged; remove it, and with it what it counts") from None


def _noted(measurements: dict, choice: dict, run_dir: Path) -> dict[str, str]:
    """certified.json with the certificate of this choice, where it has one."""
    certificate, name = choice["certificate"], choice["chosen"]["name"]
    if certificate is None:
        return {}
    artifact = next(e["artifact"] for e in measurements["candidates"] if e["name"] == name)
    look = {"name": name, "artifact": artifact, "test": measurements["test_digest"], "at": certificate["certified_at"]}
    earlier = _certified(run_dir)
    return {CERTIFIED: json.dumps(earlier if look in earlier else [*earlier, look], indent=1) + "\n"}


def _unseal(choice: dict, measurements: dict, looks: int, at: str) -> None:
    """Put what the test rows say into the entries of the selected candidate and of the baseline, no others."""
    choice["chosen"].update(certified(measurements, choice["chosen"]["name"], looks, at))
    base = certified(measurements, measurements["baseline"], 1, at)
    choice["baseline"].update({key: value for key, value in base.items() if key != "certificate"})
    for entry in choice["candidates"]:
        if entry["name"] == choice["baseline"]["name"] and entry is not choice["chosen"]:
            entry.update({key: choice["baseline"][key] for key in base if key != "certificate"})


def publish(
    run_dir: Path, measurements: dict, choice: dict, command: str, beside: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write choice.json, report.html, bundle/ and bundle.tar.gz of a choice, and files of the run that go with them.

    `beside`: their texts by name. All of them take the places of an earlier choice at once (`publication`); one that
    cannot be packed leaves that as it was. Raises InputError when the checkpoint's licence or card is missing.
    """
    Choice.model_validate(choice)
    origin = _origin(run_dir, measurements)
    with publication(run_dir) as scratch:
        report = write_report(scratch / "report.html", measurements, choice, command)
        chosen = next(c for c in measurements["candidates"] if c["name"] == choice["chosen"]["name"])
        bundle = write_bundle(
            scratch / "bundle",
            read_artifact(run_dir / chosen["artifact"]),
            Contents(
                name=measurements["name"],
                choice=choice,
                golden_texts=measurements["golden_texts"],
                reference_texts=measurements.get("reference_texts", ()),
                about=_about(origin, measurements),
                extra_files=[report, *(origin / name for name in measurements["origin"]["files"] if name != CARD)],
            ),
        )
        pack(bundle, scratch / "bundle.tar.gz")
        texts = {"choice.json": json.dumps(choice, indent=2) + "\n", **_noted(measurements, choice, run_dir), **beside}
        for name, text in texts.items():
            (scratch / name).write_text(text, encoding="utf-8")


def _origin(run_dir: Path, measurements: dict) -> Path:
    """The step that keeps the checkpoint's licence, notices and card; InputError when one of them is missing."""
    again = "run the recipe again, finished steps are kept"
    if "origin" not in measurements:
        raise InputError(f"{run_dir / 'measurements.json'}: without the checkpoint's licence and card; {again}")
    origin = run_dir / measurements["origin"]["path"]
    for name in measurements["origin"]["files"]:
        if not (origin / name).is_file():
            raise InputError(
                f"{origin / name}: missing, and the bundle needs the checkpoint's licence and card; {again}"
            )
    return origin


def _about(origin: Path, measurements: dict) -> About:
    """What the checkpoint's own card says, and the data of this run: files by their name, others as on the Hub."""
    data = measurements.get("data", {})
    hub = {split: source.partition(":")[0] for split, source in data.items() if not Path(source).is_absolute()}
    card = read_card(origin)
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
