from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from conftest import IMAGES, LABELS, PROSE, TASK, example_inputs, make_checkpoint, task_of

from paredown.compress.config import Prune
from paredown.compress.data import dataset
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.models.structure import Layer, blocks, family, keep_blocks, linear, structure_of
from paredown.compress.pruning import prune
from paredown.compress.pruning.importance import log_probabilities
from paredown.compress.pruning.latency_allocation import LatencyTable
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import Batch, batches_of, run_rows

# A head takes 1 ms, 16 neurons take 1 ms, the rest 2 ms: the whole tiny teacher 26.
TABLE = LatencyTable("onnxruntime", "fp32", 1, 2.0, {n: float(n) for n in range(1, 5)}, {16: 1.0, 32: 2.0, 64: 4.0})


@pytest.fixture(scope="module")
def batches(teacher: Checkpoint, files: dict) -> list[Batch]:
    found = dataset.read(str(files["train"]), labelled=False).sample(96)
    return batches_of(dataset.encode(teacher.encoder(), found), 0)


def accuracy(model, checkpoint: Checkpoint, files: dict) -> float:
    rows = dataset.read(str(files["validation"]), names=LABELS)
    return TASK.metric(run_rows(partial(forward, model), checkpoint.encoder().ids(rows.texts), 0, "logits"), rows.gold)


def test_a_dead_head_goes_first(teacher: Checkpoint, batches: list[Batch]) -> None:
    model = load(teacher, TASK)
    with torch.no_grad():
        linear(blocks(model)[0], family(model).attention_out).weight[:, 16:24] = 0
    before = log_probabilities(model, batches[0])
    prune.prune(model, batches, Prune(heads=11 / 12))
    assert [layer.heads for layer in structure_of(model).layers] == [3, 4, 4]
    torch.testing.assert_close(log_probabilities(model, batches[0]), before, atol=2e-3, rtol=0)


def test_shares_widths_and_the_floor_of_one(teacher: Checkpoint, batches: list[Batch]) -> None:
    model = load(teacher, TASK)
    prune.prune(model, batches, Prune(heads=0.01, ffn=0.5, multiple=16))
    layers = structure_of(model).layers
    assert all(layer.heads == 1 for layer in layers)
    assert all(layer.ffn % 16 == 0 for layer in layers)


def test_the_layer_that_is_missed_least_goes(teacher: Checkpoint, batches: list[Batch]) -> None:
    model = load(teacher, TASK)
    wanted = [log_probabilities(model, batch) for batch in batches]
    losses = {}
    for dropped in range(3):
        smaller = load(teacher, TASK)
        keep_blocks(smaller, [k for k in range(3) if k != dropped])
        losses[dropped] = prune.kl_to(smaller, batches, wanted)
    least = min(losses, key=lambda layer: losses[layer])
    assert prune.layers_to_keep(model, batches, 2) == [k for k in range(3) if k != least]
    prune.prune(model, batches, Prune(layers=[0, 2]))
    assert structure_of(model).layers == (Layer(4, 64), Layer(4, 64))
    with pytest.raises(InputError, match="between 1 and the model's 2"):
        prune.layers_to_keep(model, batches, 5)


def test_a_timed_cut_keeps_its_promise_and_most_of_the_answers(teacher: Checkpoint, batches, files: dict) -> None:
    model = load(teacher, TASK)
    found = prune.prune(model, batches, Prune(speedup=2.0, multiple=16), latency=prune.Latency(TABLE))
    assert found.full_ms == 26
    assert found.promised_ms is not None
    assert found.promised_ms <= 13
    assert found.promised_ms == TABLE.predict(prune.shape_of(model))
    assert accuracy(model, teacher, files) > accuracy(load(teacher, TASK), teacher, files) - 5


@pytest.mark.parametrize("settings", [Prune(speedup=8, multiple=64), Prune(speedup=3.5, layers=1, even=True)])
def test_a_time_that_this_cut_cannot_reach_says_what_it_can(teacher: Checkpoint, batches, settings: Prune) -> None:
    """The table has narrower layers, and fewer heads, than this pruning may choose."""
    with pytest.raises(InputError, match=r"cannot be reached by pruning: the smallest shape takes [78]\.00 ms"):
        prune.prune(load(teacher, TASK), batches, settings, latency=prune.Latency(TABLE))


