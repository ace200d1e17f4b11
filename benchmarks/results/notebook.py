"""Executes docs/notebook.ipynb, and keeps what it prints.

    python benchmarks/results/notebook.py DIRECTORY

DIRECTORY has what the notebook reads: `checkpoint`, `train.csv`, `test.csv` and a finished run in `runs/demo`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"
TIMEOUT_S = 900  # of one cell


def main() -> None:
    nbformat.write(executed(Path(sys.argv[1])), NOTEBOOK)


def executed(directory: Path) -> nbformat.NotebookNode:
    """The notebook with its output, run in `directory`. CellExecutionError where a cell fails."""
    os.environ["PYTHONWARNINGS"] = "ignore"  # of libraries, in the kernel: they name paths of this machine
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": str(directory)}},
        record_timing=False,
    )  # fmt: skip
    return client.execute()


if __name__ == "__main__":
    main()
