"""The page as a reader has it: a real browser opens it, moves the slider, prints it."""

import html
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
from paredown.benchmarks.report.report import AXES, SCRIPT, PageData, Reproduction, markdown, write_report
from paredown.benchmarks.report.text import data_notes
from paredown.benchmarks.selection.choice import CheapestArrays, Choice, FrontierArrays, LambdaRange, Promise
from paredown.benchmarks.selection.choice import Rule as RuleRecord
from paredown.benchmarks.selection.selection import ChooseSettings, Row, choose, with_bounds
from paredown.benchmarks.selection.sensitivity import card
from paredown.pipeline.results.measurements import read_measurements
from paredown.pipeline.results.publish import read_choice, reproduction
from paredown.runtime.errors import StepError

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
browser = pytest.mark.skipif(not BROWSER, reason="no Chromium here: apt-get install chromium")
SLIDE = """<script>
const random = (() => { let seed = 1; return () => (seed = seed * 16807 % 2147483647) / 2147483647; })();
const ids = IDS, found = [];
for (let i = 0; i < 60; i++) {
  const seen = {};
  for (const id of ids) {
    const slider = document.getElementById(id), low = Number(slider.min), high = Number(slider.max);
    slider.value = slider.step === "1" ? low + Math.floor(random() * (high - low + 1))
      : low + (high - low) * Math.min(1, 1.2 * random());
    seen[id] = Number(slider.value) >= high - 1e-9 && id !== "confidence" ? null : Number(slider.value);
    slider.dispatchEvent(new Event("input"));
  }
  found.push([seen, document.getElementById("picked").dataset.name]);
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


def slid(finished: Path, page: Path, rows: list[Row], chosen: ChooseSettings, ids: list[str]) -> list:
    """What the report's sliders selected at sixty values: [{id: value, null at its end}, name]."""
    measurements, choice = run_of(finished)
    rule = RuleRecord(**chosen.model_dump(exclude={"budgets"}), budgets={})
    choice = choice.model_copy(update={"card": card(rows, rows[0], chosen, 0.1), "rule": rule})
    write_report(page, measurements, choice, Reproduction("true"))
    page.write_text(page.read_text().replace("</body>", SLIDE.replace("IDS", json.dumps(ids)) + "</body>"))
    seen = re.search(r'<pre id="found">(.*?)</pre>', opened(page))
    assert seen is not None
    return json.loads(html.unescape(seen[1]))


@browser
def test_the_slider_of_a_points_worth_picks_what_choose_picks(finished: Path, tmp_path: Path) -> None:
    chosen = settings(rule="lambda", value_per_point=0.1)
    rows = with_bounds(noisy_rows(), noisy_rows()[0], chosen)
    names = set()
    for values, name in slid(finished, tmp_path / "report.html", rows, chosen, ["lambda"]):
        if values["lambda"] is not None:
            worth = chosen.model_copy(update={"value_per_point": 10 ** values["lambda"]})
            assert name == choose(rows, rows[0], worth).chosen.name, values
            names.add(name)
    assert len(names) >= 4


