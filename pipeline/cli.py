"""The command line. Every command reads its input, calls one function of a room below, and prints."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import Abort, TyperException

from ..compress.errors import InputError, StepError
from ..export.manifest import BundleError
from . import augmenting, bundles, explaining, exports, learning, replacing, robustness, serving, stages, tuning
from .bundles import BundlePath, LabelColumn, TextColumn
from .options import checked

app = typer.Typer(
    help="The cheapest version of a fine-tuned model that is still good enough.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(learning.app)
app.add_typer(tuning.app)
app.add_typer(augmenting.app)
app.add_typer(stages.app)
app.add_typer(exports.app)
app.add_typer(bundles.app)
app.add_typer(robustness.app)
app.add_typer(explaining.app)
app.add_typer(serving.app)
out = Console(width=None if sys.stdout.isatty() else 150, markup=False)

RunDir = Annotated[Path, typer.Argument(help="a directory that `paredown run` has made")]


def main() -> None:
    """Run a command; errors that the user can mend are one line. 2: bad input, 1: no result to be trusted."""
    try:
        app(standalone_mode=False)
    except TyperException as error:  # an unknown option, a value of the wrong kind
        message = " ".join(error.format_message().split())
        if message:  # empty after the help that a bare `paredown` prints
            print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except Abort:
        sys.exit(130)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (StepError, BundleError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="recipe.yaml")],
    output_dir: Annotated[Path | None, typer.Option(help="run directory (default: runs/NAME)")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check everything, show the plan, do nothing")] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="an older run: say whether the new bundle should take the place of its bundle")
    ] = None,
) -> None:
    """The whole job; run it again to resume."""
    from .recipe import read_recipe
    from .run import run as run_recipe

    job = read_recipe(recipe)
    if baseline is not None:
        replacing.old_bundle(baseline)
    run_dir = output_dir or Path("runs") / recipe.stem
    if baseline is not None and baseline.resolve() == run_dir.resolve():
        raise InputError(f"--baseline {baseline}: the run would overwrite it; give another --output-dir")
    if dry_run:
        _show_plan(job, run_dir)
        return
    outcome = run_recipe(job, run_dir, baseline)
    if not outcome.ran and not outcome.republished:
        out.print(f"Nothing to do: all {outcome.steps} steps were there already.")
    found = outcome.measurements.get("search")
    if found:
        for line in found["trained"]:
            out.print(f"trained: {line}", soft_wrap=True)
        for name, reason in found["dropped"].items():
            out.print(f"dropped: {name}: {reason}", soft_wrap=True)
    _show_choice(outcome.choice, outcome.measurements)
    out.print(
        f"report  {outcome.run_dir / 'report.html'}\nbundle  {outcome.run_dir / 'bundle'} (and .tar.gz)", soft_wrap=True
    )
    if baseline is not None:
        found = replacing.against(outcome.job, outcome.run_dir, baseline)
        out.print(f"{'replace' if found['replace'] else 'keep'} {baseline}: {found['why']}", soft_wrap=True)


@app.command()
def init(
    checkpoint: Annotated[str, typer.Argument(help="directory or hub id of a fine-tuned checkpoint")],
    train: Annotated[str, typer.Option(help="labelled rows: .csv, .jsonl, .parquet or a datasets name")],
    validation: Annotated[str, typer.Option(help="labelled rows that the pick is made on")],
    test: Annotated[str | None, typer.Option(help="labelled rows for the published figures")] = None,
    unlabeled: Annotated[str | None, typer.Option(help="further text for distillation")] = None,
    output: Annotated[Path, typer.Option(help="where to write the recipe")] = Path("recipe.yaml"),
) -> None:
    """Write a commented recipe for a checkpoint and its data."""
    from .init import write_recipe

    if output.exists():
        raise InputError(f"{output}: exists already; remove it or choose another --output")
    write_recipe(output, checkpoint, train, validation, test, unlabeled)
    out.print(f"{output}: look it over, then: paredown run {output}", soft_wrap=True)


@app.command()
def schema() -> None:
    """Print the recipe's JSON schema, for editors."""
    from .recipe import schema as recipe_schema

    print(recipe_schema(), end="")


