"""A model that never comes back, or takes all memory, ends in one line at its deadline."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import paredown, refused
from strangers import endless, openers, swollen

from paredown.export import isolation as child
from paredown.export.bundle.cold_start import verified
from paredown.export.isolation import Children, in_child
from paredown.runtime.errors import InputError
from paredown.runtime.manifest import BundleError

PATIENCE_S = 60  # beyond a deadline, on a busy machine


@pytest.mark.parametrize("folded", [True, False])
def test_a_loop_without_an_end_is_stopped(folded: bool, finished: Path, tmp_path: Path) -> None:
    bundle, begin = endless(finished / "bundle", tmp_path / "endless", folded), time.monotonic()
    for command in (["verify", bundle], ["predict", bundle, "--text", "a"]):
        done = paredown(*command, "--deadline-s", 8)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert "does not come back within" in done.stderr
        assert done.stderr.count("\n") == 1
    assert time.monotonic() - begin < 2 * 8 + PATIENCE_S
    assert not openers(os.getpid())


def test_a_tokenizer_that_multiplies_texts_is_stopped(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "MEMORY", 10**9)
    monkeypatch.setattr(child, "MEMORY_CORE", 0)
    with pytest.raises(BundleError) as refusal:
        verified(swollen(finished / "bundle", tmp_path / "swollen"), 60)
    assert "\n" not in str(refusal.value)


def test_errors_come_back_as_what_they_are(finished: Path, files: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"nothing\.csv"):
        verified(finished / "bundle", data=("nothing.csv", None, None))
    found = verified(finished / "bundle", data=(str(files["test"]), None, None))
    assert found.rows == 200
    assert found.metric is not None
    refused(paredown("predict", finished / "bundle", "--image", "x.png"), "--image: the bundle is for")


def test_rows_have_a_deadline_of_their_own(finished: Path) -> None:
    with pytest.raises(BundleError, match="rows are not done within"):
        in_child("predict", finished / "bundle", 60, 0.001, texts=["a"] * 10_000, images=[], pairs=[])


def test_a_crash_is_one_line(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(child.JOBS, "crash", "x:y")
    with pytest.raises(BundleError, match=r"process of its own: KeyError: 'crash'"):
        in_child("crash", finished / "bundle")  # the other process does not know it


def test_what_is_stopped_begins_nothing(finished: Path) -> None:
    children = Children()
    children.stop()
    with pytest.raises(BundleError, match="stopping"):
        in_child("open", finished / "bundle", children=children)


def test_the_limit_of_memory_is_of_this_process_alone() -> None:
    code = (
        "import numpy, resource; from paredown.export.isolation import limit_memory; limit_memory(10**9)\n"
        "try: numpy.ones(10**9)\nexcept MemoryError: print('refused')\n"
        "limit_memory(None); numpy.empty(10**9); print('lifted')"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("Linux counts private memory")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", "lifted"]
