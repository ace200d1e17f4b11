"""What the help says of all commands: their groups, an example of each, and the options that all of them have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import metadata
from itertools import islice
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.models import CommandInfo

from paredown.runtime.errors import InputError, nearest

from ..progress import MODE, Mode

# group -> command -> an example
GROUPS = {
    "Make": {
        "compress": "paredown compress teacher --train train.csv --validation validation.csv",
        "init": "paredown init teacher --train train.csv --validation validation.csv --output recipe.yaml",
        "run": "paredown run recipe.yaml",
        "plan": "paredown plan recipe.yaml --format dot",
        "step": "paredown step recipe.yaml teacher-scores",
        "finetune": "paredown finetune bert-base-uncased --train train.csv --output-dir teacher",
        "tune": "paredown tune bert-base-uncased --train train.csv --validation dev.csv --minutes 60 --output-dir best",
        "update": "paredown update teacher --train train.csv --new new.csv --output-dir updated",
        "augment": "paredown augment --train train.csv --output more.jsonl --kind synonyms",
        "prune": "paredown prune teacher --train train.csv --speedup 2 --output-dir pruned",
        "distill": "paredown distill teacher --train train.csv --layers 3 --output-dir student",
        "trim": "paredown trim teacher --train train.csv --output-dir trimmed",
        "truncate": "paredown truncate teacher --train train.csv --first 64 --last 64 --output-dir shorter",
        "quantize": "paredown quantize teacher --output-dir int8",
        "export": "paredown export teacher --to openvino --precision fp32 --output-dir exported",
        "schema": "paredown schema > recipe.schema.json",
    },
    "Judge": {
        "choose": "paredown choose runs/mine --max-drop 2",
        "report": "paredown report runs/mine --all",
        "bench": "paredown bench runs/mine/bundle teacher --data test.csv",
        "robustness": "paredown robustness runs/mine/bundle --data test.csv",
        "explain": "paredown explain teacher --text 'a good film' --output why.html",
        "fairness": "paredown fairness runs/mine/bundle --data test.csv --group label",
        "doctor": "paredown doctor",
    },
    "Ship": {
        "verify": "paredown verify runs/mine/bundle.tar.gz --data test.csv",
        "pack": "paredown pack runs/mine --layout triton --output-dir models",
        "predict": "paredown predict runs/mine/bundle --text 'a good film'",
    },
    "Serve": {
        "serve": "paredown serve runs/mine/bundle --port 8080",
        "load": "paredown load http://127.0.0.1:8080 --rps 50 --text 'a good film'",
    },
}
PREFIX = "PAREDOWN"  # of environment variables: PAREDOWN_SERVE_PORT is --port of `serve`
VERBOSE = "PAREDOWN_VERBOSE"  # environment variable; any value
FOR_ALL = ("-q", "--quiet", "-v", "--verbose", "--progress")  # options that may stand before or after the command


class Grouped(TyperGroup):
    """Commands in the order of GROUPS. Each option that is not given is read from $PAREDOWN_COMMAND_OPTION; no variable
    of a command is left unread."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = [name for commands in GROUPS.values() for name in commands]
        return sorted(super().list_commands(ctx), key=order.index)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        for option in command.params if command else ():
            option.show_envvar = False  # pyright: ignore[reportAttributeAccessIssue]; in the help: a third line for each option
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name is None or command is None:  # completion of a command that there is not
            return name, command, rest
        known = [variable_of(name, option.name) for option in command.params if option.param_type_name == "option"]
        for given in variables(name):
            if given not in known:
                raise InputError(f"${given}: `paredown {name}` has no such option; {nearest(given, known)}")
        return name, command, rest


def variable_of(command: str, option: str) -> str:
    """The environment variable of an option, as click names it."""
    return f"{PREFIX}_{command}_{option}".upper().replace("-", "_")


def variables(command: str) -> list[str]:
    """The variables of this command's options that the environment has."""
    return sorted(name for name in os.environ if name.startswith(variable_of(command, "")))


def arrange(app: typer.Typer) -> None:
    """Give every command of the program its group and its example."""
    groups = {name: group for group, commands in GROUPS.items() for name in commands}
    examples = {name: example for commands in GROUPS.values() for name, example in commands.items()}
    for command in commands_of(app):
        name = name_of(command)
        command.rich_help_panel = groups[name]
        command.epilog = (
            f"Example: {examples[name]}\n\n-q, -v and --progress: see paredown --help. "
            f"Options may also stand in the environment: {variable_of(name, '...')}"
        )


def commands_of(app: typer.Typer) -> list[CommandInfo]:
    """Every command, those of its parts too."""
    parts = [part.typer_instance for part in app.registered_groups if part.typer_instance is not None]
    return [*app.registered_commands, *(command for part in parts for command in commands_of(part))]


def name_of(command: CommandInfo) -> str:
    """As it is typed."""
    assert command.callback is not None
    return command.name or command.callback.__name__.replace("_", "-")


def hoisted(arguments: Sequence[str]) -> list[str]:
    """The arguments with the options of all commands in front, where the program itself reads them; what follows `--`
    stays."""
    front, rest = [], []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--progress":
            front += [word, *islice(words, 1)]
        else:
            (front if word.partition("=")[0] in FOR_ALL else rest).append(word)
    return [*front, *rest]


def _version(asked: bool) -> None:
    if asked:
        print(f"paredown {metadata.version('paredown')}")
        raise typer.Exit


def for_all(
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", allow_from_autoenv=False, help="No progress and no notes: the result and errors only."
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            allow_from_autoenv=False,
            help="Log messages of libraries, and the traceback of an error.",
        ),
    ] = False,
    progress: Annotated[
        Mode | None,
        typer.Option(
            envvar=MODE,
            help="Progress on stderr: a bar on a terminal and JSON lines in CI (auto), lines of text, JSON lines, or "
            "none.",
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version and exit.",
            callback=_version,
            is_eager=True,
            allow_from_autoenv=False,  # $PAREDOWN_VERSION is a likely name for something else
        ),
    ] = False,
) -> None:
    """Find the cheapest version of a fine-tuned model that is still good enough."""
    if quiet or progress:
        os.environ[MODE] = "none" if quiet else str(progress)  # for processes that this one starts, too
    if verbose:
        import logging

        os.environ[VERBOSE] = "1"
        logging.basicConfig(level=logging.INFO)