@app.command()
def choose(
    run_dir: RunDir,
    rule: Annotated[Literal["cheapest", "lambda", "knee"] | None, typer.Option(help="default: the recipe's")] = None,
    max_drop: Annotated[float | None, typer.Option(min=0, help="points that may be lost on validation")] = None,
    value_per_point: Annotated[float | None, typer.Option(help="money per million requests a point is worth")] = None,
    p95_ms: Annotated[float | None, typer.Option(help="budget: p95 latency of one row, ms")] = None,
    size_mb: Annotated[float | None, typer.Option(help="budget: size to ship, MB")] = None,
    memory_mb: Annotated[float | None, typer.Option(help="budget: peak memory, MB")] = None,
    cost_per_million: Annotated[float | None, typer.Option(help="budget: money per million requests")] = None,
    drop_upper_95: Annotated[float | None, typer.Option(help="budget: upper 95 % bound of the drop, points")] = None,
) -> None:
    """Pick again from what was measured, without running again; report and bundle follow."""
    from ..benchmarks.choose import ChooseSettings
    from .decide import decide, publish, read_measurements
    from .store import lock

    read_measurements(run_dir)  # a directory that is no run is not locked, and not written to
    given = {"rule": rule, "max_drop": max_drop, "value_per_point": value_per_point}
    limits = {"p95_ms": p95_ms, "size_mb": size_mb, "memory_mb": memory_mb, "cost_per_million": cost_per_million}
    limits["drop_upper_95"] = drop_upper_95
    with lock(run_dir):
        measurements = read_measurements(run_dir)
        settings = measurements["choose"] | {key: value for key, value in given.items() if value is not None}
        settings["budgets"] |= {key: value for key, value in limits.items() if value is not None}
        choice = decide(measurements, checked(ChooseSettings, settings))
        words = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in (given | limits).items() if v is not None)
        publish(run_dir.resolve(), measurements, choice, f"paredown choose {run_dir} {words}".rstrip())
    _show_choice(choice, measurements)


@app.command()
def report(run_dir: RunDir) -> None:
    """Write report.html again from what was measured and chosen, and print the table."""
    from ..benchmarks.report import write_report
    from .decide import read_measurements

    measurements = read_measurements(run_dir)
    try:
        choice = json.loads((run_dir / "choice.json").read_text())
    except (OSError, ValueError):
        raise InputError(
            f"{run_dir / 'choice.json'}: missing or damaged; make it with: paredown choose {run_dir}"
        ) from None
    _show_choice(choice, measurements)
    command = f"paredown run {run_dir.resolve() / 'recipe.resolved.yaml'}"
    print(write_report(run_dir / "report.html", measurements, choice, command))


@app.command()
def predict(
    bundle: BundlePath,
    text: Annotated[list[str], typer.Option(help="text to classify; may be given several times")],
) -> None:
    """Answer texts with a bundle; one JSON line each."""
    from ..export.archive import unpacked
    from ..export.predict import Predictor

    with unpacked(bundle) as path:
        for line, answer in zip(text, Predictor(path)(text), strict=True):
            print(json.dumps({"text": line, **answer}, ensure_ascii=False))


