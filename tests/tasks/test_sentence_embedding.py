"""Vectors of texts: pairs as rows, the two metrics, the losses, and how an encoder's tokens become one vector."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import TASK as CLASSES
from conftest import drawn_apart, make_checkpoint, paredown, refused
from examples import POOLING, sentence_transformer
from examples import passages as rows
from projects import Project, finetuned, write_splits
from scipy.stats import spearmanr
from serving import client_of

from paredown.compress.data.dataset import read_rows, require_two_classes
from paredown.compress.models.architectures import FAMILIES
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.models.output_kinds import OutputKind, answers, divergence
from paredown.compress.models.structure import cut, structure_of
from paredown.compress.training.losses import SCALE, ValidationLoss, pair_loss
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import run_rows
from paredown.tasks.perturbations import typos
from paredown.tasks.registry import TASKS
from paredown.tasks.scores import points
from paredown.tasks.sentence_embedding import MRR, SPEARMAN, Pairs, agreement, pairs, right, spearman

TASK = TASKS["sentence-embedding"]
TEXTS = [kind for kind in FAMILIES if kind != "vit" and not FAMILIES[kind].decoder]


def preprocessor_of(kind: str, path: Path) -> Checkpoint:
    """An untrained encoder without a head, saved as any other library would."""
    made = make_checkpoint(path / "headed", kind, layers=2)
    out = path / "encoder"
    torch.manual_seed(1)
    transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(made.path)).save_pretrained(out)
    shutil.copyfile(made.path / "tokenizer.json", out / "tokenizer.json")
    return open_checkpoint(out, TASK)


@pytest.fixture
def plain(tmp_path: Path) -> Checkpoint:
    return preprocessor_of("bert", tmp_path)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_pair_is_two_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "sentence1,sentence2,score,kind\ngood,fine,0.9,x\nbad,dull,0.2,y\na,b,0.5,x\n")
    rows = read_rows(TASK, file, group="kind")
    assert rows.texts == ("good", "fine", "bad", "dull", "a", "b")
    np.testing.assert_array_equal(rows.gold, [0.9, np.nan, 0.2, np.nan, 0.5, np.nan])
    assert rows.groups == ("x", "x", "y", "y", "x", "x")
    assert rows.begins.tolist() == [0, 2, 4]
    some = rows.sample(4)
    assert len(some) == 4
    together = {("good", "fine"), ("bad", "dull"), ("a", "b")}
    assert set(zip(some.texts[::2], some.texts[1::2], strict=True)) < together
    assert TASK.for_rows(rows).metric_name == SPEARMAN
    assert read_rows(TASK, file, labelled=False).labels is None


def test_pairs_without_a_number_and_single_texts(tmp_path: Path) -> None:
    asked = write(tmp_path / "b.csv", "query,passage\nwho,an actor\nwhat,a plot\n")
    rows = read_rows(TASK, asked, labelled=None)
    assert TASK.for_rows(rows).metric_name == MRR
    assert pairs(rows).numbers is None
    alone = write(tmp_path / "c.csv", "text,kind\ngood,x\nbad,y\n")
    single = read_rows(TASK, alone)
    assert np.isnan(single.gold).all()
    assert len(single.sample(1)) == 1
    assert read_rows(TASK, alone, labelled=None).labels is None
    require_two_classes(single, ())
    with pytest.raises(InputError, match=r"c.csv: pairs of texts are needed"):
        TASK.for_rows(single)
    named = read_rows(TASK, write(tmp_path / "d.csv", "one,two\ngood,fine\nbad,dull\n"), text="two,one")
    assert named.texts == ("fine", "good", "dull", "bad")
    with pytest.raises(InputError, match="its pairs have none"):
        TASK.for_rows(read_rows(TASK, write(tmp_path / "e.csv", "text,text_pair,score\na,b,1\n")), rows)
    with pytest.raises(InputError, match="the same second text"):
        require_two_classes(read_rows(TASK, write(tmp_path / "f.csv", "query,passage\na,b\nc,b\n")), ())
    with pytest.raises(InputError, match=r"g.csv, line 2.*a number is expected"):
        read_rows(TASK, write(tmp_path / "g.csv", "text,text_pair,score\na,b,same\n"))


def test_the_mean_of_the_rows_is_spearmans_correlation() -> None:
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(80, 8)).astype(np.float32)
    outputs[8:12] = outputs[4:8]  # equal cosines
    numbers = rng.integers(0, 5, 40).astype(float)
    gold = Pairs(np.arange(0, 80, 2), numbers, np.arange(40))
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in outputs.reshape(40, 2, 8)]
    assert points(right(outputs, gold)) == pytest.approx(100 * np.asarray(spearmanr(cosines, numbers))[0], abs=1e-6)
    assert points(right(np.ones((80, 8)), gold)) == 0  # a model that says the same of every text


@pytest.mark.parametrize("correlation", [0.3, 0.85, 0.97])
@pytest.mark.parametrize("steps", [None, 7])
def test_the_spread_of_the_rows_is_that_of_spearmans_correlation(correlation: float, steps: int | None) -> None:
    """The product of the standardised ranks was 1.2, 2.6 and 7 times too wide at 0.5, 0.85 and 0.95."""
    rng, found, errors = np.random.default_rng(0), [], []
    x = y = np.zeros(0)
    for _ in range(400):
        x, noise = rng.normal(size=(2, 300))
        y = correlation * x + np.sqrt(1 - correlation**2) * noise
        if steps is not None:
            y = np.round(np.clip(y, -3, 3) * steps / 6)  # ties
        rows = spearman(x, y)
        assert rows.mean() == pytest.approx(np.asarray(spearmanr(x, y))[0])
        found.append(rows.mean())
        errors.append(rows.std() / np.sqrt(300))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.12)


def test_unrelated_attributions_do_not_agree() -> None:
    """Ties that were numbered by their place, and zeros of words that no model read, made it +0.2 to +0.5."""
    rng, found = np.random.default_rng(0), []
    for words, read in ((300, 100), (60, 20), (400, 60)) * 100:
        pair = np.full((2, words), np.nan)
        pair[:, :read] = rng.normal(size=(2, read)) * (rng.random((2, read)) > 0.5)  # half of them exactly 0
        found.append(agreement(*pair))
    assert abs(np.mean(found)) < 0.03


def test_agreement_is_of_the_words_that_both_read() -> None:
    a, b = np.array([1.0, 2, 3, 9, np.nan]), np.array([10.0, 20, 900, np.nan, 1])
    assert agreement(a, b) == pytest.approx(1)
    assert agreement(a[:3], b[2::-1]) == pytest.approx(-1)
    assert agreement(a[2:], b[2:]) is None
    assert agreement(np.zeros(5), np.arange(5.0)) is None
    x, y = np.array([1.0, 1, 2, 3, 3]), np.array([2.0, 1, 1, 5, 4])
    assert agreement(x, y) == pytest.approx(np.asarray(spearmanr(x, y))[0])


def test_the_place_of_the_right_passage() -> None:
    gold = Pairs(np.array([0, 2, 4]), None, np.array([0, 1, 0]))  # the first and the last ask for the same passage
    a, b, ab = np.array([1.0, 0]), np.array([0, 1.0]), np.array([0.9, 0.5])
    found = right(np.stack([a, a, ab, b, ab, a]), gold)
    np.testing.assert_allclose(found, [[1, 1], [1 / 2, 1], [1, 1]])
    np.testing.assert_allclose(right(np.ones((6, 2)), gold)[:, 0], 1 / 1.5)  # equals: in the middle of them


def test_a_text_that_comes_twice_is_changed_in_one_way() -> None:
    texts = ["a lovely film", "the plot", "a lovely film"]
    changed = TASK.perturbed(texts, typos)
    assert changed[0] == changed[2] != texts[0]


def test_losses_of_vectors() -> None:
    u, v = torch.nn.functional.normalize(torch.randn(2, 6, 5), dim=-1)
    want = 1 - (u * v).sum(1).mean()
    torch.testing.assert_close(
        divergence(answers(u, None, OutputKind.VECTOR), answers(v, None, OutputKind.VECTOR)), want
    )
    ids = torch.tensor([[1, 0], [2, 0], [3, 0], [7, 8], [9, 0], [7, 8]])  # the first and the third have one passage
    near = SCALE * u[:3] @ u[3:].T
    near[0, 2] = near[2, 0] = -torch.inf
    want = torch.nn.functional.cross_entropy(near, torch.arange(3))
    torch.testing.assert_close(pair_loss(u, torch.full((3,), torch.inf), ids), want)
    order = pair_loss(u, torch.tensor([0.1, 0.7, 0.7]), ids)
    cos = SCALE * (u[:3] * u[3:]).sum(1)
    torch.testing.assert_close(order, torch.log(1 + (cos[0] - cos[1]).exp() + (cos[0] - cos[2]).exp()))
    assert float(pair_loss(u, torch.ones(3), ids)) == 0  # nothing is more similar than another


def test_patience_looks_at_pairs(plain: Checkpoint) -> None:
    model, ids = load(plain, TASK), [[2, 5, 3], [2, 6, 7, 3], [2, 8, 3], [2, 9, 3]]
    vectors = torch.from_numpy(run_rows(partial(forward, model), ids, 0, "logits"))
    assert ValidationLoss(ids, vectors.numpy())(model) == pytest.approx(0, abs=1e-6)
    numbers = np.array([np.inf, np.nan, np.inf, np.nan])
    want = float(pair_loss(vectors[[0, 2, 1, 3]], torch.tensor([np.inf, np.inf]), torch.arange(8).reshape(4, 2)))
    assert ValidationLoss(ids, numbers)(model) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("kind", TEXTS)
def test_every_family_gives_vectors_cut_and_exported(kind: str, tmp_path: Path) -> None:
    source = preprocessor_of(kind, tmp_path)
    model = load(source, TASK)
    ids = [[2, 5, 11, 20, 3], [2, 6, 3]]
    whole = run_rows(partial(forward, model), ids, 0, "logits")
    assert whole.shape == (2, len(source.labels)) == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    hidden = forward_states(source, ids[1])  # alone: padding is not in the mean
    np.testing.assert_allclose(whole[1], hidden.mean(0) / np.linalg.norm(hidden.mean(0)), atol=1e-5)
    heads = 2 if FAMILIES[kind].prunes_heads else 4
    layers = structure_of(model).layers
    cut(model, [np.arange(heads), np.arange(4)], [np.arange(40), np.arange(layers[1].ffn)])
    saved = save(model, source, tmp_path / "cut")
    assert (saved.path / "structure.json").is_file()
    ours = run_rows(partial(forward, model), ids, 0, "logits")
    np.testing.assert_array_equal(run_rows(partial(forward, load(saved, TASK)), ids, 0, "logits"), ours)
    graph = plain_onnx(saved, TASK, tmp_path / "plain.onnx")
    artifact = RUNTIMES["onnxruntime"].export(ExportJob(graph, saved, TASK, tmp_path / "onnx", 32))
    np.testing.assert_allclose(run_rows(open_artifact(artifact, 1), ids, 0, "logits"), ours, atol=1e-5)


def forward_states(checkpoint: Checkpoint, ids: list[int]) -> np.ndarray:
    """The last hidden states (tokens, width) of one row, as transformers gives them."""
    plain = transformers.AutoModel.from_pretrained(checkpoint.path).eval()
    row = torch.tensor([ids])
    with torch.inference_mode():
        return plain(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[0].numpy()


def layout(path: Path, pooling: dict, **paths: str) -> None:
    """The files of sentence-transformers beside an encoder; `paths`: modules and where they say that they are."""
    modules = [{"type": f"sentence_transformers.models.{name}", "path": where} for name, where in paths.items()]
    (path / "modules.json").write_text(json.dumps(modules))
    (path / "1_Pooling").mkdir(exist_ok=True)
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_the_first_tokens_vector_where_the_layout_says_so(plain: Checkpoint, tmp_path: Path) -> None:
    ids = [2, 5, 11, 3]
    layout(plain.path, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, Transformer="")
    first = forward_states(plain, ids)[0]
    model = load(plain, TASK)
    np.testing.assert_allclose(
        run_rows(partial(forward, model), [ids], 0, "logits")[0], first / np.linalg.norm(first), atol=1e-5
    )
    again = save(model, plain, tmp_path / "again")
    assert {file.relative_to(again.path).as_posix() for file in again.files} >= {
        "modules.json",
        "1_Pooling/config.json",
    }
    assert not any(name.startswith("pooler.") for name in load(again, TASK).state_dict())


@pytest.mark.parametrize(
    ("pooling", "modules", "why"),
    [
        ({"pooling_mode_max_tokens": True}, {"Transformer": ""}, "pooling pooling_mode_max_tokens"),
        ({"pooling_mode": "lasttoken"}, {"Transformer": ""}, "pooling lasttoken"),
        ({}, {"Transformer": "", "Pooling": "../../elsewhere"}, "elsewhere"),
        ({}, {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense"}, "modules Transformer, Pooling, Dense"),
    ],
)
def test_what_the_layout_may_not_say(plain: Checkpoint, pooling: dict, modules: dict, why: str) -> None:
    layout(plain.path, pooling, **modules)
    with pytest.raises(InputError, match=why):
        load(plain, TASK)


def test_an_encoder_is_not_made_for_another_task(plain: Checkpoint, untrained: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"needs a head .* fine-tune it first"):
        open_checkpoint(plain.path, CLASSES)
    with pytest.raises(InputError, match="is made for text-classification, not sentence-embedding"):
        open_checkpoint(untrained.path, TASK)


# From a recipe to its bundle

RECIPE = """
name: finder
task: sentence-embedding
checkpoint: ./teacher
data: {train: ./train.jsonl, validation: ./validation.csv, test: ./test.jsonl, unlabeled: ./more.jsonl, groups: kind}
max_length: 32
calibration_rows: 32
models:
  - name: cut
    steps:
      - prune: {heads: 0.8, ffn: 0.8, multiple: 8, recover: {epochs: 2, learning_rate: 0.003}}
      - trim: {frequent: 0}
  - name: one-layer
    steps:
      - distill: {layers: 1, epochs: 2}
      - finetune: {epochs: 1, learning_rate: 0.001}
  - name: static
    steps:
      - static: {epochs: 8, width: 16, learning_rate: 0.01}
