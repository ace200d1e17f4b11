"""A choice in words: sentences and cells that the report, the terminal and a pull request share."""

from __future__ import annotations

import math
from collections.abc import Iterable

PROMISE = 15  # per cent that a measured speed-up may be off the promised one
# Titles of the table of quality: the figure that must be there, and the cell.
QUALITY = {
    "macro F1": ("macro_f1", "{macro_f1:.1f}"),
    "loss (95 % at most)": ("macro_f1_drop", "{macro_f1_drop:+.1f} ({macro_f1_drop_upper_95:.1f})"),
    "calibration error": ("calibration_error", "{calibration_error:.1f}"),
    "wrong now, right before": ("negative_flips", "{negative_flips} ({negative_flip_share:.1f} %)"),
    "words as the teacher's (rho)": ("attribution_agreement", "{attribution_agreement:.2f}"),
    "typos: loss (at most)": ("typos_drop", "{typos_drop:+.1f} ({typos_drop_upper_95:.1f})"),
    "capitals: loss (at most)": ("case_drop", "{case_drop:+.1f} ({case_drop_upper_95:.1f})"),
    "twice as long: loss (at most)": ("length_drop", "{length_drop:+.1f} ({length_drop_upper_95:.1f})"),
    "worst label, loss (at most)": ("label_drop", "{label_drop:+.1f} ({label_drop_upper_95:.1f})"),
    "worst group, loss (at most)": ("group_drop", "{group_drop:+.1f} ({group_drop_upper_95:.1f})"),
}


def money(value: float) -> str:
    """Three digits that say something, and two behind the point at least."""
    return f"{value:.{max(2, 2 - math.floor(math.log10(value))) if value > 0 else 2}f}"


def sentence(choice: dict, measurements: dict) -> str:
    """The pick in one sentence, in plain words."""
    chosen, base = choice["chosen"], choice["baseline"]
    drop = chosen["drop_validation"]
    change = "with the same" if drop == 0 else f"{abs(drop):.1f} points {'less' if drop > 0 else 'more'}"
    saved = 100 * (1 - chosen["cost_per_million"] / base["cost_per_million"])
    money = f"{saved:.0f} % less" if saved >= 0 else f"{-saved:.0f} % more"
    mean = chosen["speedup_mean"]
    uneven = not 0.8 < mean / chosen["speedup_vs_baseline"] < 1.25  # a cascade: some rows are far quicker than others
    return (
        f"{chosen['name']} answers {chosen['speedup_vs_baseline']:.1f} times as fast as the checkpoint in PyTorch"
        f"{f' (median; {mean:.1f} times in the mean)' if uneven else ''}, "
        f"{change} {chosen['metric']} on validation, {chosen['size_mb']:.0f} MB instead of {base['size_mb']:.0f}, "
        f"and costs {money} per million requests."
    )


def control_warning(choice: dict, what: str = "the checkpoint") -> str | None:
    """A line when the A/A control, of `what`, does not contain 1: the machine was too noisy for small differences."""
    ratio, (lo, hi) = choice["control"]["ratio"], choice["control"]["ratio_ci"]
    if lo <= 1 <= hi:
        return None
    return (
        f"The machine was noisy: {what} timed against itself gave {ratio:.2f} [{lo:.2f}, {hi:.2f}], "
        f"and 1 is not inside, after {choice['conditions']['processes']} processes of each (asked for: "
        f"{choice['conditions']['processes_asked']}). Differences of that size mean nothing: use a quieter machine, or "
        "raise min_seconds."
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
    """How it was measured: processes, the control (of `what`), what other guests of the machine took."""
    seen, (lo, hi) = choice["conditions"], choice["control"]["ratio_ci"]
    parts = [
        f"{seen['processes']} fresh processes of each in {seen['seconds']:.0f} s",
        f"control, {what} against itself: {choice['control']['ratio']:.2f} [{lo:.2f}, {hi:.2f}]",
    ]
    if seen["processes"] > seen["processes_asked"]:
        parts[0] += f" ({seen['processes_asked']} were asked for: the control did not contain 1)"
    if seen["steal_share"] is not None:
        parts.append(f"{100 * seen['steal_share']:.1f} % of the CPU time was stolen by other guests")
    if seen["load_before"] is not None:
        parts.append(f"load average before: {seen['load_before']:.1f}")
    return "; ".join(parts)


def _or_nothing(name: str | None) -> str:
    return name or "nothing"


def table_rows(choice: dict) -> Iterable[tuple[str, ...]]:
    """Cells of the terminal's table, cheapest first: candidate, metric, drop, p50, speed-up, MB, cost, note."""
    for entry in by_cost(choice):
        if entry["metric_validation"] is None:
            yield (entry["name"], "", "", "", "", f"{entry['size_mb']:.1f}", "", entry["rejected_because"])
            continue
        yield (
            entry["name"],
            f"{entry['metric_validation']:.1f}",
            f"{entry['drop_validation']:+.1f} (< {entry['drop_upper_95']:.1f})",
            f"{entry['latency_ms']['p50']:.2f}",
            f"{entry['speedup_vs_baseline']:.1f}x",
            f"{entry['size_mb']:.1f}",
            money(entry["cost_per_million"]),
            "chosen" if entry["name"] == choice["chosen"]["name"] else note(entry, choice),
        )


def by_cost(choice: dict) -> list[dict]:
    """All candidates, cheapest first; those without a cost last. Their places are their numbers in the report."""
    return sorted(choice["candidates"], key=lambda e: (e["cost_per_million"] is None, e["cost_per_million"] or 0.0))


def note(entry: dict, choice: dict) -> str:
    """Why a candidate was not in question: what broke a budget, or the rule's own limit; empty when it was."""
    if "rejected_because" in entry:
        return entry["rejected_because"]
    rule, notes = choice["rule"], []
    if rule["rule"] == "cheapest" and entry["drop_validation"] > rule["max_drop"]:
        notes.append(f"loses more than {rule['max_drop']:g} points")
        if entry.get("why_worse"):
            notes.append(entry["why_worse"])
    if entry.get("why_slower"):
        notes.append(entry["why_slower"])
    return "; ".join(notes)


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
    return (
        f"{promise['name']}: the latency table promised {promise['promised']:.2f}x of the uncut model, measured "
        f"{promise['measured']:.2f}x [{lo:.2f}, {hi:.2f}]: {promise_kept(promise)}."
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
