"""A study in a file goes on after whatever end its last line came to."""

from pathlib import Path

import optuna
import pytest

from paredown.compress.training.studies import seed_sampler, study_at
from paredown.runtime.errors import InputError


def tried(study: optuna.Study, count: int) -> list[float]:
    points = []
    for _ in range(count):
        seed_sampler(study, 0)
        trial = study.ask()
        points.append(trial.suggest_float("a", 0, 1))
        study.tell(trial, points[-1])
    return points


@pytest.mark.parametrize("lost", [1, 2, 30, 100, 200, 500])
def test_a_last_line_that_is_cut_off(lost: int, tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    whole = tried(study_at(file, "a", direction="maximize"), 4)
    file.write_bytes(file.read_bytes()[:-lost])
    again = study_at(file, "a", direction="maximize")
    kept = len(again.trials)
    assert 2 <= kept <= 4
    new = tried(again, 3)
    assert not set(new) & set(whole[:kept])
    values = [trial.value for trial in study_at(file, "a", direction="maximize").trials]
    assert values[kept:] == new
    assert all(value is None or value == point for value, point in zip(values[:kept], whole, strict=False))


def test_another_damage_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    tried(study_at(file, "a", direction="maximize"), 2)
    lines = file.read_bytes().splitlines(keepends=True)
    for damaged in ([*lines[:3], b"{\n", *lines[3:]], [b"\x00\xff\n"]):
        file.write_bytes(b"".join(damaged))
        with pytest.raises(InputError, match=r"study\.log: not a study that can be read .* remove it"):
            study_at(file, "a", direction="maximize")
