from paredown.benchmarks.robustness import CHANGES, changed

TEXTS = ["a brilliant and moving film", "of it", "dull"]


def test_typos_change_neighbours_inside_long_words_only() -> None:
    for before, after in zip(TEXTS, changed(TEXTS, "typos"), strict=True):
        assert sorted(before) == sorted(after)
        for old, new in zip(before.split(), after.split(), strict=True):
            assert (old[0], old[-1]) == (new[0], new[-1])
    assert changed(TEXTS, "typos")[0] != TEXTS[0]
    assert changed(TEXTS, "typos")[1] == TEXTS[1]


def test_changes_are_the_same_every_time() -> None:
    assert changed(["Good"], "case") == ["GOOD"]
    assert changed(["good"], "length") == ["good good"]
    for change in CHANGES:
        assert changed(TEXTS, change) == changed(TEXTS, change)
