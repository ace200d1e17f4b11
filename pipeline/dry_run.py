"""The dry run loads every model of a recipe and runs it on a row of the longest input that it promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
        if task.generates:
            source = replace(source, max_new_tokens=checkpoint.generation["max_new_tokens"])
        ready = source.has_head(task) or not task.new_head(())
        model = load(source, task) if ready else with_new_head(source, task, checkpoint.labels, recipe.seed).eval()
        encoder = source.encoder(recipe.max_length)
        row = longest_row(encoder, validation.texts, second=task.reads_pairs)
        try:
            takes_longest(partial(forward, model), row, encoder, task, str(source.path))
        except StepError as error:
            raise InputError(str(error).removeprefix("parity: ")) from None


def same_length(where: str, checkpoint: Checkpoint, other: Checkpoint, max_length: int) -> None:
    """InputError where one of two models that are compared token by token takes fewer tokens than the other."""
    ours, theirs = (min(max_length, each.positions) for each in (checkpoint, other))
    if ours != theirs:
        raise InputError(
            f"{where}: of max_length {max_length} the checkpoint takes {ours} tokens and {other.path} {theirs}, and "
            f"they are compared token by token; set max_length: {min(ours, theirs)}"
        )
