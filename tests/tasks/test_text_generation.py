"""Texts that go on: what is said of each token, how it is judged, and how a text is continued."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import PROSE as TASK
from conftest import make_checkpoint, paredown, refused
from projects import Project, trained
from prose import rows, write_rows
from serving import client_of

from paredown.compress.config import Distill, DistillationTraining, Prune
from paredown.compress.data.dataset import read_rows
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import load, open_checkpoint, save
from paredown.compress.models.output_kinds import OutputKind, answers, kind_of
from paredown.compress.models.structure import keep_blocks
from paredown.compress.pruning.prune import prune
from paredown.compress.training.losses import ValidationLoss, supervised
from paredown.compress.types import TrainingData
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.causal_decoding import NEXT, Decoder, next_token
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import run_rows

KINDS = ("llama", "qwen2", "gpt2")


def test_each_token_is_judged_by_those_before_it(tmp_path: Path) -> None:
    """The arithmetic of numpy against torch's, on rows of two lengths."""
    model = load(make_checkpoint(tmp_path, "llama"), TASK)
    ids = [[2, 5, 11, 20, 3], [2, 6, 3]]
    found = run_rows(lambda batch: forward(model, batch), ids, 0, NEXT)
    assert found.shape == (8, 2)
    nats = []
    for row in ids:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([row])).logits[0]
        nats.append(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(row[1:]), reduction="none"))
        np.testing.assert_array_equal(found[len(found) - 3 :, 1] if len(row) == 3 else found[:5, 1], logits.argmax(-1))
    want = torch.cat(nats)
    np.testing.assert_allclose(np.delete(found[:, 0], [4, 7]), -want.numpy(), rtol=1e-5)
    assert (found[[4, 7], 0] == 0).all()  # nothing comes after the last
    gold = [np.array(row) for row in ids]
    assert TASK.further_metrics(found, gold)["perplexity"] == pytest.approx(float(want.mean().exp()), rel=1e-5)
    points = TASK.correct(found, gold)
    assert points[:, 1].tolist() == [4, 2]
    assert ValidationLoss(ids, gold)(model) == pytest.approx(float(want.mean()), rel=1e-5)


def test_what_is_likeliest_and_right() -> None:
    logits = np.zeros((2, 3, 5), dtype=np.float32)
    logits[0, 0, 4] = logits[0, 1, 1] = 9
    ids, mask = np.array([[2, 4, 3], [2, 3, 0]]), np.array([[1, 1, 1], [1, 1, 0]])
    found = next_token(logits, ids, mask)
    assert found[0, :, 1].tolist() == [4, 1, 0]
    assert found[0, 0, 0] == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(found[1, :, 0], [-np.log(5), 0, 0], rtol=1e-6)
    lines = np.concatenate([found[0], found[1, :2]])
    assert TASK.correct(lines, [np.array([2, 4, 3]), np.array([2, 3])]).tolist() == [[1, 2], [0, 1]]
    other = lines.copy()
    other[[2, 4], 1] = 3  # after the last token of a row
    assert TASK.same_answers(lines, other, [3, 2]).all()
    other[0, 1] = 0
    assert TASK.same_answers(lines, other, [3, 2]).tolist() == [False, True, True]


def test_a_loss_is_over_pairs_of_neighbours() -> None:
    logits, mask = torch.randn(2, 4, 7), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    labels = torch.tensor([[1, 2, 3, 4], [5, 6, -100, -100]])
    lines = answers(logits, mask, OutputKind.CAUSAL_LM)
    assert lines.shape == (4, 7)
    want = torch.nn.functional.cross_entropy(lines, torch.tensor([2, 3, 4, 6]))
    torch.testing.assert_close(
        supervised(logits, {"labels": labels, "attention_mask": mask}, OutputKind.CAUSAL_LM), want
    )


def test_a_prompt_that_is_too_long_loses_its_beginning(tmp_path: Path) -> None:
    encoder = make_checkpoint(tmp_path, "llama").encoder(6)
    text = "the good film was quite dull and a bad plot"
    assert encoder.prompts([text]) == [[2, *encoder.ids(["and a bad plot"])[0][1:]]]
    assert encoder.prompts([text], 4) == [[2, *encoder.ids(["bad plot"])[0][1:]]]
    assert encoder.ids([text])[0][1:-1] == encoder.ids(["the good film was"])[0][1:-1]  # a row loses its end


