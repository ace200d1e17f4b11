"""The command line: `run`, `compress`, `init`, `schema`, `doctor`; errors and exit codes of all commands."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import Abort, TyperException

from paredown.runtime.errors import InputError, StepError, missing_extra, nearest, printable, said
from paredown.runtime.manifest import BundleError

from ..extras import extra_of
from ..interrupted import INTERRUPTED, stopped
from ..progress import suggest, tell
from ..recipe.schema import Data
from ..results import compare_baseline as replacing
from . import augment as augmenting
from . import bundle as bundles
from . import compress as stages
from . import explain as explaining
from . import export as exports
from . import graph as graphs
from . import predict as predicting
from . import results, robustness, tune
from . import serve as serving
from . import train as learning
from .common import (
    CheckpointTask,
    Everything,
    LabelColumn,
    Seed,
    SharedStore,
    TextColumn,
    TrainingProcesses,
    task_for,
)
from .help import PREFIX, VERBOSE, Grouped, arrange, commands_of, for_all, hoisted, name_of, variable_of, variables
from .options import fields, with_options

if TYPE_CHECKING:
    from ..machines import Outcomes
    from ..run import Outcome

app = typer.Typer(
    cls=Grouped,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": PREFIX},
)
app.callback()(for_all)
app.add_typer(learning.app)
app.add_typer(tune.app)
app.add_typer(augmenting.app)
app.add_typer(stages.app)
app.add_typer(exports.app)
app.add_typer(graphs.app)
app.add_typer(results.app)
app.add_typer(bundles.app)
app.add_typer(predicting.app)
app.add_typer(robustness.app)
app.add_typer(explaining.app)
app.add_typer(serving.app)
BROKEN_PIPE = 141  # exit code, as shells have it: 128 + SIGPIPE
out = Console(width=None if sys.stdout.isatty() else 150, markup=False)

# What a user can mend about a file or a disk; any other OSError is a bug.
OF_FILES = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EMFILE, errno.ESTALE, errno.EFBIG,
)  # fmt: skip


def main() -> None:
    """Run a command; errors that the user can mend are one line. 2: bad input, 1: no result to be trusted, 130:
    interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not know every letter of a text
    try:
        code = _command()
        if sys.stdout is not None:
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:  # who read the output wants no more of it; typer and rich exit then
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        _close_quietly()
        sys.exit(BROKEN_PIPE)
    if code:
        sys.exit(code)


def _command() -> int:
    """The exit code of the command that was given."""
    try:
        # typer makes an exit code of KeyboardInterrupt
        code = app(hoisted(sys.argv[1:]), prog_name="paredown", standalone_mode=False)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except TyperException as error:  # an unknown option, a value of the wrong kind
        message = " ".join(error.format_message().split())
        if message:  # empty after the help that a bare `paredown` prints
            _say(said(message + _from_environment()))
        return 2
    except Abort:
        return INTERRUPTED
    except InputError as error:
        _say(said(f"{error}{_from_environment()}"))
        return 2
    except (StepError, BundleError) as error:  # of a run with a reason for each candidate: not to be shortened
        _say(printable(f"error: {error}") if isinstance(error, StepError) else said(error))
        return 1
    except MemoryError as error:
        _say(said(f"too little memory: {error or 'no more is given to this process'}"))
        return 1
    except (ModuleNotFoundError, UnicodeEncodeError, OSError) as error:
        line = _mendable(error)
        if line is None:
            raise
        _say(said(line))
        return 2
    except KeyboardInterrupt:
        _say(stopped())
        return INTERRUPTED


def _from_environment() -> str:
    """Which options nobody typed, for the end of an error of the input."""
    commands = {command for command in map(name_of, commands_of(app)) if command in sys.argv[1:]}
    found = [name for command in sorted(commands) for name in variables(command)]
    return f" (from the environment: {', '.join(found)})" if found else ""


