"""From measurements to choice.json, report and bundle. Reads nothing but the run directory, so that another rule can
be tried without running again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from ..benchmarks.choose import ChooseSettings, choose
from ..benchmarks.cost import Prices
from ..benchmarks.decision_card import card
from ..benchmarks.report import write_report
from ..compress.errors import InputError
from ..compress.origin import CARD
from ..export.archive import pack
from ..export.artifact import read_artifact
from ..export.bundle import write_bundle
from ..export.card import About, read_card
from ..export.selftest import BundleError, check_files, read_manifest
from .publication import PUBLISHED, STAMP, publication
from .rows import baseline_cost, promise_of, row_of


def decide(measurements: dict, settings: ChooseSettings) -> dict:
    """The content of choice.json under a rule."""
    prices = Prices.model_validate(measurements["prices"])
    entries = {entry["name"]: entry for entry in measurements["candidates"]}
    base = entries[measurements["baseline"]]
    base_cost = baseline_cost(base, prices, measurements)
    rows = [
        row_of(entry, base, base_cost, prices, measurements, promise_of(entry, entries)) for entry in entries.values()
    ]
    keys = dict.fromkeys(key for row in rows for key in row.figures)  # None for what cannot run, or was not measured
    rows = [replace(row, figures=keys | row.figures) for row in rows]
    return {
        **choose(rows, rows[0], settings),
        "card": card(rows, settings, prices.price_per_hour),
        "control": measurements["conditions"]["control"],
        "conditions": measurements["conditions"],
    }


def publish(
    run_dir: Path, measurements: dict, choice: dict, command: str, beside: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write choice.json, report.html, bundle/ and bundle.tar.gz of a choice, and files of the run that go with them.

    `beside`: their texts by name. All of them take the places of an earlier choice at once (`publication`); one that
    cannot be packed leaves that as it was. Raises InputError when the checkpoint's licence or card is missing.
    """
    origin = _origin(run_dir, measurements)
    with publication(run_dir) as scratch:
        report = write_report(scratch / "report.html", measurements, choice, command)
        chosen = next(c for c in measurements["candidates"] if c["name"] == choice["chosen"]["name"])
        bundle = write_bundle(
            scratch / "bundle",
            read_artifact(run_dir / chosen["artifact"]),
            name=measurements["name"],
            golden_texts=measurements["golden_texts"],
            reference_texts=measurements.get("reference_texts", ()),
            choice=choice,
            about=_about(origin, measurements),
            extra_files=[report, *(origin / name for name in measurements["origin"]["files"] if name != CARD)],
        )
        pack(bundle, scratch / "bundle.tar.gz")
        for name, text in {"choice.json": json.dumps(choice, indent=2) + "\n", **beside}.items():
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
