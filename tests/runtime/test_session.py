"""What opening a session must not do; what it computes is in test_export.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("module", ["runtime.session", "compress.quantization.int8"])
def test_openvino_and_nncf_send_no_word_of_their_use(module: str, tmp_path: Path) -> None:
    """Their telemetry is on by default: it leaves an id in the home directory before it sends anything."""
    code = f"import paredown.{module}, openvino, sys; print('openvino_telemetry.main' in sys.modules)"
    home = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=home)
    assert done.stdout.strip() == "False"
    assert not list(tmp_path.iterdir())
