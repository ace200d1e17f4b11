import json
import logging
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import transformers
from conftest import TASK, make_checkpoint

from paredown.compress.config import Finetune
from paredown.compress.models.architectures import FAMILIES
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save, with_new_head
from paredown.compress.models.structure import structure_of
from paredown.compress.pruning.prune import cut
from paredown.compress.training import trainer as train
from paredown.compress.types import TrainingData
from paredown.runtime.errors import InputError, StepError

EXAMPLE = torch.tensor([[2, 5, 11, 20, 3], [2, 6, 3, 0, 0]])


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=EXAMPLE, attention_mask=(EXAMPLE != 0).long()).logits


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if FAMILIES[kind].prunes_heads and kind != "vit"])
def test_an_unevenly_cut_checkpoint_loads_again_bit_for_bit(kind: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "whole", kind)
    model = load(source, TASK)
    heads = [np.array([0, 2]), np.array([1]), np.arange(4)]
    neurons = [np.arange(10), np.arange(64), np.arange(5, 50)]
    cut(model, heads, neurons)
    assert [(x.heads, x.ffn) for x in structure_of(model).layers] == [(2, 10), (1, 64), (4, 45)]
    again = load(save(model, source, tmp_path / "cut"), TASK)
    assert torch.equal(logits(model), logits(again))
    assert not torch.equal(logits(again), logits(load(source, TASK)))


def test_a_whole_checkpoint_needs_no_structure_file(untrained: Checkpoint, tmp_path: Path) -> None:
    saved = save(load(untrained, TASK), untrained, tmp_path / "copy")
    assert not (saved.path / "structure.json").exists()
    assert torch.equal(logits(load(saved, TASK)), logits(load(untrained, TASK)))


def test_parameters_are_counted_from_the_files(untrained: Checkpoint) -> None:
    assert untrained.parameters == sum(parameter.numel() for parameter in load(untrained, TASK).parameters())


def test_an_architecture_without_fused_attention_loads(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "c").path
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.DebertaConfig(vocab_size=30, pad_token_id=0, relative_attention=True, **sizes)
    transformers.DebertaForSequenceClassification(config).save_pretrained(path)
    source = open_checkpoint(path, TASK)
    model = load(source, TASK)
    assert torch.equal(logits(model), logits(load(save(model, source, tmp_path / "s"), TASK)))
    with mock.patch.object(train, "fast_bf16", return_value=True):  # its attention does not bear that
        train.finetune(model, TrainingData([[2, 5, 3], [2, 11, 3]], np.array([0, 1])), Finetune(epochs=1), seed=0)


@pytest.mark.parametrize(
    ("kind", "sizes", "warned"),
    [
        ("xlnet", {"d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 64}, True), ("fnet", {}, True),
        ("megatron-bert", {}, False), ("funnel", {"block_sizes": [1], "d_model": 32, "n_head": 4, "d_head": 8}, False),
    ],
)  # fmt: skip
def test_answers_that_depend_on_padding_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, sizes: dict, warned: bool
) -> None:
    path = make_checkpoint(tmp_path / "c").path
    torch.manual_seed(0)
    common = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    common = {"vocab_size": 30, "pad_token_id": 0} | ({} if sizes else common)
    config = transformers.AutoConfig.for_model(kind, **common, **sizes)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    with caplog.at_level(logging.WARNING, "paredown"):
        load(open_checkpoint(path, TASK), TASK)
    assert ("change with the padding of a batch" in caplog.text) == warned


def test_labels_default_to_the_names_that_transformers_leaves_out(untrained: Checkpoint) -> None:
    assert untrained.labels == ("negative", "positive")
    assert Checkpoint(untrained.path, {}, ()).labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: (p / "config.json").unlink(), ["config.json", "no such file"]),
        (lambda p: (p / "config.json").write_text("{"), ["config.json", "not JSON"]),
        (lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:-100]), ["truncated"]),
        (lambda p: (p / "model.safetensors").write_bytes(b"abc"), ["not a safetensors file"]),
        (lambda p: (p / "model.safetensors").unlink(), ["no model.safetensors"]),
        (lambda p: (p / "model.safetensors").rename(p / "pytorch_model.bin"), ["pickle", "save_pretrained"]),
        (lambda p: (p / "tokenizer.json").unlink(), ["no tokenizer.json", "AutoTokenizer"]),
        (lambda p: set_config(p, auto_map={"AutoModel": "evil.py"}), ["auto_map", "never"]),
        (lambda p: set_config(p, _attn_implementation_internal="evil"), ["_attn_implementation_internal"]),
        (lambda p: set_config(p, architectures=["BertForMaskedLM"]), ["BertForMaskedLM", "paredown finetune"]),
    ],
)
def test_what_may_not_be_loaded_is_refused(copy_of_teacher: Path, damage, words: list[str]) -> None:
    damage(copy_of_teacher)
    with pytest.raises(InputError) as caught:
        open_checkpoint(copy_of_teacher, TASK)
    for word in words:
        assert word in str(caught.value)


