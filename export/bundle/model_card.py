"""The model card of a bundle: README.md in the Hub's layout, with a YAML head that the Hub's own library reads."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from paredown.compress.models.model_card import card_head
from paredown.runtime.errors import printable
from paredown.tasks.registry import task_named

from ..runtimes.registry import RUNTIMES

MARKS = re.compile(r"[\\`*_\[\]|~<>&$]")
ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}  # a backslash before them does not reach every reader's HTML filter


@dataclass(frozen=True)
class About:
    """What a model card says that the artefact does not know; all of it may be unknown."""

    licence: str | None = None  # the Hub's identifier, as the checkpoint states it
    language: tuple[str, ...] = ()
    base_model: str | None = None
    datasets: tuple[str, ...] = ()  # names on the Hub
    data: dict[str, str] = field(default_factory=dict)  # split -> file name or data set
    rows: dict[str, int] = field(default_factory=dict)  # split -> how many


def read_card(checkpoint: Path) -> About:
    """What the YAML head of a checkpoint's README.md says of its licence, language, origin and data."""
    head = card_head(checkpoint)
    licence, base = head.get("license"), head.get("base_model")
    return About(
        licence=licence if isinstance(licence, str) else None,
        language=_words(head.get("language")),
        base_model=base if isinstance(base, str) else None,
        datasets=_words(head.get("datasets")),
    )


def model_card(manifest: dict, choice: dict, about: About, sizes: dict[str, int]) -> str:
    """Markdown with a YAML head; every figure comes from choice.json. `sizes`: bytes of what the runtime loads."""
    chosen, baseline, certificate = choice["chosen"], choice["baseline"], choice["certificate"]
    metric, test = chosen["metric"], chosen["metric_test"]
    split = certificate["split"] if certificate else "test"
    latency, base_latency = chosen["latency_ms"], baseline["latency_ms"]
    environment = sum(entry["bytes"] for entry in manifest["environment"].values())
    packed_on, task = manifest["packed_on"], task_named(manifest["task"])
    return f"""---
{yaml.safe_dump(_head(manifest, chosen, about), sort_keys=False, allow_unicode=True, width=120).rstrip()}
---

# {manifest["name"]}

{manifest["task"]}{_labels(manifest)}. Made by paredown {manifest["tool"]["paredown"]} from a
fine-tuned checkpoint as candidate `{chosen["name"]}` ({manifest["runtime"]}, {manifest["precision"]}).

## Metrics

| | this model | 95 % interval | the checkpoint, PyTorch fp32 |
| --- | --- | --- | --- |
| {metric}, {split} | {_number(test)} | {_interval(chosen["metric_test_ci"])} \
| {_number(baseline["metric_test"])} |
| {metric}, validation | {_number(chosen["metric_validation"])} | {_interval(chosen["metric_validation_ci"])} \
| {_number(baseline["metric_validation"])} |
| p50 / p95 / p99, one row | {latency["p50"]:.2f} / {latency["p95"]:.2f} / {latency["p99"]:.2f} ms | | \
{base_latency["p50"]:.2f} / {base_latency["p95"]:.2f} / {base_latency["p99"]:.2f} ms |
| size to ship | {chosen["size_mb"]:.1f} MB | | {baseline["size_mb"]:.1f} MB |

{_certified(choice)}

Speed, one row a call: {_speed(choice)} Measured on {packed_on["cpu"]}, {packed_on["cores"]} cores; `report.html` has \
the rest.

## Data

{_data(about)}

## Intended use and limits

For {task.name} of {task.rows_are} like those it was trained on, {task.describe_answer(manifest)}; {task.limits}

- {task.describe_length(manifest)}
- Inputs unlike the training data were not tested, nor was fairness between groups of people; whatever bias the
  checkpoint and its data have is still in it. Compression can lose more on rare inputs than the mean shows.
- {_cpus(manifest)}
- Licence of the checkpoint: {escaped(about.licence or "") or "not stated there; find out before you pass this on"}.

## How to run it

    pip install -r requirements.txt
    python selftest.py                                  # files whole, machine able, outputs as packed
    paredown predict . {task.predict_options():35}  # pip install paredown, with the runtime above

Without paredown, in this directory:

    from pathlib import Path
    from selftest import check_files, open_model, read_manifest
    here = Path(".")
    manifest = read_manifest(here)
    check_files(here, manifest)
    session, encoder = open_model(here, manifest)
    {task.output_name} = session(encoder.pad(encoder.ids([{task.row_code()}])))["{manifest["outputs"][0]}"]
    print({task.answer_code})

## Size

| | MB |
| --- | --- |
{_rows(sizes)}
| what `requirements.txt` installs, dependencies included | {environment / 1e6:.1f} |
"""


