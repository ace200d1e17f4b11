"""The model card of a bundle: README.md in the Hub's layout."""

from __future__ import annotations


def model_card(manifest: dict, choice: dict) -> str:
    """Markdown with a YAML head; every figure comes from choice.json."""
    chosen, baseline = choice["chosen"], choice["baseline"]
    metric = chosen["metric"]
    test = "not measured" if chosen["metric_test"] is None else f"{chosen['metric_test']:.2f}"
    drop_test = "" if chosen["drop_test"] is None else f" ({-chosen['drop_test']:+.2f} points against the checkpoint)"
    latency = chosen["latency_ms"]
    return f"""---
library_name: {manifest["runtime"]}
pipeline_tag: {manifest["task"]}
tags: [paredown, {manifest["precision"]}]
---

# {manifest["name"]}

{manifest["task"]}, labels: {", ".join(manifest["labels"])}. Made by paredown {manifest["tool"]["paredown"]} from a
fine-tuned checkpoint as candidate `{chosen["name"]}` ({manifest["runtime"]}, {manifest["precision"]}).

| | this model | the checkpoint, PyTorch fp32 |
| --- | --- | --- |
| {metric}, test | {test}{drop_test} | {_number(baseline["metric_test"])} |
| {metric}, validation | {chosen["metric_validation"]:.2f} | {baseline["metric_validation"]:.2f} |
| p50 / p95 / p99, one row | {latency["p50"]:.2f} / {latency["p95"]:.2f} / {latency["p99"]:.2f} ms | \
{baseline["latency_ms"]["p50"]:.2f} / {baseline["latency_ms"]["p95"]:.2f} / {baseline["latency_ms"]["p99"]:.2f} ms |
| size | {chosen["size_mb"]:.1f} MB | {baseline["size_mb"]:.1f} MB |

Drop on validation: {chosen["drop_validation"]:.2f} points, at most {chosen["drop_upper_95"]:.2f} (one-sided 95 %).
Measured on {manifest["packed_on"]["cpu"]}, {manifest["packed_on"]["cores"]} cores; `report.html` has the rest.

## Use

    pip install -r requirements.txt
    python selftest.py                                  # files whole, machine able, outputs as packed
    paredown predict . --text "..."                     # pip install paredown, with the runtime above

Inputs are cut at {manifest["max_length"]} tokens. Inputs unlike the training data were not tested.
"""


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"
