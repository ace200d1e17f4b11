"""Sentences and table cells that the report, the terminal and Markdown share.

No ratio is stated without its interval; that of a noisy run is its interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

OPEN_RANGE = 20  # a ratio whose ends differ by more than this many times is "at least" its lower end
PROMISE = 15  # per cent that a measured speed-up may be off the promised one
# Titles of the table of quality: the figure that must be there, and the cell.
QUALITY = {
    "macro F1": ("macro_f1", "{macro_f1:.1f}"),
    "macro F1: drop (95 % bound)": ("macro_f1_drop", "{macro_f1_drop:+.1f} ({macro_f1_drop_upper_95:.1f})"),
    "calibration error": ("calibration_error", "{calibration_error:.1f}"),
    "negative flips": ("negative_flips", "{negative_flips} ({negative_flip_share:.1f} %)"),
    "attribution agreement (Spearman)": ("attribution_agreement", "{attribution_agreement:.2f}"),
    "typos: drop (95 % bound)": ("typos_drop", "{typos_drop:+.1f} ({typos_drop_upper_95:.1f})"),
    "capitals: drop (95 % bound)": ("case_drop", "{case_drop:+.1f} ({case_drop_upper_95:.1f})"),
    "repeated text: drop (95 % bound)": ("length_drop", "{length_drop:+.1f} ({length_drop_upper_95:.1f})"),
    "worst label: drop (95 % bound)": ("label_drop", "{label_drop:+.1f} ({label_drop_upper_95:.1f})"),
    "worst group: drop (95 % bound)": ("group_drop", "{group_drop:+.1f} ({group_drop_upper_95:.1f})"),
}


def money(value: float) -> str:
    """Three digits that say something, and two behind the point at least."""
    return f"{value:.{max(2, 2 - math.floor(math.log10(value))) if value > 0 else 2}f}"


def times(point: float, lo: float, hi: float, noisy: bool) -> str:
    """A ratio in words: "5.7 times"; of a noisy run its range, "18 to 214 times", or its weakest end, "at least 18
    times", where the other end says nothing."""
    if not noisy:
        return f"{factor(point)} times"
    if lo > 1 and hi > OPEN_RANGE * lo:
        return f"at least {factor(lo)} times"
    return f"{factor(lo)} to {factor(hi)} times"


def as_fast(point: float, interval: Sequence[float], noisy: bool, than: str = "") -> str:
    """A speed-up in words: "7.7 times as fast as X (95 %: 6.9 to 8.4)"; of a noisy run its range alone."""
    lo, hi = interval
    text = times(point, lo, hi, noisy) + (f" as fast as {than}" if than else "")
    return text if noisy else f"{text} (95 %: {factor(lo)} to {factor(hi)})"


def short_times(point: float | None, interval: Sequence[float] | None, noisy: bool) -> str:
    """A speed-up for a cell of a table: "7.7x", of a noisy run "18 to 214x"; empty where it was not measured."""
    if point is None or interval is None:
        return ""
    lo, hi = interval
    return times(point, lo, hi, noisy).removesuffix(" times") + "x"


def factor(value: float) -> str:
    """A ratio with the digits that say something: 0.05, 0.83, 5.7, 18."""
    return f"{value:.{0 if value >= 10 else 1 if value >= 1 else 2}f}"


def sentence(choice: dict, measurements: dict) -> str:
    """The headline: how fast against both opponents, what the certificate says, size and cost."""
    chosen, base = choice["chosen"], choice["baseline"]
    size = f"{chosen['size_mb']:.0f} MB instead of {base['size_mb']:.0f}"
    return f"{speed_sentence(choice)} {certificate_sentence(choice)} {size}, and {_saving(chosen, choice['noisy'])}."


def speed_sentence(choice: dict) -> str:
    """Against the checkpoint in PyTorch and in plain INT8; of a cascade by mean and p95, whose median says little."""
    chosen, noisy = choice["chosen"], choice["noisy"]
    cascade = chosen["speedup_statistic"] == "mean"
    text = f"{chosen['name']} is {'in the mean ' if cascade else ''}"
    text += as_fast(chosen["speedup_vs_baseline"], chosen["speedup_ci"], noisy, "the checkpoint in PyTorch")
    if cascade:
        text += f", at p95 {as_fast(chosen['speedup_p95'], chosen['speedup_p95_ci'], noisy)}"
    if choice["plain_int8"] == chosen["name"]:
        text += "; it is the checkpoint in plain INT8"
    elif chosen["speedup_vs_plain_int8"] is not None:
        plain = as_fast(chosen["speedup_vs_plain_int8"], chosen["speedup_vs_plain_int8_ci"], noisy, "its plain INT8")
        text += f", and {plain}"
    return f"{text}. {cascade_sentence(chosen)}".rstrip()


