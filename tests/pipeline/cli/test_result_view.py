"""The result on terminals of 80, 120 and 200 columns, with and without colours."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from candidates import candidate, measured
from rich.console import Console

from paredown.benchmarks.report.text import why_not
from paredown.benchmarks.selection.choice import Choice
from paredown.benchmarks.selection.selection import ChooseSettings
from paredown.pipeline.cli.result_view import nearest_rows, next_commands, result
from paredown.pipeline.results.publish import decide

WIDTHS = (80, 120, 200)
LONG = "pruned-3.0x-then-a-model-with-a-long-name"
CANDIDATES = [
    candidate("teacher/onnxruntime/int8-dynamic", 3.0),
    candidate(f"{LONG}/onnxruntime/int8-dynamic", 1.0),
    candidate("deep/onnxruntime/int8-static", 0.5, lost=20),
    *(candidate(f"other-{i}/openvino/fp32", 4.0 + i) for i in range(5)),
    candidate("broken/onnxruntime/fp32", 1.0, failed="step broken-1-distill: out of memory", timing=None),
]
MEASUREMENTS = measured(*CANDIDATES)


@pytest.fixture(scope="module")
def choice() -> Choice:
    return decide(MEASUREMENTS, ChooseSettings())


def shown(choice: Choice, width: int, everything: bool = False, colours: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=colours, markup=False)
    console.print(result(choice, MEASUREMENTS, width, everything))
    return file.getvalue()


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_no_figure_is_cut(choice: Choice, width: int) -> None:
    text = shown(choice, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for entry in nearest_rows(choice):
        assert entry.metric_validation is not None
        assert f"{entry.metric_validation:.1f}" in text
        assert f"{entry.size_mb:.0f}" in text
    assert text.startswith(f"Chosen: {LONG}/onnxruntime/int8-dynamic\n")
    head = " ".join(text.split("\n\n")[0].split())
    for words in ("10x [10 to 10] PyTorch", "plain INT8", "On 400 test rows", "points (95 % bound", "10 MB of 10"):
        assert words in head


def test_five_rows_with_both_opponents_and_all_on_request(choice: Choice) -> None:
    names = [entry.name for entry in nearest_rows(choice)]
    assert len(names) == 5
    assert {"teacher/pytorch/fp32", "teacher/onnxruntime/int8-dynamic", choice.chosen.name} <= set(names)
    assert "5 more candidates: --all" in shown(choice, 200)
    everything = shown(choice, 200, everything=True)
    assert all(entry.name in everything for entry in choice.candidates)
    assert "max_drop" in everything
    assert "max_drop" not in shown(choice, 200)


def test_reasons_are_short_and_said_once(choice: Choice) -> None:
    why = {entry.name.split("/")[0]: why_not(entry, choice) for entry in choice.candidates}
    assert why["deep"] == "loses more than 1"
    assert why["other-4"] == "costs more"
    assert why["broken"] == "step broken-1-distill: out of memory"
    assert why_not(choice.baseline, choice) == "needs torch"
    close = decide(measured(CANDIDATES[0], candidate("near/onnxruntime/fp32", 0.5, lost=3)), ChooseSettings())
    near = next(entry for entry in close.candidates if entry.name.startswith("near"))
    assert why_not(near, close) == "may lose more than 1"
    limited = decide(MEASUREMENTS, ChooseSettings.model_validate({"budgets": {"p95_ms": 3.5}}))
    slow = next(entry for entry in limited.candidates if entry.name.startswith("other-4"))
    assert "over the budget of 3.5" in why_not(slow, limited)


def test_the_next_commands_are_of_this_run(choice: Choice) -> None:
    run_dir = Path("runs/my run").resolve()
    lines = [line.plain for line in next_commands(choice, run_dir)]
    assert lines == [
        "Report: runs/my run/report.html",
        "Bundle: runs/my run/bundle (and .tar.gz)",
        "Next:   paredown serve 'runs/my run/bundle'",
        "Next:   paredown report 'runs/my run' --all",
        "Next:   paredown choose 'runs/my run' --max-drop 2",
    ]
    assert next_commands(choice, Path("/elsewhere"))[0].plain == "Report: /elsewhere/report.html"
    knee = decide(MEASUREMENTS, ChooseSettings(rule="knee"))
    assert not any("--max-drop" in line.plain for line in next_commands(knee, run_dir))


def test_a_long_name_of_a_metric_takes_no_place_from_the_others(choice: Choice) -> None:
    named = [e.model_copy(update={"metric": "next-token accuracy"}) for e in choice.candidates]
    chosen = next(e for e in named if e.name == choice.chosen.name)
    text = shown(choice.model_copy(update={"candidates": named, "chosen": chosen}), 80)
    assert "next-token accuracy lost on validation" in " ".join(text.split())
    assert "teacher " in text
    assert "costs more" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_real_run_on_a_real_terminal(finished: Path, tmp_path: Path, width: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    command = [sys.executable, "-m", "paredown", "report", str(finished), "--output", str(tmp_path / "report.html")]
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment | {"TERM": "xterm-256color"})
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:  # Linux: the other side has closed
        pass
    assert process.wait() == 0
    coloured = seen.decode()
    assert "\x1b[1;32m" in coloured  # bold green, which dark and light terminals show
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", coloured).replace("\r", "").splitlines()]
    assert lines[0].startswith("Chosen: ")
    commands = next(i for i, line in enumerate(lines) if line.startswith("Report: "))
    assert max(map(len, lines[1:commands])) <= width
    assert sum(line.startswith("Next: ") for line in lines) == 3
    assert sum(line.startswith(">") for line in lines) == 1
