from functools import partial

import numpy as np
import pytest
import torch
from conftest import LABELS, TASK, make_checkpoint
from paredown.compress import data, prune
from paredown.compress.checkpoint import Checkpoint, load
from paredown.compress.encoder import run_rows
from paredown.compress.errors import InputError
from paredown.compress.families import FAMILIES
from paredown.compress.settings import Prune
from paredown.compress.structure import Layer, blocks, family, keep_blocks, linear, structure_of
from paredown.compress.train import forward


@pytest.fixture
def rows(teacher: Checkpoint, files: dict) -> tuple[list[list[int]], np.ndarray]:
    found = data.read(str(files["train"]), names=LABELS).first(96)
    return data.encode(teacher.encoder(), found), found.gold


@pytest.mark.parametrize("kind", FAMILIES)
def test_cutting_equals_masking(kind: str, tmp_path) -> None:
    """A cut unit is gone exactly when the logits are those of a model in which its output is zero."""
    source = make_checkpoint(tmp_path, kind)
    masked, whole = load(source, TASK), load(source, TASK)
    parts = family(masked)
    block = blocks(masked)[1]
    with torch.no_grad():
        linear(block, parts.attention_out).weight[:, 8:16] = 0  # head 1 of 4, size 8
        linear(block, parts.down).weight[:, 3] = 0
    everything = [np.arange(4)] * 3, [np.arange(64)] * 3
    heads, neurons = [list(x) for x in everything]
    heads[1] = np.array([0, 2, 3])
    neurons[1] = np.delete(np.arange(64), 3)
    prune.cut(whole, heads, neurons)
    ids = torch.tensor([[2, 5, 11, 20, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(whole(input_ids=ids).logits, masked(input_ids=ids).logits)


def test_importance_is_the_sum_of_squared_per_row_gradients(teacher: Checkpoint, rows) -> None:
    ids, gold = rows
    model = load(teacher, TASK)
    heads, neurons = prune.importance(model, ids[:3], gold[:3])
    assert [h.shape for h in heads] == [(4,)] * 3
    assert [n.shape for n in neurons] == [(64,)] * 3
    one_by_one = [prune.importance(model, [ids[i]], gold[i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(heads[0], sum(h[0] for h, _ in one_by_one), rtol=1e-3)
    np.testing.assert_allclose(neurons[2], sum(n[2] for _, n in one_by_one), rtol=1e-3, atol=1e-9)


def test_a_dead_head_is_worth_nothing_and_goes_first(teacher: Checkpoint, rows) -> None:
    ids, gold = rows
    model = load(teacher, TASK)
    with torch.no_grad():
        linear(blocks(model)[0], family(model).attention_out).weight[:, 16:24] = 0
    heads, _ = prune.importance(model, ids, gold)
    assert heads[0][2] == 0
    prune.prune(model, ids, gold, Prune(heads=11 / 12))
    assert [layer.heads for layer in structure_of(model).layers] == [3, 4, 4]


def test_shares_widths_and_the_floor_of_one(teacher: Checkpoint, rows) -> None:
    worth = [np.arange(64.0), np.arange(64.0) + 100]
    kept = prune.keep_best(worth, 0.5, 16)
    assert [len(k) for k in kept] == [16, 64]
    assert kept[0].tolist() == list(range(48, 64))
    ids, gold = rows
    model = prune.prune(load(teacher, TASK), ids, gold, Prune(heads=0.01, ffn=0.5, multiple=16))
    layers = structure_of(model).layers
    assert all(layer.heads == 1 for layer in layers)
    assert all(layer.ffn % 16 == 0 for layer in layers)


def test_the_layer_that_is_missed_least_goes(teacher: Checkpoint, rows) -> None:
    ids, gold = rows
    model = load(teacher, TASK)
    losses = {}
    for dropped in range(3):
        smaller = load(teacher, TASK)
        keep_blocks(smaller, [k for k in range(3) if k != dropped])
        logits = torch.from_numpy(run_rows(partial(forward, smaller), ids, 0, "logits"))
        losses[dropped] = float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(gold)))
    least = min(losses, key=lambda layer: losses[layer])
    assert prune.layers_to_keep(model, ids, gold, 2) == [k for k in range(3) if k != least]
    pruned = prune.prune(model, ids, gold, Prune(layers=[0, 2]))
    assert structure_of(pruned).layers == (Layer(4, 64), Layer(4, 64))
    with pytest.raises(InputError, match="between 1 and the model's 2"):
        prune.layers_to_keep(pruned, ids, gold, 5)


def test_an_architecture_that_is_not_known_names_those_that_are(teacher: Checkpoint) -> None:
    model = load(teacher, TASK)
    model.config.__dict__["model_type"] = "xlnet"
    with pytest.raises(InputError, match=r"'xlnet'.*bert, roberta, electra, distilbert"):
        blocks(model)
