from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TASK, example_inputs, make_checkpoint, task_of
from transformers import AutoConfig, AutoModelForCausalLM

from paredown.compress.models.architectures import FAMILIES
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.models.structure import (
    Layer,
    Structure,
    blocks,
    cut,
    family,
    heads_of_groups,
    keep_blocks,
    linear,
    linear_layers,
    reshape,
)
from paredown.runtime.errors import InputError


@pytest.mark.parametrize("kind", FAMILIES)
def test_cutting_equals_masking_and_loads_again(kind: str, tmp_path) -> None:
    """A pruned unit is gone exactly when the logits are those of a model in which its output is zero."""
    source = make_checkpoint(tmp_path, kind)
    task, inputs = task_of(kind), example_inputs(kind)
    masked, whole = load(source, task), load(source, task)
    parts = family(masked)
    block = blocks(masked)[1]
    heads, neurons = [np.arange(4)] * 3, [np.arange(64)] * 3
    with linear_layers(masked), torch.no_grad():
        if parts.prunes_heads:
            linear(block, parts.attention_out).weight[:, 8:16] = 0  # head 1 of 4, size 8
            heads[1] = np.array([0, 2, 3])
        linear(block, parts.down).weight[:, 3] = 0
    neurons[1] = np.delete(np.arange(64), 3)
    with linear_layers(whole):
        cut(whole, heads, neurons)
    with torch.inference_mode():
        got = whole(**inputs).logits
        torch.testing.assert_close(got, masked(**inputs).logits)
        again = load(save(whole, source, tmp_path / "cut"), task)
        assert (tmp_path / "cut" / "structure.json").exists()
        torch.testing.assert_close(again(**inputs).logits, got, atol=1e-6, rtol=0)  # the same numbers, other addresses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_heads_that_something_else_counts_stay(tmp_path) -> None:
    model = load(make_checkpoint(tmp_path, "mpnet"), TASK)
    with pytest.raises(InputError, match="head pruning is not supported for 'mpnet'"):
        cut(model, [np.arange(3)] * 3, [np.arange(64)] * 3)


@pytest.mark.parametrize("shared", [2, 4])  # heads of keys and values for four of queries
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_removing_groups_equals_masking_and_plain_transformers_loads_it(kind: str, shared: int, tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "source", kind).path
    torch.manual_seed(0)
    grown = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path, num_key_value_heads=shared))
    for name, parameter in grown.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.3)
    grown.save_pretrained(path)
    source, inputs = open_checkpoint(path, task_of(kind)), example_inputs(kind)
    masked, pruned = load(source, task_of(kind)), load(source, task_of(kind))
    kept = [np.array(heads) for heads in ([2, 3], [0, 1], [2, 3])]
    with torch.no_grad():
        for block, heads in zip(blocks(masked), kept, strict=True):
            gone = np.setdiff1d(np.arange(4), heads)
            linear(block, family(masked).attention_out).weight[:, heads_of_groups(gone, 8)] = 0
    cut(pruned, kept, [np.arange(64)] * 3)
    config = pruned.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, shared // 2, 8)
    saved = save(pruned, source, tmp_path / "pruned")
    assert not (saved.path / "structure.json").exists()
    plain, report = AutoModelForCausalLM.from_pretrained(saved.path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        got = pruned(**inputs).logits
        torch.testing.assert_close(got, masked(**inputs).logits)
        torch.testing.assert_close(plain.eval()(**inputs).logits, got, atol=1e-6, rtol=0)
    for name, tensor in pruned.state_dict().items():
        assert torch.equal(plain.state_dict()[name], tensor), name


@pytest.mark.parametrize("heads", [[[0, 2]] * 3, [[0, 1], [0, 1, 2, 3], [0, 1]], [[0]] * 3])
def test_heads_that_share_keys_go_together_and_as_many_in_every_layer(heads: list[list[int]], tmp_path: Path) -> None:
    model = load(make_checkpoint(tmp_path, "llama"), task_of("llama"))
    with pytest.raises(InputError, match="'llama' model are pruned in groups of 2, as many in every layer"):
        cut(model, [np.array(own) for own in heads], [np.arange(64)] * 3)
    assert model.config.num_attention_heads == 4


def test_a_structure_with_other_numbers_of_shared_heads_than_the_config_is_refused(tmp_path: Path) -> None:
    model = load(make_checkpoint(tmp_path, "llama"), task_of("llama"))
    with pytest.raises(InputError, match=r"structure\.json has 2 heads in a layer, config\.json 4"):
        reshape(model, Structure(8, (Layer(2, 64),) * 3))


def test_a_first_layer_that_is_built_differently_stays(tmp_path) -> None:
    model = load(make_checkpoint(tmp_path, "modernbert"), TASK)
    with pytest.raises(InputError, match="first layer of a 'modernbert'"):
        keep_blocks(model, [1, 2])
    keep_blocks(model, [0, 2])
    assert len(model.config.layer_types) == 2


def test_an_architecture_that_is_not_known_names_those_that_are(teacher: Checkpoint) -> None:
    model = load(teacher, TASK)
    model.config.__dict__["model_type"] = "xlnet"
    with pytest.raises(InputError, match=r"'xlnet'.*bert, roberta, electra, distilbert"):
        blocks(model)
