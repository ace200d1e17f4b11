"""The pictures of docs/images, from a run: its result on a terminal, its report (on paper too), its server's page;
and the first page of the site.

    python benchmarks/results/pictures.py RUN_DIR [docs/images]

Chromium draws the pages (apt-get install chromium).
"""

from __future__ import annotations

import io
import os
import pty
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

PAREDOWN = (sys.executable, "-m", "paredown")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLUMNS = 80
NARROWEST = 500  # pixels that Chromium's window has at least
DARK = "--blink-settings=preferredColorScheme=0"
WAIT_S = 60.0
ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    run, out = Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/images")
    out.mkdir(parents=True, exist_ok=True)
    terminal(run, out / "terminal.svg")
    report = (run / "report.html").resolve().as_uri()
    page(report, out / "report.png", 1400, 1250)
    page(report, out / "report-dark.png", 1400, 1250, DARK)
    page(report, out / "report-phone.png", 400, 1600)
    browse(f"--print-to-pdf={out / 'report-print.pdf'}", "--no-pdf-header-footer", report)
    with tempfile.TemporaryDirectory() as built:
        environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
        mkdocs = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", built]
        subprocess.run(mkdocs, check=True, cwd=ROOT, env=environment)
        page((Path(built) / "index.html").as_uri(), out / "site.png", 1400, 1000)
    with served(run / "bundle") as url:
        page(url, out / "server.png", 900, 960)
        page(url + "docs", out / "api.png", 900, 960)


def terminal(run: Path, out: Path) -> None:
    """What `paredown report` prints on a terminal of COLUMNS, as SVG."""
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    pid, terminal_side = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [*PAREDOWN, "report", str(run)], environment)
    printed = b""
    try:
        while part := os.read(terminal_side, 65536):
            printed += part
    except OSError:  # Linux says so that the other side is closed
        pass
    os.waitpid(pid, 0)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text("$ paredown report runs/mine"))
    console.print(Text.from_ansi(printed.decode().replace("\r\n", "\n")))
    console.save_svg(str(out), title="paredown")


def browse(*options: str) -> None:
    """Have Chromium do something without a window."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit("no Chromium here: apt-get install chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]
    subprocess.run([browser, *flags, *options], check=True, capture_output=True)


def page(url: str, out: Path, width: int, height: int, *more: str) -> None:
    """A screenshot of a page; one narrower than Chromium's window stands in a frame."""
    with tempfile.TemporaryDirectory() as scratch:
        if width < NARROWEST:
            frame = Path(scratch) / "frame.html"
            frame.write_text(f'<body style="margin:0"><iframe src="{url}" width={width} height={height} frameborder=0>')
            url = frame.as_uri()
        size = f"--window-size={max(width, NARROWEST)},{height}"
        browse("--hide-scrollbars", size, f"--screenshot={out}", *more, url)
    with Image.open(out) as image:
        image.crop((0, 0, width, height)).convert("P", palette=Image.Palette.ADAPTIVE).save(out, optimize=True)


@contextmanager
def served(bundle: Path) -> Iterator[str]:
    """The address of a server of the bundle, which ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([*PAREDOWN, "serve", str(bundle), "--port", str(port)], stderr=subprocess.DEVNULL)
    url, began = f"http://127.0.0.1:{port}/", time.monotonic()
    try:
        while time.monotonic() - began < WAIT_S:
            try:
                urllib.request.urlopen(url + "health")
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
