import random
from collections import Counter

import numpy as np
import pytest

from paredown.compress.data import splits
from paredown.compress.data.splits import apart, certified, divided, held_out, repeats, without
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import PAIR
from paredown.tasks.parsing import comparable
from paredown.tasks.rows import Rows

IMAGE = "data:image/png;base64,"


def rows(source: str, *texts: str, labels: list | np.ndarray | None = None, **more) -> Rows:
    """Rows of text classification, unless other labels are given."""
    gold = np.arange(len(texts)) % 2 if labels is None else np.asarray(labels)
    return Rows(source, texts, gold, more.pop("names", ("a", "b")), **more)


def numbered(source: str, count: int, first: int = 0) -> Rows:
    return rows(source, *(f"row {first + i}" for i in range(count)))


def objects(values: list) -> np.ndarray:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A good  film ", "a Good\tfilm"),
        ("\u00a0stra\u00dfe", "STRASSE"),
        ("\ufb01ne \uff21", "fine a"),  # a ligature, a wide letter
        (f"Who? {PAIR} it was Ann", f"who?{PAIR}It  was ann"),
    ],
)
def test_what_is_compared_has_no_case_and_no_further_white_space(one: str, other: str) -> None:
    assert comparable(one) == comparable(other)


def test_two_texts_of_a_row_are_not_mixed_and_images_keep_their_case() -> None:
    assert comparable(f"a b{PAIR}c") != comparable(f"a{PAIR}b c")
    assert comparable(f"a{PAIR}b") != comparable("a b")
    assert comparable(f"{IMAGE}AAbb") != comparable(f"{IMAGE}aaBB")


def test_the_same_rows_in_another_order_or_other_letters_are_refused() -> None:
    train = numbered("train.csv", 200)
    order = random.Random(0).sample(train.texts, 200)
    for judged in (order, [text.upper() for text in order]):
        with pytest.raises(InputError, match=r"held\.csv: the same rows as train\.csv"):
            apart([train], [rows("held.csv", *judged)])


def test_more_than_a_hundredth_of_the_smaller_split_is_refused_with_an_example() -> None:
    train = numbered("train.csv", 200)
    judged = rows("validation.csv", "another", *(f"ROW {i}" for i in range(3)), *(f"other {i}" for i in range(196)))
    with pytest.raises(
        InputError, match=r"validation\.csv: 3 of 200 rows \(1\.5 %\) also stand in train\.csv"
    ) as caught:
        apart([train], [judged])
    for words in ("row 2 'ROW 0'", "remove them from one of the two files", "1 %"):
        assert words in str(caught.value)
    with pytest.raises(InputError, match=r"test\.csv"):
        apart([numbered("train.csv", 50)], [None, rows("test.csv", *(f"ROW {i}" for i in range(49, 1000)))])


def test_at_most_a_hundredth_is_left_out_of_the_judged_split() -> None:
    train = numbered("train.csv", 1000)
    validation = numbered("validation.csv", 200, 998)  # two of train, and two of test
    test = rows("test.csv", "Row 1196", "row 1197 ", *(f"test {i}" for i in range(196)), "row 0", "x")
    kept = apart([train], [validation, test])
    assert kept.judged[0] is not None
    assert kept.judged[1] is not None
    assert kept.judged[0].texts == tuple(f"row {i}" for i in range(1000, 1196))
    assert kept.judged[0].gold.tolist() == validation.gold[2:-2].tolist()
    assert len(kept.judged[1]) == 199  # the certificate keeps what validation shares with it
    said = "\n".join(kept.notes)
    assert "validation.csv: 2 of 200 rows (1.0 %) left out, also in train.csv: row 1 'row 998', row 2" in said
    assert "validation.csv: 2 of 200 rows (1.0 %) left out, also in test.csv: row 199" in said
    assert "test.csv: 1 of 200 rows (0.5 %) left out, also in train.csv: row 199 'row 0'" in said
    again = apart([train], kept.judged)
    assert again.judged == kept.judged
    assert not again.notes


def test_unlabelled_rows_that_are_judged_are_left_out_however_many() -> None:
    train, validation = numbered("train.csv", 100), numbered("validation.csv", 100, 100)
    more = Rows("more.jsonl", ("Row 150", *(f"row {i}" for i in range(50, 200))), None)
    kept = apart([train], [validation], more)
    assert kept.unlabeled is not None
    assert kept.unlabeled.texts == tuple(f"row {i}" for i in range(50, 100))
    assert "more.jsonl: 101 of 151 rows" in kept.notes[0]
    with pytest.raises(InputError, match=r"more\.jsonl: every row"):
        apart([train], [validation], Rows("more.jsonl", ("row 101",), None))
    assert without(more, [validation]).texts == kept.unlabeled.texts


