"""Reports a finished run to experiment trackers (`report_to`, as in transformers); a tracker that fails or hangs never
kills a run."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from paredown.benchmarks.measuring.records import Record
from paredown.benchmarks.selection.choice import Choice

from ..recipe.schema import Sink

PATIENCE = 300.0  # seconds for one tracker


def track(sinks: Sequence[Sink], choice: Choice, name: str, run_dir: Path) -> list[str]:
    """Log rule, figures of every candidate, choice.json and report.html; returns a line for each sink that failed."""
    problems = []
    for sink in sinks:
        problem = _told(sink, choice, name, run_dir)
        if problem is not None:
            problems.append(f"report_to {sink}: {problem}; the run itself is whole")
            print(f"warning: {problems[-1]}", file=sys.stderr)
    return problems


def _told(sink: Sink, choice: Choice, name: str, run_dir: Path) -> str | None:
    """What went wrong. In a thread of its own, which is left behind when it takes too long."""
    problems = [f"not done after {PATIENCE:g} s"]

    def tell() -> None:
        try:
            SINKS[sink](choice, name, run_dir)
            problems.clear()
        except BaseException as error:  # whatever a tracker raises: no package, no login, no network, an exit
            problems[:] = [f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"]

    thread = threading.Thread(target=tell, name=f"report_to-{sink}", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return problems[0] if problems else None


def figures_of(record: Record, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a record, nested ones as `latency_ms/p50`."""
    for key, value in record:
        if isinstance(value, Record):
            yield from figures_of(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{prefix}{key}", float(value)


def _mlflow(choice: Choice, name: str, run_dir: Path) -> None:
    """One run with the chosen one's figures, a child run for every other candidate. Where: MLFLOW_TRACKING_URI."""
    import mlflow

    mlflow.set_experiment(name)
    with mlflow.start_run(run_name=choice.chosen.name.replace("/", "-")):
        mlflow.log_params({key: str(value) for key, value in choice.rule})
        mlflow.set_tags({"chosen": choice.chosen.name, "why": choice.why})
        mlflow.log_metrics(dict(figures_of(choice.chosen)))
        for file in ("choice.json", "report.html"):
            mlflow.log_artifact(str(run_dir / file))
        for entry in choice.candidates:
            with mlflow.start_run(run_name=entry.name.replace("/", "-"), nested=True):
                mlflow.log_metrics(dict(figures_of(entry)))


def _tensorboard(choice: Choice, name: str, run_dir: Path) -> None:
    """Event files in RUN_DIR/tensorboard, one directory for each candidate."""
    from torch.utils.tensorboard import SummaryWriter

    for entry in choice.candidates:
        with SummaryWriter(str(run_dir / "tensorboard" / entry.name.replace("/", "-"))) as writer:
            for figure, value in figures_of(entry):
                writer.add_scalar(figure, value)
            if entry.name == choice.chosen.name:
                writer.add_text("chosen", f"{entry.name}: {choice.why}")


def _wandb(choice: Choice, name: str, run_dir: Path) -> None:
    """One run with the chosen one's figures as its summary and a table of all. Where: WANDB_MODE, WANDB_DIR."""
    import wandb

    with wandb.init(project=name, name=choice.chosen.name, config=choice.rule.model_dump()) as run:
        run.summary.update({"chosen": choice.chosen.name, **dict(figures_of(choice.chosen))})
        rows = [dict(figures_of(entry)) for entry in choice.candidates]
        columns = sorted({figure for row in rows for figure in row})
        data: list = [[e.name, *(row.get(c) for c in columns)] for e, row in zip(choice.candidates, rows, strict=True)]
        run.log({"candidates": wandb.Table(columns=["candidate", *columns], data=data)})
        run.save(str(run_dir / "report.html"), base_path=str(run_dir), policy="now")


SINKS: dict[Sink, Callable[[Choice, str, Path], None]] = {
    "mlflow": _mlflow,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