def test_a_table_that_promises_too_much_is_held_against_the_clock(teacher: Checkpoint, batches) -> None:
    model = load(teacher, TASK)
    full, timed = prune.shape_of(model), []

    def share(layers) -> float:
        """The machine takes 13 ms more for any model than the table knows."""
        timed.append(list(layers))
        return (TABLE.predict(layers) + 13) / (TABLE.predict(full) + 13)

    found = prune.prune(model, batches, Prune(speedup=1.5, multiple=16), latency=prune.Latency(TABLE, share))
    assert prune.shape_of(model) in timed
    assert 1 < len(timed) <= prune.PICKS
    promised = found.to_json()["promised_speedup"]
    assert promised == pytest.approx(1 / share(prune.shape_of(model)))
    assert promised == pytest.approx(1.5, rel=0.07)
    assert TABLE.predict(full) / TABLE.predict(timed[0]) > 1.4 > 1 / share(timed[0])  # the table alone fell short


def test_solving_again_repairs_what_the_cut_broke(teacher: Checkpoint, batches) -> None:
    wanted = [log_probabilities(load(teacher, TASK), batch) for batch in batches]
    left = {}
    for resolve in (True, False):
        model = load(teacher, TASK)
        prune.prune(model, batches, Prune(heads=0.5, ffn=0.25, multiple=16, resolve=resolve))
        left[resolve] = prune.kl_to(model, batches, wanted)
    assert left[True] < 0.5 * left[False]


def test_an_even_cut_is_read_by_plain_transformers(teacher: Checkpoint, batches, tmp_path) -> None:
    model = load(teacher, TASK)
    prune.prune(model, batches, Prune(speedup=1.4, even=True, multiple=16), latency=prune.Latency(TABLE))
    saved = save(model, teacher, tmp_path / "even")
    assert not (saved.path / "structure.json").exists()
    plain = transformers.AutoModelForSequenceClassification.from_pretrained(saved.path).eval()
    torch.testing.assert_close(log_probabilities(plain, batches[0]), log_probabilities(model, batches[0]))


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("bert", Prune(heads=0.5, even=True), "heads cannot be pruned"),
        ("mpnet", Prune(heads=0.5), "head pruning is not supported"),
        ("modernbert", Prune(layers=[1, 2]), "first layer of a 'modernbert' model has to stay"),
    ],
)
def test_what_an_architecture_cannot_have_is_refused_before_anything_is_measured(
    kind: str, settings: Prune, words: str, tmp_path
) -> None:
    model = load(make_checkpoint(tmp_path, kind), task_of(kind))
    batch = {name: tensor.numpy() for name, tensor in example_inputs(kind).items()}
    said: list[str] = []
    with pytest.raises(InputError, match=words):
        prune.prune(model, [batch], settings, progress=lambda share, text: said.append(text))
    assert said == []


@pytest.mark.parametrize("share", [0.5, 0.75])  # three heads would not divide the hidden size: two are left
def test_even_heads_where_config_json_has_their_size(share: float, tmp_path) -> None:
    source = make_checkpoint(tmp_path / "a", "vit")
    model = load(source, IMAGES)
    batch = {name: tensor.numpy() for name, tensor in example_inputs("vit").items()}
    prune.prune(model, [batch], Prune(heads=share, ffn=0.5, even=True))
    assert prune.shape_of(model) == [(2, 32)] * 3
    save(model, source, tmp_path / "b")
    plain = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "b").eval()
    torch.testing.assert_close(log_probabilities(plain, batch), log_probabilities(model, batch))


