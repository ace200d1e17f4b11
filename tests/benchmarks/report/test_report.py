"""The page as a reader has it: a real browser opens it, moves the slider, prints it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from candidates import ROWS, row, settings
from conftest import paredown, refused

from paredown.benchmarks.measurements import Flip, Measurements
from paredown.benchmarks.report.chart import Point
from paredown.benchmarks.report.report import AXES, SCRIPT, PageData, markdown, write_report
from paredown.benchmarks.selection.choice import Choice, FrontierArrays, LambdaRange, Promise
from paredown.benchmarks.selection.selection import Row, choose, with_bounds
from paredown.benchmarks.selection.sensitivity import card
from paredown.pipeline.results.measurements import read_measurements
from paredown.pipeline.results.publish import read_choice

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
browser = pytest.mark.skipif(not BROWSER, reason="no Chromium here: apt-get install chromium")
SLIDE = """<script>
const slider = document.getElementById("lambda"), found = [];
for (let i = 0; i < 50; i++) {
  slider.value = Number(slider.min) + (slider.max - slider.min) * i / 49;
  slider.dispatchEvent(new Event("input"));
  found.push([10 ** Number(slider.value), document.getElementById("picked").dataset.name]);
}
document.body.append(Object.assign(document.createElement("pre"), { id: "found", textContent: JSON.stringify(found) }));
</script>"""


def opened(page: Path) -> str:
    """The page's elements after its scripts have run."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def run_of(finished: Path) -> tuple[Measurements, Choice]:
    measurements = read_measurements(finished)
    return measurements, read_choice(finished, measurements)


def noisy_rows() -> list[Row]:
    """Candidates along a frontier, some of them ties in cost, in value or in both."""
    random, rows = np.random.default_rng(5), []
    for i in range(12):
        made = row(f"m{i}", 0.02 * 1.5**i, int(600 + 250 * (1 - 0.7**i)), noise=0.15, steps=i % 4)
        correct = made.correct ^ (random.random(ROWS) < 0.03)
        found = made.updated(metric_validation=float(100 * correct.mean())).result
        rows.append(Row(found, made.steps, correct, made.costs))
    return rows


@browser
def test_the_slider_picks_what_choose_picks_at_fifty_values(finished: Path, tmp_path: Path) -> None:
    measurements, choice = run_of(finished)
    rows = with_bounds(noisy_rows(), noisy_rows()[0], settings())
    choice = choice.model_copy(update={"card": card(rows, settings(), 0.1)})
    page = write_report(tmp_path / "report.html", measurements, choice, "true")
    page.write_text(page.read_text().replace("</body>", f"{SLIDE}</body>"))
    seen = re.search(r'<pre id="found">(.*?)</pre>', opened(page))
    assert seen is not None
    found = json.loads(seen[1])
    assert len(found) == 50
    for value, name in found:
        picked = choose(rows, rows[0], settings(rule="lambda", value_per_point=value)).chosen.name
        assert name == picked, value
    assert len({name for _, name in found}) >= 4


@browser
def test_the_page_of_a_run_can_be_read_with_a_keyboard_and_asks_the_network_for_nothing(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)""", text)
    page = opened(finished / "report.html")
    _, choice = run_of(finished)
    points = re.findall(r'<g tabindex="0" role="img" aria-label="([^"]+)"', page)
    measured = [c.name for c in choice.candidates if c.metric_validation is not None]
    assert sorted(p.split(":")[0] for p in points) == sorted(measured)
    assert 'id="static" hidden' in page
    assert "aria-valuetext" in page
    for heading in ("What would change the pick", "Why it is not faster", "Quality beside", "Vocabulary", "Reproduce"):
        assert heading in page


def test_texts_of_the_data_cannot_become_elements_of_the_page(finished: Path, tmp_path: Path) -> None:
    measurements, choice = run_of(finished)
    bad = "</script><script>alert(1)</script>"
    flips = [Flip(text=bad, gold=bad, now=bad, confidence=0.9)]
    entries = [entry.model_copy(update={"flips": flips}) for entry in measurements.candidates]
    prices = measurements.prices.model_copy(update={"currency": bad})
    measurements = measurements.model_copy(update={"candidates": entries, "prices": prices})
    assert bad not in write_report(tmp_path / "report.html", measurements, choice, bad).read_text()


def test_markdown_has_the_table_the_card_and_what_was_promised(finished: Path, tmp_path: Path) -> None:
    measurements, choice = run_of(finished)
    promise = Promise(promised=2.0, measured=1.4, measured_ci=(1.3, 1.6), noisy=False)
    *others, last = choice.candidates
    choice = choice.model_copy(update={"candidates": [*others, last.model_copy(update={"promised_speedup": promise})]})
    text = markdown(measurements, choice, "paredown run x")
    assert "promised 2.00x of the unpruned model, measured 1.40x [1.30, 1.60]: missed (aim: within 15 %)." in text
    page = write_report(tmp_path / "report.html", measurements, choice, "true").read_text()
    assert '<td class="note">missed (aim: within 15 %)</td>' in page
    assert text.count("\n| ") >= len(choice.candidates)
    assert f"| **{choice.chosen.name}** |" in text
    assert "By label:" in text
    assert "rule lambda would pick" in text


def test_the_frontier_as_a_picture(finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        done = paredown("report", finished, "--format", kind, "--output", tmp_path / f"f.{kind}")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"f.{kind}").read_bytes().startswith(start)
    done = paredown("report", finished, "--format", "md")
    assert done.stdout.startswith("**")
    refused(paredown("report", finished, "--format", "png", "--output", tmp_path / "no" / "f.png"), "no such directory")


def test_the_script_reads_fields_of_the_records() -> None:
    script = SCRIPT.read_text()
    for variable, record in (("data", PageData), ("f", FrontierArrays), ("p", Point), ("r", LambdaRange)):
        fields = {field.serialization_alias or name for name, field in record.model_fields.items()}
        read = {*re.findall(rf"(?<![\w.$]){variable}\.(\w+)", script)}
        assert read, variable
        assert read <= fields, variable
    assert {key for axis in AXES.values() for key in axis} <= Point.model_fields.keys()
