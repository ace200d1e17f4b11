"""Every registered task from fine-tuning to a served bundle, each in seconds: no task is without a test in CI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import paredown
from examples import EXAMPLES
from serving import client_of

from paredown.pipeline import explorer, trials
from paredown.pipeline.job import prepare
from paredown.pipeline.recipe.loader import read_recipe
from paredown.pipeline.run import run_search
from paredown.pipeline.search import found_models, with_models
from paredown.pipeline.store import Store
from paredown.runtime import Model
from paredown.tasks.base import Feature
from paredown.tasks.registry import TASKS

pytestmark = pytest.mark.usefixtures("same_process")
RECIPE = """
name: tiny
task: {task}
checkpoint: ./teacher
data: {{train: ./train.jsonl, validation: ./validation.jsonl, test: ./test.jsonl}}
max_length: 32
calibration_rows: 4
robustness_rows: 4
models:
  - name: one-layer
    steps: [{{distill: {{layers: 1, epochs: 4, hidden_weight: 0}}}}]
targets: [{{runtime: onnxruntime}}]
latency: {{threads: 1, processes: 2, rounds: 2, min_seconds: 0.02, min_repeats: 8, batch_size: 2}}
choose: {{max_drop: 100, confidence: 0}}
{more}
"""
QUICK = ("--epochs", 6, "--batch-size", 8, "--learning-rate", 3e-3, "--no-freeze-embeddings", "--max-length", 32)
# DESIGN, "Command line": what is read from outside
OF_RUN = {"chosen", "baseline", "rule", "candidates"}
OF_CANDIDATE = {
    "name", "runtime", "precision", "metric", "metric_validation", "metric_test", "drop_validation", "drop_test",
    "drop_upper_95", "certificate", "latency_ms", "speedup_vs_baseline", "speedup_ci", "speedup_vs_plain_int8",
    "throughput_per_s", "serving", "size_mb", "cost_per_million",
}  # fmt: skip


def done(*command: object, cwd: Path) -> str:
    """What a command prints; it has to succeed."""
    result = paredown(*command, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", list(TASKS))
def test_from_finetune_to_serve(name: str, tmp_path: Path) -> None:
    assert name in EXAMPLES, f"tests/examples.py has no entry for the task {name}"
    task, example = TASKS[name], EXAMPLES[name]
    example.files(tmp_path)
    example.checkpoint(tmp_path / "base")
    data = ("--task", name, "--train", "train.jsonl", "--validation", "validation.jsonl")
    done("finetune", "base", *data, *QUICK, "--output-dir", "teacher", cwd=tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(task=name, more=example.recipe))
    done("run", "recipe.yaml", "--output-dir", "run", cwd=tmp_path)

    choice = json.loads((tmp_path / "run" / "choice.json").read_text())
    chosen = choice["chosen"]
    assert choice.keys() >= OF_RUN
    for entry in choice["candidates"]:
        if entry["latency_ms"] is None:  # an untrained model may not survive INT8
            assert entry["rejected_because"]
            continue
        assert OF_CANDIDATE - entry.keys() == set(), entry["name"]
    assert (chosen["metric"], chosen["runtime"]) == (example.metric or task.metric_name, "onnxruntime")
    assert chosen["certificate"]["rows"] == 24
    assert all(entry["rejected_because"] for entry in choice["candidates"] if entry["runtime"] == "pytorch")
    assert (choice["baseline"]["runtime"], choice["baseline"]["drop_validation"]) == ("pytorch", 0)

    bundle = tmp_path / "run" / "bundle"
    alone = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True, check=False)
    assert alone.stdout.startswith("OK: tiny"), alone.stderr
    said = done("verify", bundle, "--data", "test.jsonl", cwd=tmp_path)
    assert f"{chosen['metric_test']:.2f} (24 rows)" in said  # what was measured is what is shipped

    request = example.request(tmp_path)
    options = [word for column, text in request.items() for word in (f"--{column.replace('_', '-')}", text)]
    answer = json.loads(done("predict", bundle, *options, cwd=tmp_path))
    with client_of(bundle=bundle) as (client, _, _):
        body = example.request(tmp_path, served=True)
        reply = client.post("/predict", json=body)
        assert reply.status_code == 200, reply.text
        served = reply.json()
    code = "import json, sys; from paredown_bundle import Model; print(json.dumps(Model('.')(*sys.argv[1:])))"
    command = [sys.executable, "-c", code, *map(str, body.values())]
    own = json.loads(subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=True).stdout)
    assert set(example.said) <= own.keys() <= answer.keys()
    if task.reads_pairs:
        with pytest.raises(ValueError, match="needs a second text"):
            Model(bundle)("alone")
    for field in example.said:
        assert served[field] == pytest.approx(answer[field], abs=1e-4), field
        assert own[field] == pytest.approx(answer[field], abs=1e-4), field
    assert done("verify", bundle, cwd=tmp_path)  # nothing was written into it


def test_every_example_is_of_a_task() -> None:
    assert EXAMPLES.keys() <= TASKS.keys()


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.supports(Feature.SEARCH)])
def test_a_search_finds_models(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "PRUNING_S", 1.0)
    monkeypatch.setattr(trials, "PRUNING_COST", 0)
    monkeypatch.setattr(explorer, "WINDOWS", (4, 8))  # tokens; the rows have 4 to 16
    EXAMPLES[name].files(tmp_path)
    EXAMPLES[name].checkpoint(tmp_path / "base")
    data = ("--task", name, "--train", "train.jsonl", "--validation", "validation.jsonl")
    done("finetune", "base", *data, *QUICK, "--output-dir", "teacher", cwd=tmp_path)
    text = RECIPE.format(task=name, more=f"search: {{minutes: 0.3}}\n{EXAMPLES[name].recipe}")
    (tmp_path / "recipe.yaml").write_text(text.replace("fp32", "int8-dynamic"))
    job = prepare(read_recipe(tmp_path / "recipe.yaml"))
    assert job.recipe.search is not None
    found = run_search(job, job.recipe.search, Store(tmp_path / "found"))
    assert not found.failed
    (search,) = found.done.values()
    assert search.result["trials"] >= 1, search.result
    assert with_models(job, found_models(search)).recipe.models