@pytest.mark.parametrize("kind", ["mpnet", "modernbert", "distilbert", "roberta", "electra"])
def test_families_are_cut_to_a_time_and_load_again(kind: str, batches, tmp_path) -> None:
    source = make_checkpoint(tmp_path / "a", kind)
    model = load(source, TASK)
    before = prune.shape_of(model)
    prune.prune(model, batches, Prune(speedup=1.5, multiple=16), latency=prune.Latency(TABLE))
    assert prune.shape_of(model) != before
    again = load(save(model, source, tmp_path / "b"), TASK)
    assert torch.equal(log_probabilities(again, batches[0]), log_probabilities(model, batches[0]))
    assert open_checkpoint(tmp_path / "b").labels == LABELS


def test_no_rows_and_no_table(teacher: Checkpoint, batches) -> None:
    with pytest.raises(InputError, match="needs rows"):
        prune.prune(load(teacher, TASK), [], Prune(heads=0.5))
    with pytest.raises(InputError, match="latency table"):
        prune.prune(load(teacher, TASK), batches, Prune(speedup=2))


def test_a_second_round_cuts_what_is_left_and_even_needs_equal_heads(teacher: Checkpoint, batches) -> None:
    model = load(teacher, TASK)
    once = prune.prune(model, batches, Prune(heads=0.6, ffn=0.5))
    assert len({heads for heads, _ in once.layers}) > 1
    with pytest.raises(InputError, match="different numbers of heads already"):
        prune.prune(model, batches, Prune(speedup=1.3, even=True), latency=prune.Latency(TABLE))
    twice = prune.prune(model, batches, Prune(speedup=1.3), latency=prune.Latency(TABLE))
    assert TABLE.predict(twice.layers) <= TABLE.predict(once.layers) / 1.3