@browser
def test_the_sliders_of_the_limits_pick_what_choose_picks(finished: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    rows = [
        r.updated(size_mb=float(random.uniform(5, 50)), latency_ms=r.result.latency_ms.model_copy(update={"p95": p95}))
        for r, p95 in zip(noisy_rows(), random.uniform(1, 20, 12).tolist(), strict=True)
        if r.result.latency_ms is not None
    ]
    rows = with_bounds(rows, rows[-1], settings())
    rows = [rows[-1], *rows[:-1]]  # the baseline is the best and the dearest
    names = set()
    for values, name in slid(
        finished, tmp_path / "report.html", rows, settings(), ["max_drop", "confidence", "p95", "size"]
    ):
        limits = {
            key: None if values[id] is None else 10 ** values[id]
            for id, key in (("p95", "p95_ms"), ("size", "size_mb"))
        }
        level = [0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99][values["confidence"]]
        if values["max_drop"] is None:
            continue
        try:
            picked = choose(
                rows, rows[0], settings(max_drop=values["max_drop"], confidence=level, budgets=limits)
            ).chosen.name
        except StepError:
            picked = ""
        assert name == picked, values
        names.add(name)
    assert len(names) >= 4


@browser
def test_tables_are_sorted_by_a_click(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    click = "<script>document.querySelectorAll('table.sortable th button')[8].click()</script>"
    page.write_text((finished / "report.html").read_text().replace("</body>", f"{click}</body>"))
    table = re.search(r'<table class="sortable">.*?</table>', opened(page), re.DOTALL)
    assert table is not None
    sizes = [float(found) for found in re.findall(r"<td>([\d.]+)<small>\d+</small></td>\s*</tr>", table[0])]
    assert len(sizes) > 2
    assert sizes == sorted(sizes)
    assert 'aria-sort="ascending"' in table[0]


@browser
def test_the_page_of_a_run_can_be_read_with_a_keyboard_and_asks_the_network_for_nothing(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg)""", text)
    page = opened(finished / "report.html")
    _, choice = run_of(finished)
    points = re.findall(r'<g tabindex="0" role="img" aria-label="([^"]+)"', page)
    measured = [c.name for c in choice.candidates if c.metric_validation is not None]
    assert {p.split(":")[0] for p in points} <= set(measured)  # those far below what is allowed are not drawn
    assert {c.name for c in choice.candidates if c.rejected_because is None} <= {p.split(":")[0] for p in points}
    assert 'id="static" hidden' in page
    assert page.index('id="live"') < page.index("Why this one")
    assert f'data-name="{choice.chosen.name}">Selected' in page
    for heading in ("What would change the pick", "Why it is not faster", "Quality beside", "Vocabulary", "Reproduce"):
        assert heading in page


def test_texts_of_the_data_cannot_become_elements_of_the_page(finished: Path, tmp_path: Path) -> None:
    measurements, choice = run_of(finished)
    bad = "</script><script>alert(1)</script>"
    flips = [Flip(text=bad, gold=bad, now=bad, confidence=0.9)]
    entries = [entry.model_copy(update={"flips": flips}) for entry in measurements.candidates]
    prices = measurements.prices.model_copy(update={"currency": bad})
    measurements = measurements.model_copy(update={"candidates": entries, "prices": prices})
    assert (
        bad
        not in write_report(tmp_path / "report.html", measurements, choice, Reproduction(bad, recipe=bad)).read_text()
    )


def test_markdown_has_the_table_the_card_and_what_was_promised(finished: Path, tmp_path: Path) -> None:
    measurements, choice = run_of(finished)
    promise = Promise(promised=2.0, measured=1.4, measured_ci=(1.3, 1.6), noisy=False)
    *others, last = choice.candidates
    choice = choice.model_copy(update={"candidates": [*others, last.model_copy(update={"promised_speedup": promise})]})
    text = markdown(measurements, choice, "paredown run x")
    assert "promised 2.00x of the unpruned model, measured 1.40x [1.30, 1.60]: missed (aim: within 15 %)." in text
    page = write_report(tmp_path / "report.html", measurements, choice, Reproduction("true")).read_text()
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
    for variable, record in (
        ("data", PageData),
        ("f", FrontierArrays),
        ("s", CheapestArrays),
        ("rule", RuleRecord),
        ("p", Point),
        ("r", LambdaRange),
    ):
        fields = {field.serialization_alias or name for name, field in record.model_fields.items()}
        read = {*re.findall(rf"(?<![\w.$]){variable}\.(\w+)", script)}
        assert read, variable
        assert read <= fields, variable
    assert {key for axis in AXES.values() for key in axis} <= Point.model_fields.keys()


def test_it_says_how_it_is_made_again_and_the_recipe_names_files_alone(finished: Path, tmp_path: Path) -> None:
    measurements, choice = run_of(finished)
    again = reproduction(finished, "paredown run it")
    assert "models:" in again.recipe
    assert not re.search(r"[ '\"]/", again.recipe)
    page = write_report(tmp_path / "report.html", measurements, choice, again).read_text()
    assert measurements.measured_at[:10] in page
    assert (f"git commit {measurements.commit}" in page) == (measurements.commit is not None)
    parameters = measurements.entry(choice.baseline.name).parameters
    assert parameters is not None
    assert f"{parameters / 1e6:.1f} M parameters" in page


def test_it_opens_in_a_browser(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    page = tmp_path / "report.html"
    done = paredown("report", finished, "--output", page, "--open")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "opened").read_text().strip() == page.as_uri()
    refused(paredown("report", finished, "--format", "md", "--open"), "--open", "--format")


def test_a_run_without_its_recipe_is_not_said_to_be_made_again(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "a run", symlinks=True)
    again = reproduction(tmp_path / "a run")
    assert again.command == f"paredown run {again.run}/recipe.resolved.yaml --output-dir {again.run}"
    assert again.run.endswith("a run'")
    (tmp_path / "a run" / "recipe.resolved.yaml").unlink()
    measurements, choice = run_of(finished)
    again = reproduction(tmp_path / "a run")
    assert again.command == f"paredown report {again.run}"
    assert "paredown run" not in write_report(tmp_path / "report.html", measurements, choice, again).read_text()


@pytest.mark.parametrize("content", ["models: [", "a text", "", "{a: 1}: b"])
def test_a_damaged_recipe_of_a_run_is_one_error(content: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    (tmp_path / "run" / "recipe.resolved.yaml").write_text(content)
    done = paredown("report", tmp_path / "run", "--format", "md")
    refused(done, "recipe.resolved.yaml", "damaged", "run the recipe again")


def test_what_was_done_with_the_data_is_said_below_and_names_files_alone(finished: Path, tmp_path: Path) -> None:
    measurements, choice = run_of(finished)
    source = measurements.data["validation"]
    measurements = measurements.model_copy(update={"notes": [f"{source}: 3 rows left out"]})
    page = write_report(tmp_path / "report.html", measurements, choice, Reproduction("true")).read_text()
    assert f"<li>{Path(source).name}: 3 rows left out</li>" in page
    assert f"> {Path(source).name}: 3 rows left out" in markdown(measurements, choice, "true")
    assert source not in page


def test_names_of_the_hub_keep_their_owner_in_notes(finished: Path) -> None:
    measurements, _ = run_of(finished)
    data = {"train": "owner/rows:train", "adapt-1 new": "/data/new.csv"}
    notes = ["owner/rows:train: 3 rows repeat", "/data/new.csv: 2 rows left out"]
    measurements = measurements.model_copy(update={"notes": notes, "data": data})
    assert data_notes(measurements) == ["owner/rows:train: 3 rows repeat", "new.csv: 2 rows left out"]
