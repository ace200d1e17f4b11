"""The commands `choose`, `report` and `bench`."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from paredown.benchmarks.measuring.latency import LatencySettings
from paredown.benchmarks.selection.constraints import Budgets
from paredown.benchmarks.selection.selection import ChooseSettings
from paredown.runtime.errors import InputError, StepError

from ..spelling import checked
from .common import ComparedRows, Everything
from .options import fields, with_options

if TYPE_CHECKING:
    from paredown.benchmarks.measurements import Measurements
    from paredown.benchmarks.measuring.records import BenchResult
    from paredown.benchmarks.selection.choice import Choice

app = typer.Typer()
out = Console(width=None if sys.stdout.isatty() else 150, markup=False)

RunDir = Annotated[Path, typer.Argument(help="Run directory of `paredown run`.")]


@app.command()
@with_options
def choose(
    run_dir: RunDir,
    given: Annotated[
        dict,
        fields(
            "rule",
            "max_drop",
            "confidence",
            "value_per_point",
            "gates",
            of=ChooseSettings,
            rule=None,
            max_drop=None,
            confidence=None,
            gates=None,
            spelled={"gates": "--gate"},
            help={
                "rule": "Selection rule (default: the recipe's).",
                "max_drop": "Maximum drop on validation rows, in points.",
                "confidence": "Confidence of the upper bound of the drop, 0 to 1; 0 compares measured drops without a "
                "test.",
                "value_per_point": "Value of one metric point, in money per million requests.",
                "gates": "Further limit with direction and unit, such as 'p99_ms <= 20 ms'; may be given several "
                "times.",
            },
        ),
    ],
    limits: Annotated[
        dict,
        fields(
            *Budgets.model_fields,
            of=Budgets,
            help={
                "p95_ms": "Budget: p95 latency of one row, in ms.",
                "size_mb": "Budget: size of the artefact, in MB.",
                "memory_mb": "Budget: peak memory, in MB.",
                "cost_per_million": "Budget: cost per million requests.",
                "drop_upper_95": "Budget: upper 95 % bound of the drop, in points.",
            },
        ),
    ],
    no_limit: Annotated[
        list[str] | None,
        typer.Option(help="Metric whose budget and gates in the recipe are lifted; may be given several times."),
    ] = None,
    candidate: Annotated[
        str | None, typer.Option(help="Name of the candidate to select, in place of the rule's.")
    ] = None,
    everything: Everything = False,
) -> None:
    """Select again from the measurements of a run; report and bundle are rewritten.

    Each further candidate that is evaluated on the test rows widens the bound of the certificate.
    """
    from paredown.benchmarks.selection.constraints import gate_of

    from ..results.journal import finish
    from ..results.measurements import read_measurements
    from ..results.publish import as_typed, decide, publish
    from ..store import lock

    read_measurements(run_dir)  # a directory that is no run is not locked, and not written to
    gates = given.pop("gates") or []
    try:
        for text in gates:
            gate_of(text)
    except ValueError as error:
        raise InputError(f"--gate {error}") from None
    with lock(run_dir):
        finish(run_dir)
        measurements = read_measurements(run_dir)
        settings = measurements.choose.model_dump() | {key: value for key, value in given.items() if value is not None}
        if given["value_per_point"] is not None and settings["rule"] != "lambda":
            raise InputError(f"--value-per-point is of --rule lambda; the rule is {settings['rule']}")
        if given["max_drop"] is not None and settings["rule"] != "cheapest":
            raise InputError(
                f"--max-drop is of --rule cheapest; the rule is {settings['rule']}: --gate 'drop_validation <= "
                f"{given['max_drop']:g} points' holds for every rule"
            )
        for figure in no_limit or []:
            _lift(settings, figure)
        settings["budgets"] |= {key: value for key, value in limits.items() if value is not None}
        settings["gates"] = [*settings["gates"], *gates]
        choice = decide(measurements, checked(ChooseSettings, settings), run_dir, candidate)
        words = [f"--{k.replace('_', '-')} {v}" for k, v in (given | limits).items() if v is not None]
        words += [f"--gate {shlex.quote(text)}" for text in gates]
        words += [f"--no-limit {figure}" for figure in no_limit or []]
        words += [f"--candidate {shlex.quote(candidate)}"] if candidate else []
        publish(run_dir.resolve(), measurements, choice, " ".join([f"paredown choose {as_typed(run_dir)}", *words]))
    show_choice(choice, measurements, run_dir, everything)


@app.command()
def report(
    run_dir: RunDir,
    other: Annotated[
        Path | None,
        typer.Argument(
            metavar="[other_run_dir]", help="Another run: print how it compares with the first one.", show_default=False
        ),
    ] = None,
    format: Annotated[
        Literal["html", "md", "svg", "png"],
        typer.Option(help="Format: the HTML report, Markdown for a pull request, or an image of the frontier."),
    ] = "html",
    output: Annotated[
        Path | None, typer.Option(help="File to write (default: in the run directory; md: printed).")
    ] = None,
    everything: Everything = False,
    in_browser: Annotated[bool, typer.Option("--open", help="Open the HTML report in a browser.")] = False,
) -> None:
    """Write the report of a run: HTML (with a table on the terminal), Markdown or an image; or compare two runs."""
    from paredown.benchmarks.report.compare import Run, compared
    from paredown.benchmarks.report.report import markdown, write_picture, write_report

    from ..results.journal import finish, unfinished
    from ..results.measurements import read_measurements
    from ..results.publish import read_choice, reproduction
    from ..store import lock

    if everything and format != "html":
        raise InputError(f"--all is of the table on the terminal; --format {format} has every candidate")
    if in_browser and (format != "html" or other is not None):
        raise InputError("--open is of the HTML report of one run; leave out --format and the second run")
    path = output or run_dir / {"html": "report.html", "md": "report.md"}.get(format, f"frontier.{format}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--output {path}: no such directory")
    if path.is_dir():
        raise InputError(f"--output {path}: a directory; name the file to write")
    for each in filter(None, (run_dir, other)):
        if unfinished(each):
            with lock(each):
                finish(each)
    measurements = read_measurements(run_dir)
    choice = read_choice(run_dir, measurements)
    if other is not None:
        if format in ("svg", "png") or everything:
            raise InputError("two runs are compared as Markdown; leave out --format and --all")
        theirs = read_measurements(other)
        runs = [Run(str(run_dir), measurements, choice), Run(str(other), theirs, read_choice(other, theirs))]
        text = compared(*runs)
        print(text, end="") if output is None else output.write_text(text, encoding="utf-8")
        return
    if format == "html":
        show_choice(choice, measurements, run_dir, everything)
        print(write_report(path, measurements, choice, reproduction(run_dir)))
        if in_browser and not webbrowser.open(path.resolve().as_uri()):
            raise StepError(f"no browser was found here; open {path} yourself")
    elif format == "md":
        text = markdown(measurements, choice, reproduction(run_dir).command)
        if output is None:
            print(text, end="")
        else:
            output.write_text(text, encoding="utf-8")
    else:
        print(write_picture(path, measurements, choice))


@app.command()
@with_options
def bench(
    artifacts: Annotated[list[str], typer.Argument(help="Exported directory, bundle, checkpoint, .onnx or .xml.")],
    rows: Annotated[
        ComparedRows,
        fields(*ComparedRows.model_fields, help={"data": "Rows to run; with labels the metric is reported too."}),
    ],
    given: Annotated[
        dict,
        fields(
            "threads",
            "batch_size",
            "min_seconds",
            "min_repeats",
            "processes",
            "rounds",
            "wait_s",
            of=LatencySettings,
            help={
                "threads": "CPU threads (default: all; for one row a call fewer, where that is faster).",
                "batch_size": "Batch size of the throughput scenario.",
                "min_seconds": "Total time of the calls for each artefact and scenario, in seconds.",
                "min_repeats": "Minimum number of calls for each artefact and scenario.",
                "processes": "Fresh processes for each artefact, the unit of the intervals; 1 or 2 give wide "
                "intervals.",
                "rounds": "Turns in each process.",
                "wait_s": "Maximum wait for an idle machine before each sitting, in seconds.",
            },
        ),
    ],
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also measure batch sizes 1 to 32, numbers of threads, and input lengths.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="JSON file for the results.")] = None,
) -> None:
    """Compare artefacts in one run: latency ratios to the first that can run here, and drops in points."""
    from paredown.benchmarks.measuring.latency import Sweep
    from paredown.export.hardware import cores

    from ..results import side_by_side

    if json_file is not None and json_file.is_dir():
        raise InputError(f"--json {json_file}: a directory; name a file to write")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InputError(f"--json {json_file}: no such directory")
    if sweep:
        given["sweep"] = Sweep(
            batch_sizes=[1, 2, 4, 8, 16, 32],
            threads=sorted({1, *(2**i for i in range(10) if 2**i < cores()), cores()}),
            lengths=[n for n in (16, 32, 64, 128, 256, 512) if n < 2 * rows.max_length],
        )
    settings = checked(LatencySettings, given)
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        task = rows.task_with(artifacts[0])
        result = side_by_side.run(artifacts, rows.data, settings, rows.max_length, Path(scratch), task)
    _show_bench(result)
    if json_file is not None:
        from ..store import write_atomic

        write_atomic(json_file, json.dumps(result.to_json(), indent=2) + "\n")
    if result.reference is None:
        raise StepError("nothing was measured: none of the artefacts can run here")


def _show_bench(result: BenchResult) -> None:
    """The table, what has to be said of it, and how it was measured. In a noisy run a ratio is its range."""
    from paredown.benchmarks.report.text import conditions_line, factor
    from paredown.benchmarks.selection.choice import known

    first, reference = result.artifacts[0].path, result.reference
    titles = ("artefact", "runtime", "precision", "p50 ms", "p95", "p99", "ratio (95 %)", "rows/s", "MB", "metric")
    table = Table(*titles, "drop (95 %)")
    base = next((a for a in result.artifacts if a.cannot_run is None), None)  # a path may be given twice
    for a in result.artifacts:
        metric = "" if a.metric is None else f"{a.metric:.2f}"
        if a.cannot_run is not None:
            table.add_row(a.path, a.runtime, a.precision, a.cannot_run, "", "", "", "", "", metric, "")
            continue
        lo, hi = known(a.ratio_ci)
        ratio = f"{a.ratio:.3f} [{lo:.3f}, {hi:.3f}]"
        if result.noisy and a is not base:
            ratio = f"{factor(lo)} to {factor(hi)}"
        drop = "" if a.drop is None or a is base else f"{a.drop:+.1f} (< {a.drop_upper_95:.1f})"
        table.add_row(
            a.path, a.runtime, a.precision, f"{a.p50_ms:.2f}", f"{a.p95_ms:.2f}", f"{a.p99_ms:.2f}", ratio,
            f"{a.throughput_per_s:.0f}", f"{a.size_mb:.1f}", metric, drop,
        )  # fmt: skip
    out.print(table)
    for note in result.notes:
        out.print(note, soft_wrap=True)
    if reference is None:
        return
    if reference != first:
        out.print(f"{first} cannot run here: ratios and drops are against {reference}", soft_wrap=True)
    out.print(conditions_line(result.conditions, reference), soft_wrap=True)
    out.print(f"intervals: {result.conditions.covers}", soft_wrap=True)
    if result.noisy:
        out.print(f"noisy: {result.conditions.noisy_because}. A ratio is printed as its range.", soft_wrap=True)


def _lift(settings: dict, figure: str) -> None:
    """Take the limits on a figure out of the recipe's settings; InputError where there is none."""
    from paredown.benchmarks.selection.constraints import gate_of

    gates = [text for text in settings["gates"] if gate_of(text).figure != figure]
    set_ones = [*(key for key, value in settings["budgets"].items() if value is not None)]
    set_ones += [gate_of(text).figure for text in settings["gates"]]
    if figure not in set_ones:
        raise InputError(f"--no-limit {figure}: the recipe limits {', '.join(set_ones) or 'no figure'}")
    settings["gates"] = gates
    settings["budgets"] = {key: value for key, value in settings["budgets"].items() if key != figure}


def show_choice(choice: Choice, measurements: Measurements, run_dir: Path, everything: bool = False) -> None:
    """The selected candidate, those beside it, and what to do next. `everything`: all candidates."""
    from .result_view import next_commands, result

    out.print(result(choice, measurements, out.width, everything))
    out.print()
    for line in next_commands(choice, run_dir):
        out.print(line, soft_wrap=True)