@app.command()
def bench(
    artifacts: Annotated[list[str], typer.Argument(help="exported directory, bundle, checkpoint, .onnx or .xml")],
    data: Annotated[str, typer.Option(help="rows to run on; with labels the metric is reported too")],
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: all)")] = None,
    batch_size: Annotated[int, typer.Option(help="rows a call in the throughput scenario")] = 8,
    min_seconds: Annotated[float, typer.Option(help="seconds of calls per artefact and scenario")] = 3.0,
    min_repeats: Annotated[int, typer.Option(help="calls per artefact and scenario, at least")] = 100,
    processes: Annotated[int, typer.Option(help="fresh processes per artefact")] = 2,
    rounds: Annotated[int, typer.Option(help="turns in each process")] = 6,
    max_length: Annotated[int, typer.Option(help="longest input in tokens, for what does not say")] = 128,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures to this file")] = None,
) -> None:
    """Artefacts side by side, in one run; ratios are latency against the first."""
    from ..benchmarks.latency import LatencySettings
    from . import side_by_side

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InputError(f"--json {json_file}: no such directory")
    settings = checked(
        LatencySettings,
        {
            "threads": threads, "batch_size": batch_size, "min_seconds": min_seconds, "min_repeats": min_repeats,
            "processes": processes, "rounds": rounds,
        },
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        result = side_by_side.run(artifacts, data, text_column, label_column, settings, max_length, Path(scratch))
    table = Table("artefact", "runtime", "precision", "p50 ms", "p95", "p99", "ratio (95 %)", "rows/s", "MB", "metric")
    for a in result["artifacts"]:
        metric = "" if a["metric"] is None else f"{a['metric']:.2f}"
        if "cannot_run" in a:
            table.add_row(a["path"], a["runtime"], a["precision"], a["cannot_run"], "", "", "", "", "", metric)
            continue
        lo, hi = a["ratio_ci"]
        table.add_row(
            a["path"], a["runtime"], a["precision"], f"{a['p50_ms']:.2f}", f"{a['p95_ms']:.2f}", f"{a['p99_ms']:.2f}",
            f"{a['ratio']:.3f} [{lo:.3f}, {hi:.3f}]", f"{a['throughput_per_s']:.0f}", f"{a['size_mb']:.1f}", metric,
        )  # fmt: skip
    out.print(table)
    if json_file is not None:
        from .store import write_atomic

        write_atomic(json_file, json.dumps(result, indent=2) + "\n")


@app.command()
def doctor(json_output: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """What this machine has: cores, instruction sets, memory, GPUs, runtimes; what is missing and how to get it."""
    from .doctor import examine

    found = examine()
    if json_output:
        print(json.dumps(found, indent=2))
        return
    here = found["machine"]
    out.print(f"{here['cpu']} ({here['arch']}), {here['cores']} cores, {here['memory_gb']} GiB, {here['os']}")
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


def _show_plan(recipe, run_dir: Path) -> None:
    from .adapt import adapt_steps, adapted
    from .job import prepare
    from .plan import plan, search_steps
    from .store import Store, writable

    writable(run_dir)
    job, store = prepare(recipe), Store(run_dir / "steps")
    table, left = Table("step", "state", "about"), 0.0
    searching, steps = recipe.search, adapt_steps(job)
    ahead = not all(store.has(step.name, step.key) for step in steps)
    if not ahead:
        job = adapted(job, {step.name: done for step in steps if (done := store.find(step.name, step.key))})
        steps += search_steps(job, searching) if searching else plan(job)
    for step in steps:
        there = store.has(step.name, step.key)
        left += 0 if there else step.seconds
        table.add_row(step.name, "already there" if there else "to do", "" if there else f"{step.seconds:.0f} s")
    out.print(table)
    if ahead:
        out.print("Then what this leaves is compressed and measured.")
    elif searching:
        out.print(f"Then what the search finds is trained, {searching.minutes:g} minutes in all, and measured.")
    out.print(f"About {left / 60:.0f} minutes on a machine like the one this was written on; nothing was done.")


def _show_choice(choice: dict, measurements: dict) -> None:
    from ..benchmarks.report import control_warning, sentence, table_rows

    table = Table()
    table.add_column("candidate", no_wrap=True)
    for title in (measurements["metric"], "drop (95 %)", "p50 ms", "speed-up", "MB"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column(f"{measurements['prices']['currency']} / million", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis", max_width=36)
    for cells in table_rows(choice):
        table.add_row(*cells, style="bold green" if cells[-1] == "chosen" else None)
    out.print(table)
    out.print(sentence(choice, measurements))
    warning = control_warning(choice)
    if warning:
        out.print(warning)


if __name__ == "__main__":
    main()