def _mendable(error: ModuleNotFoundError | UnicodeEncodeError | OSError) -> object:
    """What to say of an error that comes from how this machine is set up; None: it is a bug."""
    if isinstance(error, ModuleNotFoundError):
        extra = extra_of(error.name or "")
        return None if extra is None else missing_extra((error.name or "").partition(".")[0], extra)
    if isinstance(error, UnicodeEncodeError):
        text = error.object[max(0, error.start - 40) : error.start + 40]
        if not any("\udc80" <= letter <= "\udcff" for letter in text):  # how Python reads a name that it cannot
            return None
        here = sys.getfilesystemencoding()
        return f"...{text!a}...: a name that is not in the encoding of this terminal, {here}; set LC_ALL=C.UTF-8"
    if error.errno not in OF_FILES:  # a closed pipe among others
        return None
    return f"{error.filename or 'a file'}: {error.strerror}"


def _say(line: str) -> None:
    """An error in one line, after its traceback where that was asked for."""
    if os.environ.get(VERBOSE) and sys.exc_info()[0] is not None:
        traceback.print_exc()
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def _close_quietly() -> None:
    """Keep Python from writing to a pipe that is closed once more, when it ends."""
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(silent, stream.fileno())


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    output_dir: Annotated[Path | None, typer.Option(help="Run directory (default: runs/NAME of the recipe).")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe and show the plan, without running it.")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="An older run; the new bundle is tested against its bundle.")
    ] = None,
    on: Annotated[
        str,
        typer.Option(
            help="Where the steps are done: local (side by side where cores and memory allow), ray (see "
            "docs/how-to.md) or ray://HOST:PORT."
        ),
    ] = "local",
    store: SharedStore = None,
    everything: Everything = False,
) -> None:
    """Run a recipe from the checkpoint to the bundle; run it again to resume."""
    from ..machines import run_on_each
    from ..recipe.loader import read_recipe
    from ..run import LOCAL, default_run_dir
    from ..run import run as run_recipe

    job = read_recipe(recipe)
    if dry_run and store not in (None, os.environ.get(variable_of("run", "store"))):  # there it is for all runs
        raise InputError("--dry-run shows the plan of this machine: leave --store out")
    if on != LOCAL and (baseline is not None or dry_run):
        given = "--dry-run shows the plan" if dry_run else "--baseline compares two bundles"
        raise InputError(f"{given} of this machine: leave --on {on} out")
    each = isinstance(job.measure_on, list)
    if each and baseline is not None:
        raise InputError("--baseline compares two bundles, and each machine of measure_on has one: leave it out")
    if baseline is not None:
        replacing.old_bundle(baseline)
    run_dir = output_dir or default_run_dir(job, recipe)
    if baseline is not None and baseline.resolve() == run_dir.resolve():
        raise InputError(f"--baseline {baseline}: the run would overwrite it; give another --output-dir")
    if dry_run:
        _show_plan(job, run_dir)
        return
    if each:
        _show_each(run_on_each(job, run_dir, on=on, store=store), everything)
        return
    outcome = run_recipe(job, run_dir, baseline, on=on, store=store)
    _show(outcome, everything)
    if baseline is not None:
        found = replacing.against(outcome.job, outcome.run_dir, baseline)
        out.print(f"{'replace' if found.replace else 'keep'} {baseline}: {found.why}", soft_wrap=True)


def _show(outcome: Outcome, everything: bool) -> None:
    """What a run came to: the search, the candidates, and where report and bundle are."""
    if not outcome.ran and not outcome.republished:
        out.print(f"Nothing to do: all {outcome.steps} steps were there already.")
    for name, made in outcome.measurements.adapt.items():
        out.print(f"{name}: {made.said}", soft_wrap=True)
    searched = outcome.measurements.search
    if searched:
        for line in searched.trained:
            out.print(f"trained: {line}", soft_wrap=True)
        for name, reason in searched.dropped.items():
            out.print(f"dropped: {name}: {reason}", soft_wrap=True)
        if searched.next:
            out.print(f"more minutes would go into: {searched.next}", soft_wrap=True)
    results.show_choice(outcome.choice, outcome.measurements, outcome.run_dir, everything)
    for line in outcome.failed:
        out.print(f"failed: {line}", soft_wrap=True)