targets:
  - {runtime: onnxruntime}
  - {runtime: onnxruntime, precision: int8-dynamic}
  - {runtime: openvino}
latency: {threads: 1, processes: 2, rounds: 2, min_seconds: 0.05, min_repeats: 20, batch_size: 4}
choose: {max_drop: 20}
"""


def data(path: Path) -> None:
    parts = {"train": (400, 0), "test": (150, 1), "validation": (150, 7), "more": (60, 8)}
    made = drawn_apart(rows, parts, lambda row: row["query"])
    made["more"] = [{"text": row["query"], "kind": row["kind"]} for row in made["more"]]
    write_splits(path, made, as_csv=("validation",))


def train_teacher(path: Path) -> None:
    sentence_transformer(path / "base", types=False)
    assert "MRR " in finetuned(path, TASK, "--epochs", 6, "--batch-size", 16, "--learning-rate", 2e-3)


PROJECT = Project(RECIPE, data, train_teacher)


def test_a_vector_is_that_of_sentence_transformers_layout(home: Path) -> None:
    """What is left beside the weights is enough for any other library: the mean of the encoder's own states."""
    checkpoint = open_checkpoint(home / "teacher", TASK)
    plain = transformers.AutoModel.from_pretrained(home / "teacher").eval()
    batch = checkpoint.encoder().pad(checkpoint.encoder().ids(["good film", "the dull and weak plot"]))
    ours = forward(load(checkpoint, TASK), batch)["logits"]
    mask = torch.from_numpy(batch["attention_mask"])
    with torch.inference_mode():
        hidden = plain(input_ids=torch.from_numpy(batch["input_ids"]), attention_mask=mask).last_hidden_state
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    np.testing.assert_allclose(ours, torch.nn.functional.normalize(mean).numpy(), atol=1e-6)
    assert json.loads((home / "teacher" / "1_Pooling" / "config.json").read_text()) == POOLING
    assert (home / "teacher" / "modules.json").read_bytes() == (home / "base" / "modules.json").read_bytes()


