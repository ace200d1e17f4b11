"""The documentation site: it is built without network, and every link on it leads somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOBODY = "http://127.0.0.1:9"  # a proxy that answers nothing


def test_it_is_built_without_network_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    away = {"HTTP_PROXY": NOBODY, "HTTPS_PROXY": NOBODY, "http_proxy": NOBODY, "https_proxy": NOBODY}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    env = {**os.environ, **away, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    for name, page in pages.items():
        loaded = re.findall(r"""<(?:script|img|link)[^>]*(?:src|href)=["']?(https?:[^"'> ]*)""", page)
        assert not [url for url in loaded if "canonical" not in url], name
    assert "--max-drop" in pages["reference/commands.html"]
    assert "calibration_rows" in pages["reference/recipe.html"]
    assert "drop_upper" in pages["choosing.html"]
    assert "load_bundle" in pages["reference/python.html"]
