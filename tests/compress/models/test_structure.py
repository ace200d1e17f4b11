import numpy as np
import pytest
import torch
from conftest import TASK, example_inputs, make_checkpoint, task_of

from paredown.compress.models.architectures import FAMILIES
from paredown.compress.models.loading import Checkpoint, load, save
from paredown.compress.models.structure import blocks, cut, family, keep_blocks, linear, linear_layers
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