GROUPED = {
    "qwen2": {},  # biases of queries, keys and values
    "llama": {"head_dim": 12, "attention_bias": True, "mlp_bias": True},  # 4 heads of 12 in a hidden size of 32
}


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("kind", GROUPED)
def test_grouped_queries_are_cut_twice_and_load_again(
    kind: str, even: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two heads of keys and values for four of queries, biases, a head size of its own; plain transformers reads what
    was pruned evenly."""
    tokens = make_checkpoint(tmp_path / "source", kind).path
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(tokens, **GROUPED[kind])
    grown = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in grown.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.3)
    grown.save_pretrained(tokens)
    source = open_checkpoint(tokens, PROSE)
    ids = [[2, *range(4, 4 + n), 3] for n in (3, 9, 20)]
    for width in (32, 16):
        model = load(source, PROSE)
        cut = prune.prune(model, batches_of(ids, 0), Prune(ffn=0.5, multiple=8, even=even))
        assert sum(ffn for _, ffn in cut.layers) / 3 == pytest.approx(width, abs=0 if even else 8)
        want = forward(model, batches_of(ids, 0)[0])
        source = save(model, source, tmp_path / str(width))
        again = forward(load(source, PROSE), batches_of(ids, 0)[0])
        assert all((again[name] == want[name]).all() for name in want)
    if even:
        _, report = transformers.AutoModelForCausalLM.from_pretrained(source.path, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert "nothing was pruned" not in caplog.text
    prune.prune(load(source, PROSE), batches_of(ids, 0), Prune(ffn=0.9, multiple=64, even=even))
    assert "nothing was pruned" in caplog.text


@pytest.mark.parametrize("importance", ["fisher", "taylor", "magnitude"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_dead_group_of_heads_goes_first(kind: str, importance: str, tmp_path: Path) -> None:
    """Two heads of keys and values for four of queries: of each layer another group does nothing."""
    source = make_checkpoint(tmp_path / "a", kind)
    model, ids = load(source, PROSE), [[2, *range(4, 4 + n), 3] for n in (3, 9, 20)]
    with torch.no_grad():
        for block, dead in zip(blocks(model), (0, 1, 0), strict=True):
            linear(block, "self_attn.o_proj").weight[:, 16 * dead : 16 * dead + 16] = 0
            for name in ("q_proj", "k_proj", "v_proj"):
                rows = 16 if name == "q_proj" else 8
                linear(block, f"self_attn.{name}").weight[rows * dead : rows * dead + rows] = 0
    batches = batches_of(ids, 0)
    before = log_probabilities(model, batches[0])
    settings = Prune.model_validate({"heads": 0.5, "importance": importance, "resolve": False})
    assert prune.prune(model, batches, settings).layers == [(2, 64)] * 3
    torch.testing.assert_close(log_probabilities(model, batches[0]), before, atol=1e-5, rtol=0)
    plain = transformers.AutoModelForCausalLM.from_pretrained(save(model, source, tmp_path / "b").path).eval()
    torch.testing.assert_close(log_probabilities(plain, batches[0]), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("shared", "share", "heads"),
    [(2, 0.01, 2), (2, 0.5, 2), (2, 0.9, 4), (4, 0.01, 1), (4, 0.5, 2), (4, 0.75, 2), (1, 0.01, 4)],
)
def test_a_share_of_groups_is_the_same_in_every_layer_and_one_at_least(
    shared: int, share: float, heads: int, tmp_path: Path
) -> None:
    """`shared`: heads of keys and values for four of queries. Three heads would not divide the hidden size."""
    path = make_checkpoint(tmp_path / "a", "llama").path
    config = transformers.AutoConfig.from_pretrained(path, num_key_value_heads=shared)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    source = open_checkpoint(path, PROSE)
    model, batches = load(source, PROSE), batches_of([[2, *range(4, 4 + n), 3] for n in (3, 9, 20)], 0)
    found = prune.prune(model, batches, Prune(heads=share, ffn=0.5, multiple=8))
    assert [own for own, _ in found.layers] == [heads] * 3
    assert model.config.num_key_value_heads == heads * shared // 4
    again = load(save(model, source, tmp_path / "b"), PROSE)
    assert torch.equal(log_probabilities(again, batches[0]), log_probabilities(model, batches[0]))


def test_a_latency_target_keeps_heads_that_share_keys(tmp_path: Path) -> None:
    model = load(make_checkpoint(tmp_path, "llama"), PROSE)
    batches = batches_of([[2, *range(4, 4 + n), 3] for n in (3, 9, 20)], 0)
    found = prune.prune(model, batches, Prune(speedup=1.3, multiple=16), latency=prune.Latency(TABLE))
    assert {heads for heads, _ in found.layers} == {4}
    assert found.promised_ms is not None
    assert found.promised_ms <= 20


@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
@pytest.mark.parametrize("kind", ["bert", "modernbert", "deberta-v2", "vit", "llama", "gpt2"])
def test_published_importance_gives_the_asked_shape(kind: str, importance: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "a", kind)
    model = load(source, task_of(kind))
    batch = {name: tensor.numpy() for name, tensor in example_inputs(kind).items()}
    given = {"ffn": 0.5, "multiple": 8, "importance": importance} | (
        {"heads": 0.5} if family(model).prunes_heads else {}
    )
    found = prune.prune(model, [batch], Prune.model_validate(given))
    assert sum(ffn for _, ffn in found.layers) == pytest.approx(96, abs=16)
    if family(model).prunes_heads:
        assert sum(heads for heads, _ in found.layers) == 6
    want = forward(model, batch)
    again = forward(load(save(model, source, tmp_path / "b"), task_of(kind)), batch)
    assert all((again[name] == want[name]).all() for name in want)


@pytest.mark.parametrize("importance", ["fisher", "taylor", "magnitude"])
def test_dead_neurons_go_first_by_every_importance(importance: str, teacher: Checkpoint, batches: list[Batch]) -> None:
    model = load(teacher, TASK)
    dead = torch.arange(64) % 2 == 1
    with torch.no_grad():
        for block in blocks(model):
            linear(block, family(model).up).weight[dead] = 0
            linear(block, family(model).down).weight[:, dead] = 0
    before = log_probabilities(model, batches[0])
    settings = Prune.model_validate({"ffn": 0.5, "multiple": 1, "importance": importance, "resolve": False})
    assert [ffn for _, ffn in prune.prune(model, batches, settings).layers] == [32] * 3
    torch.testing.assert_close(log_probabilities(model, batches[0]), before, atol=2e-3, rtol=0)