def cascade_sentence(entry: dict) -> str:
    """How much of the work the first model of a cascade does, and how well; empty for others."""
    found = entry["cascade"]
    if not found:
        return ""
    right = "" if found["first_metric"] is None else f", with {found['first_metric']:.1f} {entry['metric']} on these"
    share = percent(found["answered_by_first"])
    return f"Its first model, {found['first']}, answers {share} of the validation rows{right}."


def percent(share: float) -> str:
    """A share, 0 to 1, in per cent."""
    return f"{100 * share:.0f} %"


def certificate_sentence(choice: dict) -> str:
    """What the rows that nothing else has used say of the selected candidate."""
    chosen, found = choice["chosen"], choice["certificate"]
    if found is None:
        drop = _loss(chosen["drop_validation"], chosen["metric"])
        return f"No rows were kept for a certificate: on validation, where it was selected, it {drop}."
    many = f"; {found['looks']} candidates of this run were held against these rows" if found["looks"] > 1 else ""
    loses = "" if found["drop"] >= 0.05 else "loses "
    return (
        f"On {found['rows']} {found['split']} rows it {_loss(found['drop'], chosen['metric'])}, and {loses}not more "
        f"than {max(found['drop_upper_95'], 0.0):.1f} points (95 % bound{many})."
    )


def _loss(drop: float, metric: str) -> str:
    if abs(drop) < 0.05:
        return f"has the same {metric}"
    return f"{'loses' if drop > 0 else 'gains'} {abs(drop):.1f} points of {metric}"


def _saving(chosen: dict, noisy: bool) -> str:
    """What a million requests cost against the checkpoint in PyTorch, in per cent, with its 95 % interval."""
    ratio, (lo, hi) = chosen["cost_vs_baseline"]["ratio"], chosen["cost_vs_baseline"]["ci"]
    if lo < 1 < hi:
        return f"its cost per million requests is between {100 * lo:.0f} and {100 * hi:.0f} % of the checkpoint's"
    less = ratio < 1
    near, far = sorted((100 * abs(1 - lo), 100 * abs(1 - hi)))
    word = "less" if less else "more"
    if noisy:
        return f"costs between {near:.0f} and {far:.0f} % {word} per million requests"
    return f"costs {100 * abs(1 - ratio):.0f} % {word} per million requests (95 %: {near:.0f} to {far:.0f})"


def nearest_sentence(choice: dict) -> str | None:
    """Where nothing compressed could be selected: the candidate that came nearest, and what would settle it."""
    found = choice["nearest"]
    if found is None:
        return None
    text = (
        f"Nothing cheaper was shown to be good enough. The nearest is {found['name']}: it lost "
        f"{found['drop_validation']:.1f} points on {found['validation_rows']} validation rows and could lose "
        f"{found['drop_upper']:.1f} ({percent(choice['rule']['confidence'])} confidence)"
    )
    if found["rows_needed"] is None:
        return f"{text}; more rows would not help, its measured drop is over max_drop."
    return f"{text}; about {found['rows_needed']:,} validation rows would settle it."


def bound_title(choice: dict) -> str:
    """Head of the column that has drops and their bounds."""
    confidence = choice["rule"]["confidence"]
    return f"drop (< at {percent(confidence)})" if confidence else "drop (not tested)"


def bounded(entry: dict, choice: dict) -> str:
    """Its cell: the measured drop, and the bound at the stated confidence."""
    drop = f"{entry['drop_validation']:+.1f}"
    return f"{drop} (< {entry['drop_upper']:.1f})" if choice["rule"]["confidence"] else drop


def control_warning(choice: dict) -> str | None:
    """One line when the measurement was too noisy to carry a ratio."""
    if not choice["noisy"]:
        return None
    return (
        f"The machine was noisy: {choice['conditions']['noisy_because']}. Ratios are stated as ranges (95 %). Measure "
        "on a quieter machine, let it wait for quiet (latency.wait_s), or measure more processes."
    )


