"""The table of tasks: a new task is a class in a file of its own, and a line here. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from paredown.runtime.errors import InputError, nearest

from .base import Task
from .classification import TextClassification, TextPairClassification
from .image_classification import ImageClassification
from .multi_label import MultiLabelClassification
from .question_answering import QuestionAnswering
from .regression import TextPairRegression, TextRegression
from .sentence_embedding import SentenceEmbedding
from .text_generation import TextGeneration
from .text_to_text import TextToText
from .token_classification import TokenClassification

PLUGINS = "paredown.tasks"  # the entry-point group by which an installed package brings a task of its own
TASKS: Mapping[str, Task] = MappingProxyType(
    {  # ours; what it holds does not depend on what was looked up before
        task.name: task
        for task in (
            TextClassification(),
            TextPairClassification(),
            MultiLabelClassification(),
            TextRegression(),
            TextPairRegression(),
            TokenClassification(),
            QuestionAnswering(),
            SentenceEmbedding(),
            TextToText(),
            TextGeneration(),
            ImageClassification(),
        )
    }
)


def task_named(name: str, where: str = "task") -> Task:
    """The task of this name, ours or that of an installed package. InputError begins with `where`."""
    if name in TASKS:
        return TASKS[name]
    for point in entry_points(group=PLUGINS, name=name):
        return _loaded(point)
    raise InputError(f"{where}: {name!r} is no task; {nearest(name, TASKS)}")


@cache
def _loaded(point: EntryPoint) -> Task:
    return point.load()()


def task_of_architecture(architecture: str) -> Task | None:
    """A task whose models have a class of this name (`architectures` in config.json); the first of those that share a
    class. None where no task does. The longest ending counts: MarianMTModel ends in "Model" too."""
    fitting = [(len(end), task) for task in TASKS.values() for end in task.heads if architecture.endswith(end)]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None