def test_nothing_comes_after_an_end() -> None:
    """A graph that counts: the likeliest token is the next number. One row ends before the other."""
    about = {"layers": 1, "heads": 1, "head_size": 1, "ends": [9], "positions": 16, "max_new_tokens": 5}
    calls = []

    def counting(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        ids, past = batch["input_ids"], batch["past_key_values.0.key"].shape[2]
        calls.append((ids.shape, batch["attention_mask"].shape, past))
        longer = np.zeros((len(ids), 1, past + ids.shape[1], 1), dtype=np.float32)
        logits = np.eye(10, dtype=np.float32)[(ids + 1) % 10]
        return {"logits": logits, "present.0.key": longer, "present.0.value": longer}

    decoder = Decoder(counting, about)
    found = decoder.continued([[2, 3, 4], [7, 9], []])
    assert found.tolist() == [[5, 6, 7, 8, -1], [8, -1, -1, -1, -1], [0, 1, 2, 3, 4]]
    assert calls[:2] == [((3, 3), (3, 3), 0), ((3, 1), (3, 4), 3)]
    assert len(calls) == 5
    assert decoder.continued([[2]], most=2).tolist() == [[3, 4, -1, -1, -1]]
    assert decoder.room == 11


def test_a_continuation_keeps_the_blank_before_it(tmp_path: Path) -> None:
    encoder = make_checkpoint(tmp_path, "llama").encoder(32)
    words = encoder.tokenizer.token_to_id
    outputs = np.array([[words("film"), words("was"), -1, -1], [-1, -1, -1, -1]])
    found = TASK.decode(outputs, (), ["the good", "a plot"], encoder)
    assert found == [{"text": " film was"}, {"text": ""}]


def test_rows_are_read_without_labels(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ["a film", "a plot"])
    assert read_rows(TASK, str(path)).labels is None
    path.write_text(json.dumps({"text": "a film", "label": "x"}) + "\n")
    assert read_rows(TASK, str(path), names=("log_probability", "likeliest")).texts == ("a film",)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_that_are_left_out_leave_a_whole_cache(kind: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "whole", kind)
    model = load(source, TASK)
    assert kind_of(model) is OutputKind.CAUSAL_LM
    keep_blocks(model, [0, 2])
    ids = torch.tensor([[2, 5, 11, 20]])
    with torch.inference_mode():
        want = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :2], use_cache=True)
        then = model(input_ids=ids[:, 2:], past_key_values=first.past_key_values).logits
        again = load(save(model, source, tmp_path / "two"), TASK)(input_ids=ids).logits
    torch.testing.assert_close(then, want[:, 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(again, want, atol=1e-6, rtol=0)
    assert open_checkpoint(tmp_path / "two", TASK).depth == 2


def test_a_cut_decoder_keeps_its_tied_embeddings(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "whole", "llama")
    model, encoder = load(source, TASK), source.encoder(32)
    batches = [encoder.pad(encoder.ids(rows(16, 0)))]
    prune(model, batches, Prune(ffn=0.5, layers=2, multiple=8))
    saved = save(model, source, tmp_path / "cut")
    assert (tmp_path / "cut" / "structure.json").exists()
    again = load(saved, TASK)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    once = sum(p.numel() for p in model.parameters())  # the shared one counts once
    assert saved.weights[0].stat().st_size < 4 * once + 10_000


def test_what_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    batch = {name: np.ones((2, 6), dtype=np.int64) for name in ("input_ids", "attention_mask")}
    model = load(make_checkpoint(tmp_path, "gpt2"), TASK)
    with pytest.raises(InputError, match="head pruning is not supported for 'gpt2'"):
        prune(model, [batch], Prune(heads=0.5))


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_groups_of_heads_are_pruned_and_exported_with_parity(kind: str, even: bool, tmp_path: Path) -> None:
    """The cache has the head count that is left; ONNX Runtime writes what `generate` of plain transformers does."""
    source = make_checkpoint(tmp_path / "whole", kind)
    model, encoder = load(source, TASK), source.encoder(32)
    with torch.no_grad():  # untrained, it says nearly the same of every token
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.ndim > 1 else 1)
    ids = encoder.ids(rows(16, 0))
    prune(model, [encoder.pad(ids)], Prune(heads=0.5, ffn=0.5, layers=2, multiple=8, even=even))
    saved = save(model, source, tmp_path / "pruned")
    assert (saved.path / "structure.json").exists() != even
    assert [saved.generation[key] for key in ("layers", "heads", "head_size")] == [2, 1, 8]
    plain = plain_onnx(saved, TASK, tmp_path / "plain.onnx")
    session = open_artifact(RUNTIMES["onnxruntime"].export(ExportJob(plain, saved, TASK, tmp_path / "onnx", 32)), 1)
    assert isinstance(session, Decoder)
    want = run_rows(lambda batch: forward(model, batch), ids, 0, NEXT)  # of the real tokens
    np.testing.assert_allclose(run_rows(session, ids, 0, NEXT), want, atol=1e-4)
    judge = transformers.AutoModelForCausalLM.from_pretrained(saved.path).eval() if even else load(saved, TASK)
    prompts = [[2, 5, 11], [2, 6, 7, 8, 9], [2]]
    for prompt, new in zip(prompts, session.continued(prompts, 6), strict=True):
        with torch.inference_mode():
            wrote = judge.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)[0, len(prompt) :]
        assert new[new >= 0].tolist() == [token for token in wrote.tolist() if token != 3]