def _certified(choice: dict) -> str:
    """What the certificate says, and how the candidate was selected."""
    chosen, rule, found = choice["chosen"], choice["rule"], choice["certificate"]
    if found is None:
        text = "There is no certificate: no rows were kept that nothing else had used."
    else:
        text = (
            f"Certificate: on {found['rows']} {found['split']} rows, which nothing else used, it loses "
            f"{found['drop']:.2f} points against the checkpoint, "
            f"and not more than {found['drop_upper_95']:.2f} (one-sided 95 % bound)."
        )
        if found["looks"] > 1:
            text += (
                f" {found['looks']} candidates were held against these rows; the bound holds for all of them together."
            )
    drop = f"{chosen['drop_validation']:.2f} points"
    if not rule["confidence"]:
        return f"{text}\nIt was selected on validation rows, where it loses {drop} (not tested)."
    return (
        f"{text}\nIt was selected on validation rows, where it loses {drop}, not more than "
        f"{chosen['drop_upper']:.2f} at {100 * rule['confidence']:.0f} % confidence for all candidates together."
    )


def _speed(choice: dict) -> str:
    """Speed-ups with their intervals; of a noisy run the ranges alone."""
    chosen, said = choice["chosen"], []
    for key, ends, against in (
        ("speedup_vs_baseline", "speedup_ci", "the checkpoint in PyTorch"),
        ("speedup_vs_plain_int8", "speedup_vs_plain_int8_ci", "its plain INT8"),
    ):
        if chosen[key] is None or (key == "speedup_vs_plain_int8" and choice["plain_int8"] == chosen["name"]):
            continue
        lo, hi = chosen[ends]
        point = "" if choice["noisy"] else f"{chosen[key]:.2f} times as fast as {against}, 95 % interval "
        said.append(
            f"{point}{lo:.2f} to {hi:.2f}" + (f" times as fast as {against} (noisy machine)" if choice["noisy"] else "")
        )
    return f"{'; '.join(said)} ({chosen['speedup_statistic']})."


def escaped(text: str) -> str:
    """Foreign text (a label, a file's name) as one line of Markdown that shows it: no HTML, no links, no table cells.
    CommonMark 0.31: a backslash before any ASCII punctuation gives that character."""
    line = " ".join(printable(text).split())
    return MARKS.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), line)


def _head(manifest: dict, chosen: dict, about: About) -> dict:
    metric, split = chosen["metric"], "validation" if chosen["metric_test"] is None else "test"
    source = re.sub("[<>]", "", about.data.get(split, split))  # some readers show the head as HTML
    dataset = {"type": source, "name": source, "split": split}
    result = {"type": metric, "name": f"{metric}, points", "value": round(chosen[f"metric_{split}"], 4)}
    head = {
        "license": about.licence,
        "language": list(about.language),
        "library_name": RUNTIMES[manifest["runtime"]].SPEC.hub_library or manifest["runtime"],
        "pipeline_tag": task_named(manifest["task"]).pipeline_tag,
        "base_model": about.base_model,
        "datasets": list(about.datasets),
        "metrics": [metric],
        "tags": ["paredown", manifest["precision"]],
        "model-index": [
            {
                "name": manifest["name"],
                "results": [{"task": {"type": manifest["task"]}, "dataset": dataset, "metrics": [result]}],
            }
        ],
    }
    return {key: value for key, value in head.items() if value}


def _data(about: About) -> str:
    lines = [f"- {split}: {about.rows.get(split, '?')} rows, {escaped(name)}" for split, name in about.data.items()]
    return "\n".join(lines) if lines else "Not stated."


def _labels(manifest: dict) -> str:
    if not (task_named(manifest["task"]).lists_labels and manifest["labels"]):
        return ""
    return f", labels: {', '.join(map(escaped, manifest['labels']))}"


def _cpus(manifest: dict) -> str:
    needs = manifest["isa"]["needs_one_of"]
    if not needs:
        return "It runs on any CPU that its runtime supports."
    return f"It needs a CPU with one of {', '.join(needs)}; `selftest.py` refuses others."


def _rows(sizes: dict[str, int]) -> str:
    return "\n".join(f"| `{name}` | {size / 1e6:.1f} |" for name, size in sizes.items())


def _words(value: object) -> tuple[str, ...]:
    """A word or a list of words; anything else is left out."""
    words = value if isinstance(value, list) else [value]
    return tuple(word for word in words if isinstance(word, str))


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _interval(value: list[float] | None) -> str:
    return "" if value is None else f"{value[0]:.2f} to {value[1]:.2f}"