def _show_each(outcomes: Outcomes, everything: bool) -> None:
    """What a run on several machines came to: each machine's result, then the candidate for all of them."""
    from paredown.export.bundle.archive import MACHINES

    from .result_view import for_all_machines

    for name, outcome in outcomes.machines.items():
        out.print(f"{name}:")
        _show(outcome, everything)
        out.print()
    for line in for_all_machines(outcomes.one_for_all, outcomes.run_dir / MACHINES):
        out.print(line, soft_wrap=True)
    outcomes.require_all()


@app.command()
def compress(
    checkpoint: Annotated[str, typer.Argument(help="Directory or hub id of a fine-tuned checkpoint.")],
    train: Annotated[str, typer.Option(help="Labelled rows: .csv, .jsonl, .parquet or a datasets name.")],
    validation: Annotated[str, typer.Option(help="Labelled rows that the selection uses.")],
    test: Annotated[
        str | None, typer.Option(help="Labelled rows for the certificate (default: a third of validation).")
    ] = None,
    unlabeled: Annotated[str | None, typer.Option(help="Further text for distillation.")] = None,
    student: Annotated[
        list[str] | None,
        typer.Option(help="Checkpoint of a smaller student to try; may be given several times."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time limit of the whole job, in minutes.")] = 30.0,
    max_drop: Annotated[float, typer.Option(min=0, help="Maximum loss of the metric, in points.")] = 1.0,
    budget: Annotated[
        list[str] | None,
        typer.Option(help="Hard limit, such as p95_ms=20 or size_mb=10; may be given several times."),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="Run directory (default: runs/NAME of the checkpoint).")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=4, help="Maximum input length, in tokens (default: 128, 256 or 512, as the rows need)."),
    ] = None,
    seed: Seed = 13,
    training_processes: TrainingProcesses = 1,
    task: CheckpointTask = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    everything: Everything = False,
) -> None:
    """Make a checkpoint small and fast without a recipe; run it again to resume."""
    from ..whole_job import FOUND_RECIPE, WholeJob, absolute, whole_job

    files = {"train": train, "validation": validation, "test": test, "unlabeled": unlabeled}
    data = {key: absolute(source) for key, source in files.items() if source is not None}
    data |= {key: name for key, name in (("text", text_column), ("label", label_column)) if name is not None}
    job = WholeJob(
        absolute(checkpoint), data, minutes=minutes, max_drop=max_drop, budgets=_budgets(budget or []),
        students=[absolute(one) for one in student or ()], task=task, max_length=max_length, seed=seed,
        more={} if training_processes == 1 else {"training_processes": training_processes},
    )  # fmt: skip
    outcome = whole_job(job, output_dir)
    _show(outcome, everything)
    out.print(f"recipe  {outcome.run_dir / FOUND_RECIPE} (edit it, then: paredown run)", soft_wrap=True)


def _budgets(given: list[str]) -> dict[str, float]:
    """`p95_ms=20` as a limit. Raises InputError."""
    from paredown.benchmarks.selection.constraints import Budgets

    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in Budgets.model_fields:
            raise InputError(f"--budget {text}: {nearest(name, Budgets.model_fields)}")
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"--budget {text}: a number is expected, as in {name}=20") from None
    return found


