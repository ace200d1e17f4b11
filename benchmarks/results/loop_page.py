"""The part of docs/results.md that loop.py's figures make."""

from __future__ import annotations

HEAD = """## The loop

`python benchmarks/results/loop.py build/results`: docs/loop.md as a measured week. A teacher is compressed, rows come
later, `update` teaches them to it without all the old ones, and the recipe compresses it again. Times are against the
teacher in PyTorch, in one interleaved run on test rows; losses are against the first model of each table, negative is
better, with the one-sided 95 % bound.
"""


def looped(found: dict) -> str:
    """What there is of it."""
    parts = [HEAD, *(part(found[name]) for name, part in SETS.items() if name in found)]
    return "\n".join(parts)


def _names(found: dict) -> str:
    labels = ("teacher of two thirds of the tweets", "week 1: it, compressed", "week 2: updated, compressed again")
    return "\n".join([
        "### Names in tweets", "", *_table(found["bench"], labels), "",
        f"Aim: at or above the teacher's F1 at a fifth of its time: {_met(found['bench'])}. "
        f"{_learned(found['update'])} `run --baseline` said: {found['replace']['why']}.", "",
    ])  # fmt: skip


def _intents(found: dict) -> str:
    every = ("teacher of all 77 intents at once", "week 2: 62 intents, then 15, compressed")
    known = ("teacher of 62 intents", "week 1: it, compressed", "week 2: updated, compressed again")
    lost = found["update"]["forgetting"]
    return "\n".join([
        "### Fifteen intents that came later", "", "All 77 intents of banking77:", "", *_table(found["bench"], every),
        "", f"Aim: at or above the accuracy of the teacher of all intents at a fifth of its time: "
        f"{_met(found['bench'])}.", "",
        "Test rows of the 62 that were known first:", "", *_table(found["known"], known), "",
        f"Forgetting of `update`, before compression: {lost:.2f} points (aim: under 1), "
        f"{'met' if lost < 1 else 'missed'}. {_learned(found['update'])}", "", _robust(found["robustness"]), "",
    ])  # fmt: skip


def _met(bench: dict) -> str:
    """Whether the last model is as good as the first and five times as fast in the mean."""
    first, last = bench["artifacts"][0], bench["artifacts"][-1]
    missed = []
    if last["metric"] < first["metric"]:
        missed.append(f"{first['metric'] - last['metric']:.1f} points short")
    if last["ratio_mean"] > 0.2:
        missed.append(f"{1 / last['ratio_mean']:.1f}x")
    return f"missed ({', '.join(missed)})" if missed else "met"


def _robust(found: dict) -> str:
    """Whether the compressed model bears typos as well as the teacher."""
    theirs, ours = (model["metrics"]["typos"] for model in found["models"])
    lo, hi = ours["drop_95"]
    met = "met" if ours["drop"] <= 0 else "met within its interval" if lo <= 0 else "missed"
    return (
        f"With typos in {found['share']:.0%} of the words of all {found['rows']} test rows: the teacher of all intents "
        f"{theirs['metric']:.1f}, week 2 {ours['metric']:.1f}, a loss of {ours['drop']:.2f} [{lo:.2f}, {hi:.2f}] (aim: "
        f"none): {met}."
    )


def _tuned(found: dict) -> str:
    trials = len(found["trials"])
    if found["default_won"]:
        said = f"none of {trials} trials beat the given settings ({found['metric_given']:.1f})"
    else:
        better = "and was kept" if found["kept"] == "best" else "and the given ones were kept"
        said = (
            f"the best of {trials} trials came to {found['metric_best']:.1f} on validation, the given settings to "
            f"{found['metric_given']:.1f} (p = {found['mcnemar_p']:.2g}), {better}"
        )
    worth = ", ".join(f"{name} {value:.0%}" for name, value in found["importance"].items())
    return f"### The tuner\n\n`tune` on the known tweets: {said}. What each knob was worth: {worth or 'not known'}.\n"


def _learned(update: dict) -> str:
    return (
        f"New rows: {update['new_before']:.1f} before, {update['new_after']:.1f} after {update['training_s']:.0f} s; "
        f"all rows again would take about {update['retrain']['training_s']:.0f} s."
    )


def _table(bench: dict, labels: tuple[str, ...]) -> list[str]:
    lines = [
        f"| | {bench['artifacts'][0]['metric_name']} | loss (95 % at most) | times faster, median | in the mean | MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for label, entry in zip(labels, bench["artifacts"], strict=True):
        loss = f"{entry['drop']:+.1f} ({entry['drop_upper_95']:.1f})" if "drop" in entry else ""
        lines.append(
            f"| {label} | {entry['metric']:.1f} | {loss} | {1 / entry['ratio']:.1f}x | {1 / entry['ratio_mean']:.1f}x "
            f"| {entry['size_mb']:.1f} |"
        )
    return lines


SETS = {"ner": _names, "banking77": _intents, "tuner": _tuned}