@pytest.mark.parametrize("even", [True, False])
def test_the_ffn_of_gpt2_is_pruned_and_exported_with_parity(even: bool, tmp_path: Path) -> None:
    """Its layers are Conv1D, with a transposed matrix, before and after."""
    source = make_checkpoint(tmp_path / "whole", "gpt2")
    model, encoder = load(source, TASK), source.encoder(32)
    batches = [encoder.pad(encoder.ids(rows(16, 0)))]
    found = prune(model, batches, Prune(ffn=0.5, multiple=8, even=even))
    assert sum(ffn for _, ffn in found.layers) == pytest.approx(96, abs=0 if even else 16)
    assert {type(part).__name__ for part in model.base_model.h.modules()}.isdisjoint({"Linear"})
    saved = save(model, source, tmp_path / "pruned")
    assert (saved.path / "structure.json").exists() != even
    assert saved.config["n_inner"] == (32 if even else 64)
    again = load(saved, TASK)
    want = forward(model, batches[0])
    assert all((forward(again, batches[0])[name] == want[name]).all() for name in want)
    plain = plain_onnx(saved, TASK, tmp_path / "plain.onnx")
    made = RUNTIMES["onnxruntime"].export(ExportJob(plain, saved, TASK, tmp_path / "onnx", 32))
    np.testing.assert_allclose(open_artifact(made, 1)(batches[0])[NEXT], want[NEXT], atol=1e-4)


def test_a_student_learns_what_its_teacher_says_in_every_step(tmp_path: Path) -> None:
    from paredown.compress.distillation.distill import student_of, train_student

    source = make_checkpoint(tmp_path, "gpt2")
    teacher, ids = load(source, TASK), source.encoder(32).ids(rows(32, 0))
    with torch.no_grad():  # untrained, it says nearly the same of every token
        for parameter in teacher.parameters():
            parameter.mul_(5 if parameter.ndim > 1 else 1)
    student = student_of(teacher, Distill(layers=2), ids)
    far = _distance(student, teacher, ids)
    train_student(
        student,
        teacher,
        TrainingData(ids),
        DistillationTraining(epochs=8, batch_size=8, learning_rate=3e-3, freeze_embeddings=False),
        seed=0,
    )
    assert _distance(student, teacher, ids) < 0.7 * far


def _distance(student, teacher, ids: list[list[int]]) -> float:
    with torch.inference_mode():
        pairs = [[m(input_ids=torch.tensor([row])).logits.log_softmax(-1) for m in (student, teacher)] for row in ids]
    return float(sum((theirs.exp() * (theirs - ours)).sum() for ours, theirs in pairs))