@app.command()
@with_options
def init(
    checkpoint: Annotated[str, typer.Argument(help="Directory or hub id of a fine-tuned checkpoint.")],
    data: Annotated[
        Data,
        fields(
            "train",
            "validation",
            "test",
            "unlabeled",
            help={
                "train": "Labelled rows: .csv, .jsonl, .parquet or a datasets name.",
                "test": "Labelled rows for the certificate (default: a third of validation).",
                "unlabeled": "Further text for distillation.",
            },
        ),
    ],
    output: Annotated[Path, typer.Option(help="Where to write the recipe.")] = Path("recipe.yaml"),
    full: Annotated[bool, typer.Option("--full", help="Write every field with its default and its meaning.")] = False,
    task: CheckpointTask = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Write the recipe of `compress` for a checkpoint and its data, to be edited."""
    from ..model_checks import task_of
    from .init import write_recipe

    if output.exists():
        raise InputError(f"{output}: exists already; remove it or choose another --output")
    data = data.model_copy(update={"text": text_column, "label": label_column})
    tell(write_recipe(output, checkpoint, data, task_for(task) if task else task_of(checkpoint), full=full))
    out.print(str(output), soft_wrap=True)
    suggest("paredown", "run", output)


@app.command()
def schema(
    of: Annotated[
        Literal["recipe", "choice", "one_for_all", "measurements", "bench", "manifest", "artifact", "plan"],
        typer.Option(
            help="A recipe, choice.json, one_for_all.json, measurements.json, what `bench --json` writes, "
            "manifest.json, artifact.json, or what `plan` prints."
        ),
    ] = "recipe",
) -> None:
    """Print the JSON schema of a recipe, for editors, or of a result."""
    from paredown.benchmarks.measurements import Measurements
    from paredown.benchmarks.measuring.records import BenchResult, schema_of
    from paredown.benchmarks.selection.choice import Choice
    from paredown.benchmarks.selection.one_for_all import OneForAll
    from paredown.export.artifact import artifact_schema
    from paredown.runtime.manifest import SCHEMA_FILE

    from ..graph import Plan
    from ..recipe.loader import schema as recipe_schema

    written = {
        "recipe": recipe_schema,
        "choice": lambda: schema_of(Choice, "serialization"),
        "one_for_all": lambda: schema_of(OneForAll, "serialization"),
        "measurements": lambda: schema_of(Measurements),
        "bench": lambda: schema_of(BenchResult),
        "manifest": SCHEMA_FILE.read_text,
        "artifact": artifact_schema,
        "plan": lambda: schema_of(Plan, "serialization"),
    }
    print(written[of](), end="")


@app.command()
def doctor(json_output: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show cores, instruction sets, memory, GPUs and runtimes of this machine, and how to install what is missing."""
    from .doctor import examine

    found = examine()
    if json_output:
        print(json.dumps(found, indent=2))
        return
    here = found["machine"]
    out.print(f"{here['cpu']} ({here['arch']}), {here['cores']} cores, {here['memory_gb']} GiB, {here['os']}")
    out.print(f"fingerprint       {found['fingerprint'][:16]}")
    out.print(f"instruction sets  {', '.join(here['isa']) or 'none that matter'}")
    out.print(f"GPUs              {'; '.join(here['gpus']) or 'none'}")
    table = Table("part", "for", "version", "get it with")
    for name, part in found["parts"].items():
        table.add_row(name, part["for"], part["version"] or "missing", part["get"] or "")
    out.print(table)
    for name, lines in found["providers"].items():
        out.print(f"{name}: {'; '.join(lines)}", soft_wrap=True)
    for line in found["advice"]:
        out.print(f"- {line}", soft_wrap=True)
    out.print("onnxruntime and onnxruntime-gpu share a module: install exactly one of the extras cpu and gpu.")
    out.print("Nothing phones home: the runtimes' telemetry is switched off; only hub ids that you name are fetched.")


def _show_plan(recipe, run_dir: Path) -> None:
    from ..graph import planned_run
    from ..job import prepare
    from ..store import writable

    writable(run_dir)
    found = planned_run(prepare(recipe), run_dir)
    table = Table("step", "state", "about")
    for step in found.steps:
        state = "already there" if step.state == "done" else step.state
        said = f"{state}: {step.reason}" if step.reason else state
        table.add_row(step.name, said, f"{step.seconds:.0f} s" if step.seconds else "")
    out.print(table)
    for note in found.notes:
        out.print(f"note: {note}", soft_wrap=True)
    if found.then:
        out.print(f"Then {found.then}.")
    left = sum(step.seconds for step in found.steps)
    out.print(f"About {left / 60:.0f} minutes, by what a row takes here; nothing was done.")


arrange(app)

if __name__ == "__main__":
    main()