@pytest.mark.slow
def test_the_run_chooses_by_the_place_of_the_right_passage(ran: Path) -> None:
    choice = json.loads((ran / "run" / "choice.json").read_text())
    assert {entry["metric"] for entry in choice["candidates"]} == {"MRR"}
    assert choice["baseline"]["metric_validation"] > 80
    assert choice["chosen"]["metric_validation"] > 65
    static = next(c for c in choice["candidates"] if c["name"] == "static/onnxruntime/fp32")
    assert static["metric_validation"] > 60
    assert static["macro_f1"] is None
    assert {part["name"] for part in static["slices"]["group"]} == {"short", "long"}
    assert sum(part["rows"] for part in static["slices"]["length"]) == 150
    whole = [c for c in choice["candidates"] if c.get("metric_validation") and c["name"].startswith("cut/")]
    assert len(whole) == 3
    assert all(c["typos_metric"] is not None for c in choice["candidates"])


@pytest.mark.slow
def test_the_bundle_answers_behind_every_door(ran: Path, tmp_path: Path) -> None:
    bundle, texts = ran / "run" / "bundle", ["a good dull film", "the plot"]
    done = subprocess.run([sys.executable, bundle / "selftest.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = paredown("verify", bundle, "--data", ran / "test.jsonl")
    assert done.returncode == 0, done.stderr
    assert "150 rows" in done.stdout
    done = paredown("predict", bundle, "--text", texts[0], "--text", texts[1])
    first, second = (json.loads(line)["embedding"] for line in done.stdout.splitlines())
    assert len(first) == len(second) == 32
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-4)
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": texts}
    file = tmp_path / "samples.jsonl"
    with client_of(bundle=bundle, sample_file=file, sample_share=1) as (client, _, _):
        assert client.post("/predict", json={"text": texts[0]}).json()["embedding"] == pytest.approx(first, abs=0.05)
        reply = client.post("/v2/models/finder/infer", json={"inputs": [tensor]}).json()
        assert [(out["name"], out["datatype"], out["shape"]) for out in reply["outputs"]] == [
            ("embedding", "FP32", [2, 32])
        ]
        assert reply["outputs"][0]["data"][:32] == pytest.approx(first, abs=0.05)
        about = client.get("/v2/models/finder").json()
        assert about["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 32]}]
        assert about["drift"]["quantities"]["confidence"]
        refused_pair = client.post("/predict", json={"text": "a", "text_pair": "b"})
        assert refused_pair.status_code == 400
    assert len(read_rows(TASK, str(file), labelled=None).texts) == 3  # as unlabelled rows
    edges = json.loads((bundle / "reference.json").read_text())["quantities"]["confidence"]["edges"]
    assert -1 <= min(edges) < max(edges) <= 1  # towards the mean vector


@pytest.mark.slow
def test_stages_alone(ran: Path, tmp_path: Path) -> None:
    data = ["--task", TASK.name, "--train", ran / "train.jsonl", "--validation", ran / "validation.csv"]
    lora = ["--peft", "lora", "--epochs", 1, "--patience", 3, "--output-dir", tmp_path / "tuned"]
    done = paredown("finetune", ran / "teacher", *data, *lora)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("MRR ")[1].split()[0]) > 80
    even = ["--even", "--ffn", 0.5, "--output-dir", tmp_path / "even"]
    done = paredown("prune", ran / "teacher", *data[:2], "--train", ran / "more.jsonl", *even)  # texts are enough
    assert done.returncode == 0, done.stderr
    assert transformers.AutoModel.from_pretrained(tmp_path / "even").config.intermediate_size == 32
    assert (tmp_path / "even" / "1_Pooling" / "config.json").is_file()
    to = ["--to", "openvino", "--train", ran / "more.jsonl", "--output-dir", tmp_path / "ir"]
    done = paredown("export", tmp_path / "even", "--task", TASK.name, *to)
    assert done.returncode == 0, done.stderr
    done = paredown("bench", ran / "run" / "bundle", tmp_path / "ir", "--data", ran / "test.jsonl", "--task",
                    TASK.name, "--min-seconds", 0.05, "--min-repeats", 10, "--processes", 2, "--rounds", 2,
                    "--json", tmp_path / "bench.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())["artifacts"]
    assert [(entry["metric_name"], entry["metric"] > 50) for entry in found] == [("MRR", True)] * 2
    done = paredown("init", ran / "teacher", "--task", TASK.name, "--train", ran / "more.jsonl", "--validation",
                    ran / "validation.csv", "--output", tmp_path / "recipe.yaml")  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = paredown("run", tmp_path / "recipe.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr


def test_what_is_refused(home: Path, tmp_path: Path) -> None:
    text = (home / "recipe.yaml").read_text().replace("./", f"{home}/")

    def changed(old: str, new: str, *words: str) -> None:
        assert old in text
        (tmp_path / "recipe.yaml").write_text(text.replace(old, new))
        refused(paredown("run", tmp_path / "recipe.yaml", "--dry-run"), *words)

    changed("targets:", "  - name: both\n    cascade: {first: static, then: cut}\ntargets:", "'both'", "a vector")
    changed("width: 16", "width: 16, label_weight: 1", "label_weight")
    changed("{layers: 1,", "{layers: 1, width: 16, hidden_weight: 0,", "as wide as the teacher's")
    changed("models:", "adapt:\n  - augment: {}\nmodels:", "augment", "pairs")
    changed("models:", f"teachers: [{home}/teacher]\nmodels:", "one teacher")
    changed(f"train: {home}/train.jsonl", f"train: {home}/more.jsonl", "finetune learns from pairs")
    changed(f"validation: {home}/validation.csv", f"validation: {home}/more.jsonl", "pairs of texts are needed")
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("text,text_pair,score\ngood,fine,1\nbad,fine,0\n")
    changed(f"test: {home}/test.jsonl", f"test: {numbers}", "numbers.csv: its pairs have numbers")
    data = ["--task", TASK.name, "--train", home / "train.jsonl", "--output-dir", tmp_path / "out"]
    refused(paredown("update", home / "teacher", *data, "--new", home / "test.jsonl"), "update is not supported")
    refused(paredown("distill", home / "teacher", *data, "--width", 16), "--width", "as wide as the teacher's")
