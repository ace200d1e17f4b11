"""From measurements to choice.json, report and bundle. Reads nothing but the run directory, so that another rule can
be tried without running again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from ..benchmarks.choose import ChooseSettings, choose
from ..benchmarks.cost import Prices
from ..benchmarks.decision_card import card
from ..benchmarks.report import write_report
from ..export.archive import pack
from ..export.artifact import read_artifact
from ..export.bundle import write_bundle
from ..export.card import About, read_card
from ..export.selftest import BundleError, check_files, read_manifest
from .rows import baseline_cost, promise_of, row_of
from .store import write_atomic

STAMP = ".published"  # the key of the run that published; gone as soon as anything else did
REPLACE = "replace.json"  # what an older run said about the bundle; it goes when the bundle does
PUBLISHED = ("choice.json", "report.html", "bundle.tar.gz", "bundle")


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