def test_pairs_are_compared_with_both_texts() -> None:
    def pairs(source: str, *texts: str, labels: float = np.inf) -> Rows:
        return rows(source, *texts, labels=[labels, np.nan] * (len(texts) // 2))

    train = pairs("train.csv", "q1", "p1", "q2", "p1", "q3", "p2")
    assert train.inputs[0] == (*rows("x", "Q1").inputs[0], *rows("x", "P1").inputs[0])
    shared_passage = pairs("validation.csv", "q4", "p1", "q5", "p2")
    assert apart([train], [shared_passage]).judged == (shared_passage,)
    with pytest.raises(InputError, match="1 of 2 rows"):
        apart([train], [pairs("validation.csv", "Q2", "p1", "q5", "p2")])
    alone = Rows("train.csv", ("q9", "q5", "P2"), None)  # no pairs: both texts of a pair have to stand there
    with pytest.raises(InputError, match="1 of 2 rows"):
        apart([alone], [shared_passage])
    more = Rows("more.jsonl", ("p1", "q7", "q5"), None)
    kept = apart([train], [shared_passage], more)
    assert kept.unlabeled is not None
    assert kept.unlabeled.texts == ("q7",)
    # left out and held out as pairs
    many = pairs("validation.csv", *(f"{kind}{i}" for i in range(100) for kind in ("q", "p")))
    kept = apart([pairs("train.csv", "q99", "p99", *(f"{i}" for i in range(1000)))], [many])
    assert kept.judged[0] is not None
    assert len(kept.judged[0]) == 198
    rest, held = held_out(many, every=3)
    for part in (rest, held):
        assert all(q[1:] == p[1:] for q, p in zip(part.texts[::2], part.texts[1::2], strict=True))
        assert len(part.begins) * 2 == len(part)
    assert len(held.begins) == 33


def test_rows_that_repeat_inside_a_split_stay_and_are_counted() -> None:
    twice = rows("train.csv", *(f"row {i}" for i in range(50)), "Row 0", "row  1")
    assert repeats(twice, None) == ("train.csv: 2 of 52 rows (3.8 %) repeat an earlier one; they are kept",)
    assert repeats(numbered("a", 200), rows("b", *(f"{i}" for i in range(199)), "0")) == ()


def test_a_third_is_held_out_by_label_and_does_not_depend_on_the_order_of_the_file() -> None:
    labels = [0] * 90 + [1] * 30 + [2] * 2 + [3]
    groups = tuple(f"g{i}" for i in range(123))
    source = rows("v.csv", *(f"row {i}" for i in range(123)), labels=labels, names=tuple("abcd"), groups=groups)
    rest, held, note = certified(source)
    assert held is not None
    assert Counter(held.gold.tolist()) == {0: 30, 1: 10}  # the two rare ones stay
    assert len(rest) == 83
    assert set(rest.texts) | set(held.texts) == set(source.texts)
    assert held.groups == tuple(f"g{text.split()[1]}" for text in held.texts)
    assert "40 of 123 rows are held out for the certificate" in note
    assert "v.csv" in held.source
    order = np.random.default_rng(0).permutation(123)
    assert set(held_out(source.only(order), every=3)[1].texts) == set(held.texts)
    everybody = rows("v.csv", *(f"row {i}" for i in range(60)), labels=[i // 2 for i in range(60)])
    assert len(held_out(everybody, every=3)[1]) == 20  # every label is rare: at random


def test_repeated_rows_and_questions_of_one_context_stay_together() -> None:
    source = rows("v.csv", *(f"row {i % 40}" for i in range(120)), labels=[i % 2 for i in range(120)])
    rest, held = held_out(source, every=3)
    assert not set(rest.texts) & set(held.texts)
    answers = objects([((0, "c"),) if i % 2 else () for i in range(60)])
    asked = Rows("v.jsonl", tuple(f"q{i}{PAIR}c{i // 3}" for i in range(60)), answers, ("start", "end"))
    rest, held = held_out(asked, every=3)
    contexts = [{text.partition(PAIR)[2] for text in part.texts} for part in (rest, held)]
    assert not contexts[0] & contexts[1]
    assert 15 <= len(held) <= 24


def test_strata_of_numbers_sets_words_and_texts() -> None:
    values = np.random.default_rng(0).normal(size=300)
    rest, held = held_out(rows("v", *(f"r{i}" for i in range(300)), labels=values, names=("score",)), every=3)
    assert len(held) == 100
    assert abs(np.median(rest.gold) - np.median(held.gold)) < 0.1
    several = np.array([[i % 2, i % 3 == 0, i == 7] for i in range(90)], dtype=np.int64)
    rest, held = held_out(rows("v", *(f"r{i}" for i in range(90)), labels=several, names=tuple("abc")), every=3)
    assert abs(held.gold[:, 1].sum() - 10) <= 1
    assert held.gold[:, 2].sum() == 0
    tags = objects([np.array([i % 2, 0, 2 * (i % 3 == 0)]) for i in range(90)])
    rest, held = held_out(Rows("v", tuple(f"a b r{i}" for i in range(90)), tags, tuple("abc")), every=3)
    assert abs(sum(2 in row for row in held.gold) - 10) <= 1
    for gold in (None, objects([f"target {i}" for i in range(90)])):
        rest, held = held_out(Rows("v", tuple("x" * (i + 1) for i in range(90)), gold), every=3)
        lengths = [len(text) for text in held.texts]
        assert abs(np.mean(lengths) - 45.5) < 3
        assert len(held) == 30


def test_too_few_rows_or_one_label_to_hold_out_give_no_certificate() -> None:
    few = numbered("v.csv", splits.FEWEST - 1)
    assert certified(few)[:2] == (few, None)
    assert "no certificate: 29 different validation rows are too few" in certified(few)[2]
    one = rows("v.csv", *(f"row {i}" for i in range(40)), labels=[0] * 38 + [1] * 2)
    assert certified(one)[:2] == (one, None)
    assert "only one class" in certified(one)[2]


def test_the_splits_of_a_run() -> None:
    train, validation, test = numbered("a", 100), numbered("b", 90, 100), numbered("c", 90, 200)
    given = divided(train, validation, test, None)
    assert (given.validation, given.test, given.certificate, given.notes) == (validation, test, "test", ())
    held = divided(train, validation, None, None)
    assert held.certificate == "held-out validation"
    assert held.test is not None
    assert len(held.test) == 30
    assert len(held.notes) == 1
    none = divided(train, validation.only(np.arange(10)), None, None)
    assert (none.test, none.certificate) == (None, None)
    assert len(none.validation) == 10
