import numpy as np

from paredown.compress.data.dataset import read_rows
from paredown.compress.models.loading import Checkpoint
from paredown.pipeline.data_summary import described, doubts, summary
from paredown.tasks.registry import TASKS
from paredown.tasks.rows import Rows

TASK = TASKS["text-classification"]


def rows(labels: list, names: tuple[str, ...] = ("no", "yes")) -> Rows:
    return Rows("some.csv", tuple(map(str, range(len(labels)))), np.array(labels), names)


def test_rows_labels_and_lengths_in_a_line() -> None:
    assert described(rows([0] * 1500 + [1] * 500), [3] * 19 + [90]) == (
        "2,000 rows, 3 tokens in the median, 7 in 95 % at most; no 75 %, yes 25 %"
    )
    names = tuple(f"intent {i}" for i in range(9))
    many = rows([i for i in range(9) for _ in range(i + 1)], names)
    assert described(many, None) == "45 rows; 9 labels, from 1 of intent 0 to 9 of intent 8"
    assert described(rows([0.5, 2.0], ("score",)), None) == "2 rows"


def test_labels_are_counted_whatever_they_are_of() -> None:
    tags = np.empty(2, dtype=object)
    tags[:] = [np.array([0, 1, 1]), np.array([-100, 0])]
    for labels, counts in ((np.array([0, 1, 1]), [1, 2]), (np.array([[1, 0], [1, 1]]), [2, 1]), (tags, [2, 2])):
        found = Rows("some", ("a",) * len(labels), labels, ("no", "yes")).label_counts()
        assert found is not None
        assert found.tolist() == counts
    texts = np.array(["a", "b"], dtype=object)
    assert Rows("some", ("a", "b"), texts).label_counts() is None
    assert Rows("some", ("a", "b"), None).label_counts() is None


def test_what_is_doubtful_is_said() -> None:
    enough = rows([0, 1] * 250)
    assert doubts({"train": enough, "validation": enough}) == []
    missing = Rows("train.csv", enough.texts, enough.labels, ("no", "yes", "perhaps"))
    (said,) = doubts({"train": missing, "validation": enough})
    assert said == "train: no row of perhaps: no student learns it from labels"
    (said,) = doubts({"train": enough, "validation": rows([0, 1] * 50)})
    assert said.startswith("validation: 100 rows: ")
    assert "less than 1.9 points (80 % confidence); 400 rows could show 1" in said


def test_the_checkpoint_is_scored_on_some_rows(teacher: Checkpoint, files: dict) -> None:
    splits = {name: read_rows(TASK, str(files[name]), names=teacher.labels) for name in ("train", "validation")}
    found = summary(teacher, TASK, {**splits, "test": None}, 32)
    assert [line.partition(":")[0] for line in found[:3]] == ["train", "validation", "checkpoint"]
    assert "tokens in the median" in found[0]
    assert found[2].startswith("checkpoint: accuracy ")
    turned = Rows("some", splits["validation"].texts, 1 - splits["validation"].gold, teacher.labels)
    again = summary(teacher, TASK, {"train": splits["train"], "validation": turned}, 32)
    assert any(line.endswith("it is hardly trained") for line in again)
