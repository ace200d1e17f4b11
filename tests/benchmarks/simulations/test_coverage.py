"""The quick simulations: every section runs, nothing is far outside its band, and the table is written."""

from pathlib import Path

import numpy as np
import pytest

from paredown.benchmarks.simulations import cases, coverage
from paredown.benchmarks.simulations.coverage import (
    BEGIN,
    END,
    SECTIONS,
    Cell,
    Effort,
    Section,
    main,
    markdown,
    outside,
)
from paredown.benchmarks.statistics.metric_intervals import macro_f1_drop
from paredown.tasks.scores import points


@pytest.mark.parametrize("name", SECTIONS)
def test_intervals_contain_the_truth_as_often_as_they_say(name: str) -> None:
    effort = Effort(quick=True)
    sections = list(SECTIONS[name](effort))
    assert outside(sections, effort.slack) == []
    assert all(len(cells) == len(section.columns) for section in sections for _, cells in section.lines)


def test_a_cell_is_judged_by_its_band() -> None:
    assert not Cell(95.0).outside(0)
    assert Cell(91.9).outside(0)
    assert not Cell(91.9).outside(0.2)
    assert Cell(98.1).outside(0)
    assert not Cell(100.0, conservative=True).outside(0)
    assert Cell(91.9, conservative=True).outside(0)
    assert [Cell(99.0, conservative=True).text(0), Cell(90.0).text(0), Cell(95.0).text(0)] == [
        "99.0*",
        "90.0 !",
        "95.0",
    ]


def test_what_is_outside_is_named_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    found = Section("accuracy", "A bound", ["50 rows"], [("easy", [Cell(95.0)]), ("hard", [Cell(80.0)])])
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(coverage, "SECTIONS", {"accuracy": lambda effort: iter([found])})
    assert main(["--write", str(page)]) == 1
    said = capsys.readouterr().out
    assert "2 cells, 1 outside their band\nA bound; hard; 50 rows: 80.0, expected 92 to 98" in said
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert markdown([found], 0) in text
    assert "old" not in text
    found.lines.pop()
    assert main([]) == 0
    page.write_text("no markers")
    with pytest.raises(SystemExit):
        main(["--write", str(page)])


@pytest.mark.parametrize("family", ["spans", "rouge", "squad", "rank_correlations", "variances"])
def test_the_true_metrics_are_those_of_many_rows(family: str) -> None:
    for case in getattr(cases, family)():
        base, candidate = case.draw(np.random.default_rng(0), 200_000)
        assert points(base) == pytest.approx(case.metric, abs=0.4)
        assert points(base) - points(candidate) == pytest.approx(case.drop, abs=0.4)


def test_the_true_drop_of_macro_f1_is_that_of_many_rows() -> None:
    for case in (cases.Labelled((0.01, 0.29, 0.7), 0.9, 0.05, 0.3), cases.Labelled((0.1,) * 10, 0.5, 0.1)):
        gold, base, candidate = case.draw(np.random.default_rng(0), 400_000)
        assert macro_f1_drop(base, candidate, gold)[0] == pytest.approx(case.drop(gold), abs=0.3)


def test_the_tables_in_the_docs_are_the_scripts() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "choosing.md").read_text()
    table = text[text.index(BEGIN) : text.index(END)]
    assert " ! " not in table
    for title in (
        "Drop of accuracy, upper bound",
        "Drop of macro F1",
        "MRR",
        "Ratio of two latencies",
        "Selection, simulated",
    ):
        assert title in table
