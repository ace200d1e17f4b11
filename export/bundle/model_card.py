"""The model card of a bundle: README.md in the Hub's layout. Its text is in model_card.md.jinja."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from paredown.compress.models.model_card import card_head
from paredown.compress.models.validation import TRUNCATE
from paredown.runtime.errors import printable
from paredown.tasks.registry import task_named

from ..artifact import values_of
from ..runtimes.registry import RUNTIMES

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
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
    """Markdown with a YAML head, rendered from model_card.md.jinja; every metric comes from choice.json.

    `sizes`: bytes of what the runtime loads, by file name.
    """
    from huggingface_hub import ModelCard  # slow to import; nothing here asks the Hub

    task = task_named(manifest["task"])
    card = ModelCard.from_template(
        _card_data(manifest, choice["chosen"], about),
        template_path=str(TEMPLATE),
        manifest=manifest,
        choice=choice,
        chosen=choice["chosen"],
        baseline=choice["baseline"],
        about=about,
        sizes=sizes,
        task=task,
        environment=sum(entry["bytes"] for entry in manifest["environment"].values()),
        labels=[escaped(label) for label in task.listed_labels(manifest["labels"])],
        show=escaped,
        windows=sorted(map(tuple, values_of(manifest["source"]["details"], TRUNCATE))),
    )
    return f"{card}\n"


def escaped(text: str) -> str:
    """Foreign text (a label, a file's name) as one line of Markdown that shows it: no HTML, no links, no table cells.
    CommonMark 0.31: a backslash before any ASCII punctuation gives that character."""
    line = " ".join(printable(text).split())
    return MARKS.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), line)


def _card_data(manifest: dict, chosen: dict, about: About) -> ModelCardData:
    """The YAML head, as the Hub's own library writes it."""
    from huggingface_hub import EvalResult, ModelCardData

    metric, split = chosen["metric"], "validation" if chosen["metric_test"] is None else "test"
    source = re.sub("[<>]", "", about.data.get(split, split))  # some readers show the head as HTML
    runtime = RUNTIMES[manifest["runtime"]].SPEC
    results = [(metric, f"{metric}, points", chosen[f"metric_{split}"])]
    if chosen["certificate"] is not None:
        lost = f"points of {metric} lost against the checkpoint at most (one-sided 95 % bound)"
        results.append(("drop_upper_95", lost, chosen["certificate"]["drop_upper_95"]))
    return ModelCardData(
        license=about.licence,
        language=list(about.language) or None,
        library_name=runtime.hub_library or runtime.name,
        pipeline_tag=task_named(manifest["task"]).pipeline_tag,
        base_model=about.base_model,
        datasets=list(about.datasets) or None,
        metrics=[metric],
        tags=["paredown", manifest["precision"]],
        model_name=manifest["name"],
        eval_results=[
            EvalResult(
                task_type=manifest["task"],
                dataset_type=source,
                dataset_name=source,
                dataset_split=split,
                metric_type=kind,
                metric_name=name,
                metric_value=round(value, 4),
            )
            for kind, name, value in results
        ],
    )


def _words(value: object) -> tuple[str, ...]:
    """A word or a list of words; anything else is left out."""
    words = value if isinstance(value, list) else [value]
    return tuple(word for word in words if isinstance(word, str))
