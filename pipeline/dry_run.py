"""The dry run loads every model of a recipe and runs it on a row of the longest input that it promises."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from paredown.compress.models.loading import Checkpoint, load, with_new_head
from paredown.export.checks.parity import longest_row, takes_longest
from paredown.runtime.errors import InputError, StepError
from paredown.tasks.base import Task
from paredown.tasks.rows import Rows

from .recipe.schema import Recipe


def take_longest(
    sources: Sequence[Checkpoint], task: Task, checkpoint: Checkpoint, recipe: Recipe, validation: Rows
) -> None:
    """Load the models of a recipe, and run each on a row of exactly its longest input, at most `recipe.max_length`
    tokens. InputError names the model. Imports torch.
    """
    from paredown.compress.models.inference import forward

    for source in sources:
        source = source.generating_like(checkpoint)
        ready = source.has_head(task) or not task.new_head(())
        model = load(source, task) if ready else with_new_head(source, task, checkpoint.labels, recipe.seed).eval()
        encoder = source.encoder(recipe.max_length)
        row = longest_row(encoder, validation.texts, second=task.reads_pairs)
        try:
            takes_longest(partial(forward, model), row, encoder, task, str(source.path))
        except StepError as error:
            raise InputError(str(error).removeprefix("parity: ")) from None