def set_config(path: Path, **values: object) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | values))


def test_missing_head_weights_are_not_made_up(copy_of_teacher: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy_of_teacher / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if not k.startswith("classifier")},
        copy_of_teacher / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(InputError, match=r"classifier\.bias"):
        load(open_checkpoint(copy_of_teacher, TASK), TASK)


def spoil(path: Path, name: str, value: float = float("nan")) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(path / "model.safetensors")
    weights[name].view(-1)[0] = value
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_loaded_nor_saved(
    copy_of_teacher: Path, teacher: Checkpoint, value: float, tmp_path: Path
) -> None:
    name = "bert.encoder.layer.1.output.dense.weight"
    spoil(copy_of_teacher, name, value)
    with pytest.raises(InputError, match=rf"model\.safetensors: '{re.escape(name)}' has values that are not finite"):
        load(open_checkpoint(copy_of_teacher, TASK), TASK)
    with pytest.raises(InputError, match="not finite"):
        with_new_head(open_checkpoint(copy_of_teacher, TASK), TASK, ("a", "b", "c"), 0)
    model = load(teacher, TASK)
    model.state_dict()[name][0, 0] = value
    with pytest.raises(StepError, match=rf"'{re.escape(name)}' has values that are not finite"):
        save(model, teacher, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_structure_that_does_not_fit_is_refused(copy_of_teacher: Path) -> None:
    layers = [{"heads": 4, "ffn": 64}] * 2
    (copy_of_teacher / "structure.json").write_text(json.dumps({"format": 1, "head_size": 8, "layers": layers}))
    with pytest.raises(InputError, match="describes 2 layers"):
        load(open_checkpoint(copy_of_teacher, TASK), TASK)
    (copy_of_teacher / "structure.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="not a structure file"):
        load(open_checkpoint(copy_of_teacher, TASK), TASK)


def test_a_missing_directory_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        open_checkpoint(str(tmp_path / "nowhere"))


def test_the_digest_follows_the_bytes(copy_of_teacher: Path, teacher: Checkpoint) -> None:
    assert open_checkpoint(copy_of_teacher).digest == teacher.digest
    set_config(copy_of_teacher, something="else")
    assert open_checkpoint(copy_of_teacher).digest != teacher.digest


@pytest.mark.parametrize(
    "more",
    [{"return_dict": False}, {"chunk_size_feed_forward": 3}, {"output_hidden_states": True}, {"torchscript": True}],
)
def test_how_outputs_are_given_is_not_the_configs_to_say(more: dict, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "plain", "bert")
    want = logits(load(source, TASK))
    config = json.loads((source.path / "config.json").read_text())
    (source.path / "config.json").write_text(json.dumps(config | more))
    assert torch.equal(logits(load(open_checkpoint(source.path, TASK), TASK)), want)