def card_lines(choice: dict, currency: str) -> list[str]:
    """The decision card in sentences: other values of a point, other prices, other limits, what the run has cost."""
    card, chosen = choice["card"], choice["chosen"]
    unit = f"{currency} per million requests and point"
    ranges = card["lambda"]
    if len(ranges) == 1:
        lines = [f"Whatever a point is worth, rule lambda would pick {ranges[0]['name']}."]
    else:
        parts = [f"{r['name']} up to {r['to']:.3g}" for r in ranges[:-1]] + [f"{ranges[-1]['name']} above"]
        lines = [f"By what a point is worth ({unit}), rule lambda would pick {', '.join(parts)}."]
    price, found = card["price_per_hour"], []
    for side, word in (("lower", "at most"), ("upper", "at least")):
        if price[side]:
            found.append(f"at {word} {price[side]['at']:.3g} {_or_nothing(price[side]['name'])}")
    now = f"Price of the machine's hour, {price['now']:g} {currency}"
    lines.append(
        f"{now}: {' and '.join(found)} would be picked."
        if found
        else f"{now}: a hundredth or a hundred times it would change nothing."
    )
    for limit in card["limits"]:
        moves = []
        if limit["tighter"]:
            sense = "above" if ">=" in limit["limit"] else "below"
            moves.append(f"{sense} {limit['tighter']['at']:.4g} {_or_nothing(limit['tighter']['name'])}")
        if limit["looser"]:
            moves.append(f"from {limit['looser']['at']:.4g} on {_or_nothing(limit['looser']['name'])}")
        if moves:
            head = limit["limit"] if limit["set"] else f"{limit['limit'].split()[0]}, without a limit now"
            lines.append(f"{head}: {', '.join(moves)} would be picked.")
        elif limit["set"]:
            lines.append(f"{limit['limit']}: no other value changes the pick.")
    if chosen["payback_requests"] is not None:
        days = f", {chosen['payback_days']:.3g} days of the traffic" if chosen["payback_days"] is not None else ""
        lines.append(
            f"What it took to make it, {money(chosen['cost_parts']['run'])} {currency}, is saved after "
            f"{chosen['payback_requests']:,.0f} requests{days}."
        )
    return lines


def conditions_line(choice: dict, what: str = "the checkpoint") -> str:
    """How it was measured: what the intervals cover, the control (of `what`), what else the machine did."""
    seen, (lo, hi) = choice["conditions"], choice["control"]["ratio_ci"]
    parts = [
        f"95 % intervals cover {seen['covers']}",
        f"control, {what} against itself: {choice['control']['ratio']:.2f} [{lo:.2f}, {hi:.2f}]",
    ]
    busy = max((cores for cores in seen["busy_before"] if cores is not None), default=None)
    if busy is not None:
        parts.append(f"other programs used up to {busy:.1f} cores before a sitting")
    if seen["steal_share"] is not None:
        parts.append(f"{100 * seen['steal_share']:.1f} % of the CPU time was stolen by other guests")
    return "; ".join(parts)


def _or_nothing(name: str | None) -> str:
    return name or "nothing"


def table_rows(choice: dict) -> Iterable[tuple[str, ...]]:
    """Cells of the terminal's table, cheapest first: candidate, metric, drop, p50, speed-up, MB, cost, note."""
    for entry in by_cost(choice):
        if entry["metric_validation"] is None:
            size = "" if entry["size_mb"] is None else f"{entry['size_mb']:.1f}"  # none where a step failed
            yield (entry["name"], "", "", "", "", size, "", entry["rejected_because"])
            continue
        yield (
            entry["name"],
            f"{entry['metric_validation']:.1f}",
            bounded(entry, choice),
            f"{entry['latency_ms']['p50']:.2f}",
            short_times(entry["speedup_vs_baseline"], entry["speedup_ci"], choice["noisy"]),
            f"{entry['size_mb']:.1f}",
            money(entry["cost_per_million"]),
            note(entry, choice),
        )


def by_cost(choice: dict) -> list[dict]:
    """All candidates, cheapest first; those without a cost last. Their places are their numbers in the report."""
    return sorted(choice["candidates"], key=lambda e: (e["cost_per_million"] is None, e["cost_per_million"] or 0.0))


def note(entry: dict, choice: dict) -> str:
    """Why a candidate was not selected, or that it was, and what INT8 did to it; empty when it was in the race."""
    chosen = "chosen" if entry["name"] == choice["chosen"]["name"] else None
    lost = "drop_validation" in entry and (entry["drop_validation"] or 0) > choice["rule"]["max_drop"]
    said = [chosen or entry.get("rejected_because"), entry.get("why_worse") if lost else None]
    return "; ".join(text for text in (*said, entry.get("int8_products"), entry.get("why_slower")) if text)