# From a recipe to its bundle

RECIPE = """
name: writer
task: text-generation
checkpoint: ./teacher
data: {train: ./train.jsonl, validation: ./validation.jsonl, test: ./test.jsonl, unlabeled: ./more.jsonl}
max_length: 32
max_new_tokens: 12
models:
  - name: cut
    steps:
      - prune:
          layers: 2
          ffn: 0.7
          multiple: 8
          recover: {epochs: 2, learning_rate: 0.003, label_weight: 0.5, patience: 3}
  - name: one-layer
    steps:
      - distill: {layers: 1, epochs: 1}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int4-weight}
  - {runtime: openvino, precision: int8-weight}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 20, batch_size: 4}
choose: {max_drop: 20}
"""


def data(path: Path) -> None:
    for seed, (name, count) in enumerate({"train": 240, "validation": 80, "test": 80, "more": 40}.items()):
        write_rows(path / f"{name}.jsonl", rows(count, seed))


def train_teacher(path: Path) -> None:
    source = make_checkpoint(path / "untrained", "llama")
    trained(source, TASK, path / "train.jsonl", path / "teacher", epochs=4, batch_size=16, learning_rate=5e-3)


PROJECT = Project(RECIPE, data, train_teacher)


@pytest.mark.slow
def test_the_run_judges_the_next_token(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert choice["baseline"]["metric_validation"] > 75  # nobody knows the first word, nor where a text ends
    assert {entry["metric"] for entry in choice["candidates"]} == {"next-token accuracy"}
    assert all(1 < entry["beside_validation"]["perplexity"] < 15 for entry in choice["candidates"])
    assert choice["chosen"]["beside_test"]["perplexity"] > 1
    assert choice["chosen"]["new_tokens_per_s"] > 0
    assert {entry["precision"] for entry in choice["candidates"]} == {"fp32", "int4-weight", "int8-weight"}
    sizes = {entry["name"]: entry["size_mb"] for entry in choice["candidates"]}
    assert sizes["teacher/onnxruntime/int4-weight"] < sizes["teacher/onnxruntime/fp32"]
    assert "perplexity" in (ran / "run" / "report.html").read_text()


@pytest.mark.slow
def test_the_bundle_goes_on(ran: Path) -> None:
    bundle = ran / "run" / "bundle"
    done = paredown("predict", bundle, "--text", "the good film")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"].startswith(" was quite dull and a bad plot")
    done = paredown("verify", bundle, "--data", ran / "test.jsonl")
    assert done.returncode == 0, done.stderr
    assert "80 rows" in done.stdout
    alone = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    assert json.loads((bundle / "manifest.json").read_text())["generation"]["max_new_tokens"] == 12
    quick = ["--min-seconds", 0.05, "--min-repeats", 5, "--processes", 2, "--rounds", 2, "--json", ran / "bench.json"]
    done = paredown("bench", bundle, "--data", ran / "test.jsonl", "--task", TASK.name, *quick)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((ran / "bench.json").read_text())["artifacts"]
    assert entry["metric"] == pytest.approx(json.loads((bundle / "choice.json").read_text())["chosen"]["metric_test"])
    refused(paredown("pack", bundle, "--layout", "triton", "--output-dir", ran / "triton"), "token by token")


@pytest.mark.slow
def test_what_was_scored_is_what_the_bundle_holds(ran: Path, tmp_path: Path) -> None:
    """Weights in 4 bits are scored as the artefact that is shipped computes them."""
    run = shutil.copytree(ran / "run", tmp_path / "run")
    done = paredown("choose", run, "--candidate", "teacher/onnxruntime/int4-weight")
    assert done.returncode == 0, done.stderr
    chosen = json.loads((run / "choice.json").read_text())["chosen"]
    assert chosen["precision"] == "int4-weight"
    for split in ("validation", "test"):
        done = paredown("verify", run, "--data", ran / f"{split}.jsonl")
        assert done.returncode == 0, done.stderr
        assert f"{split}.jsonl: {chosen[f'metric_{split}']:.2f} (80 rows)" in done.stdout


@pytest.mark.slow
def test_it_is_served(ran: Path, tmp_path: Path) -> None:
    texts = ["the good film", "very fine", "a"]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [3], "data": texts}
    file = tmp_path / "samples.jsonl"
    with client_of(bundle=ran / "run" / "bundle", sample_file=file, sample_share=1) as (client, _, _):
        found = client.post("/predict", json={"text": texts}).json()["predictions"]
        assert found[0]["text"].startswith(" was quite dull")
        assert found[1]["text"].startswith(" with sharp the good")
        assert client.post("/predict", json={"text": texts[0]}).json()["text"] == found[0]["text"]
        reply = client.post("/v2/models/writer/infer", json={"inputs": [tensor]}).json()
        assert reply["outputs"] == [
            {"name": "text", "datatype": "BYTES", "shape": [3], "data": [answer["text"] for answer in found]}
        ]
        about = client.get("/v2/models/writer").json()
        assert [entry["name"] for entry in (*about["inputs"], *about["outputs"])] == ["text", "text"]
        ids = [{"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [2, 3]}]
        reply = client.post("/v2/models/writer/infer", json={"inputs": ids})
        assert reply.status_code == 400
        assert "is expected by text-generation" in reply.json()["error"]
    assert len(read_rows(TASK, str(file), labelled=None).texts) == 7  # as unlabelled rows


@pytest.mark.slow
def test_stages_alone(home: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", home / "train.jsonl", "--validation", home / "validation.jsonl"]
    done = paredown(
        "finetune", home / "teacher", *data, "--peft", "lora", "--epochs", 1, "--output-dir", tmp_path / "t"
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("accuracy ")[1].split()[0]) > 75
    even = ["--even", "--heads", 0.5, "--ffn", 0.5, "--output-dir", tmp_path / "even"]
    done = paredown("prune", home / "teacher", *data, *even)
    assert done.returncode == 0, done.stderr
    plain, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "even", output_loading_info=True)
    assert plain.config.intermediate_size == 32
    assert (plain.config.num_attention_heads, plain.config.num_key_value_heads, plain.config.head_dim) == (2, 1, 8)
    assert not report["missing_keys"]
    student = ["--layers", 1, "--epochs", 1, "--patience", 2, "--output-dir", tmp_path / "one"]
    done = paredown("distill", home / "teacher", *data, *student)
    assert done.returncode == 0, done.stderr
    onnx = ["--task", TASK.name, "--precision", "int8-weight", "--max-new-tokens", 4, "--train", home / "train.jsonl"]
    done = paredown("export", tmp_path / "one", *onnx, "--output-dir", tmp_path / "onnx")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "onnx" / "artifact.json").read_text())["generation"]["max_new_tokens"] == 4


def test_what_makes_no_sense_is_refused(home: Path, tmp_path: Path) -> None:
    out, task = ["--output-dir", tmp_path / "x"], ["--task", TASK.name]
    train = [*task, "--train", home / "train.jsonl"]
    refused(paredown("trim", home / "teacher", *train, *out), "the vocabulary stays")
    refused(paredown("augment", *train, "--output", tmp_path / "a.jsonl"), "augment is not supported")
    static = paredown("distill", home / "teacher", *train, "--static", *out)
    refused(static, "a static student is not supported")
    weights = paredown("finetune", home / "teacher", *train, "--class-weights", "balanced", *out)
    assert weights.returncode == 2
    refused(paredown("quantize", home / "teacher", *task, *out), "int8-dynamic: for text-generation")
    refused(paredown("export", home / "teacher", *task, "--lengths", "16,32", *out), "--lengths")
    assert open_checkpoint(home / "teacher").labels == ("log_probability", "likeliest")
    for line in ("lengths: [16]", "search: {minutes: 1}", "teachers: [./untrained]", "explain_rows: 2"):
        recipe = home / "wrong.yaml"
        recipe.write_text(f"{RECIPE}\n{line}\n")
        refused(paredown("run", recipe, "--dry-run"), line.partition(":")[0])
