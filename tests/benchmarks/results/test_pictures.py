import shutil
from pathlib import Path

import pytest

from paredown.benchmarks.results.pictures import BROWSERS, page, terminal


def test_the_terminal_as_it_is_printed(finished: Path, tmp_path: Path) -> None:
    terminal(finished, tmp_path / "terminal.svg")
    drawn = (tmp_path / "terminal.svg").read_text()
    assert "Chosen:" in drawn
    assert "why&#160;not" in drawn


@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium here: apt-get install chromium")
def test_a_page_as_wide_as_was_asked(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "page.html").write_text("<p>a page")
    for width in (400, 700):
        page((tmp_path / "page.html").as_uri(), tmp_path / "page.png", width, 300)
        with image.open(tmp_path / "page.png") as drawn:
            assert drawn.size == (width, 300)