def learned(measurements: dict) -> list[dict]:
    """Each model that was trained: rows a second, seconds, and their share of the whole run."""
    found = {}
    for entry in measurements["candidates"]:
        for name, made in entry.get("made", {}).items():
            if "training_s" in made:
                share = made["training_s"] / max(measurements["compression_s"], 1e-9)
                found[name] = {"name": name, "rows_per_s": made["rows_per_s"], "s": made["training_s"], "share": share}
    return list(found.values())


def trimmed(measurements: dict) -> list[dict]:
    """Each vocabulary that was trimmed: which share of the tokens of validation, 0..1, it no longer gives."""
    made = {name: result for entry in measurements["candidates"] for name, result in entry.get("made", {}).items()}
    return [
        {"name": name, "changed": result["changed_tokens"]}
        for name, result in made.items()
        if "changed_tokens" in result
    ]


def promises(choice: dict) -> list[dict]:
    """Each timed cut: what its latency table promised and what was measured, in one runtime and precision."""
    return [{"name": e["name"], **e["promised_speedup"]} for e in choice["candidates"] if e.get("promised_speedup")]


def promise_kept(promise: dict) -> str:
    """What the 95 % interval of the measured speed-up says of the promised one."""
    lo, hi = (100 * (measured / promise["promised"] - 1) for measured in promise["measured_ci"])
    if lo > PROMISE or hi < -PROMISE:
        return f"missed (aim: within {PROMISE} %)"
    if lo >= -PROMISE and hi <= PROMISE:
        return f"within {PROMISE} %"
    return "the noise is too wide to tell"


def promise_line(promise: dict) -> str:
    """A timed cut in one sentence."""
    lo, hi = promise["measured_ci"]
    measured = (
        f"between {lo:.2f} and {hi:.2f}x" if promise["noisy"] else f"{promise['measured']:.2f}x [{lo:.2f}, {hi:.2f}]"
    )
    return (
        f"{promise['name']}: the latency table promised {promise['promised']:.2f}x of the unpruned model, measured "
        f"{measured}: {promise_kept(promise)}."
    )


def engines(measurements: dict) -> list[dict]:
    """Each TensorRT engine that was built, whether this machine could run it or not."""
    found = [(entry["name"], (entry.get("details") or {}).get("engine")) for entry in measurements["candidates"]]
    return [{"name": name, **engine} for name, engine in found if engine]


def int8_products(details: dict | None) -> str | None:
    """How many matrix products of an artefact were left in float; None where every one is INT8, or nothing was judged.

    Of a model with parts (a cascade, an encoder and a decoder), those of all parts together.
    """
    parts = [part for _, part in _int8_parts(details)]
    left = sum(len(part.get("left_in_float") or ()) for part in parts)
    total = sum(part.get("products", 0) for part in parts)
    return f"{left} of {total} matrix products in float" if left else None


def int8_lines(details: dict | None) -> list[str]:
    """What INT8 costs an artefact against its float model, on calibration rows that judge; one line for each part."""
    lines = []
    for name, part in _int8_parts(details):
        found = part["int8_cost"]
        now = "no number" if found["after"] is None else f"{found['after']:.2g}"
        error = "" if found["standard_error"] is None else f" ± {found['standard_error']:.1g}"
        cost = f"{now}{error} points of {found['measure']}"
        if found["unit"] != "points":
            cost = f"{found['measure']} {now}{' nats a row' * (found['unit'] == 'nats a row')}"
        line = f"{name}{': ' * bool(name)}INT8 costs {cost} on {found['rows']} rows"
        left = int8_products(part)
        lines.append(f"{line}, with {left} (all in INT8: {found['before'] or math.inf:.2g})" if left else line)
    return lines


def _int8_parts(details: dict | None, name: str = "") -> list[tuple[str, dict]]:
    """The details that say what INT8 costs, however deep: a cascade has those of its two models inside."""
    if not details:
        return []
    if "int8_cost" in details:
        return [(name, details)]
    inner = [(key, value) for key, value in details.items() if isinstance(value, dict)]
    return [part for key, value in inner for part in _int8_parts(value, key)]


def quality_table(choice: dict) -> dict:
    """Figures of quality beside the metric: titles, and (candidate, cells); without what the chosen one has none of."""
    columns = {title: cell for title, (key, cell) in QUALITY.items() if choice["chosen"].get(key) is not None}
    further = {name: f"{{beside_validation[{name}]:.1f}}" for name in choice["chosen"].get("beside_validation") or ()}
    columns = further | columns
    entries = [entry for entry in choice["candidates"] if entry["metric_validation"] is not None]
    return {
        "titles": list(columns),
        "rows": [(entry["name"], [cell.format(**entry) for cell in columns.values()]) for entry in entries],
    }
