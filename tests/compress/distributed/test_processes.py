import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import spreading
import waiting

from paredown.compress.distributed.errors import ProcessLost
from paredown.compress.distributed.processes import Processes, spread
from paredown.runtime.errors import StepError

TESTS = Path(spreading.__file__).parent
TWO = Processes(2, 1)
ROUNDING = 1e-5  # of weights around 0.02 to 1, after six steps at a learning rate of 3e-3; 2e-6 was seen


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes import what they do from the directory of the tests."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")])))


def ignored(share: float, text: str) -> None: ...


def gone(folder: Path) -> bool:
    """The processes that have left their number there have ended, within ten seconds."""
    pids = [int(path.name) for path in folder.iterdir()]
    assert len(pids) == 2
    for _ in range(100):
        if not any(psutil.pid_exists(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_two_processes_come_to_what_one_does() -> None:
    """A training of each kind of loss: the same losses and weights but for rounding; scores are equal."""
    told: list[str] = []
    two = spread(spreading.everything, {}, TWO, lambda share, text: told.append(text))
    one = spreading.everything(ignored)
    assert (one.pop("processes"), two.pop("processes")) == (1, 2)
    assert (one.pop("too many rows"), two.pop("too many rows")) == (None, 8)
    assert told == ["all trained"]
    for training in spreading.TRAININGS:
        ours, theirs = two[training.__name__], one[training.__name__]
        assert len(ours["validation losses"]) == (2 if training in spreading.TRAININGS[:3] else 0)
        for name, weight in theirs.items():
            np.testing.assert_allclose(ours[name], weight, atol=ROUNDING, err_msg=f"{training.__name__}: {name}")
    for name in ("scores", "scores of tags", "parted weights", "afterwards"):
        np.testing.assert_array_equal(two[name], one[name], err_msg=name)


def test_a_killed_process_ends_the_others_with_one_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessLost, match=r"^process 2 of 2 was ended by SIGKILL, .*; run the same command again$"):
        spread(waiting.killed, {"path": tmp_path}, TWO, ignored)
    assert gone(tmp_path)


def test_what_one_process_raises_is_raised() -> None:
    with pytest.raises(StepError, match=r"^the loss is nan$"):
        spread(waiting.wrong, {}, TWO, ignored)


def test_out_of_memory_starts_again_with_half_the_rows() -> None:
    told: list[str] = []
    assert spread(waiting.crowded, {}, Processes(1, 1), lambda share, text: told.append(text)) == 4
    assert told == ["out of memory: again with 4 rows at a time"]


def test_the_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    program = (
        "import sys, waiting; from pathlib import Path;"
        "from paredown.compress.distributed.processes import Processes, spread;"
        "spread(waiting.waits, {'path': Path(sys.argv[1])}, Processes(2, 1), print)"
    )
    starter = subprocess.Popen([sys.executable, "-P", "-c", program, str(tmp_path)])
    try:
        end = time.monotonic() + 120
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        starter.kill()
        starter.wait()
    assert gone(tmp_path)
