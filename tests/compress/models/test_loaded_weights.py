"""What lies in a checkpoint's files is what is loaded, or a refusal; and each advised command mends what it was given
for."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from advised import follow
from conftest import LABELS, PROSE, TASK, make_checkpoint
from safetensors.torch import load_file, save_file

from paredown.compress.models.loading import load, open_checkpoint, with_new_head
from paredown.compress.models.validation import header
from paredown.runtime.errors import InputError
from paredown.tasks.registry import TASKS

IDS = torch.tensor([[2, 5, 11, 20, 3]])


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "made", layers=2).path


def change(path: Path, by: Callable[[dict], object], **config: object) -> None:
    """Change the weights of a checkpoint, and keys of its config."""
    weights = load_file(path / "model.safetensors")
    by(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    said = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(said | config))


def logits(path: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load(open_checkpoint(path, TASK), TASK)(IDS, torch.ones_like(IDS)).logits


def refusal(path: Path, task=TASK) -> str:
    with pytest.raises(InputError) as caught:
        load(open_checkpoint(path, task), task)
    return str(caught.value)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"temperature": torch.ones(1)}, "temperature"),
        ({"dense.weight": torch.ones(2, 2), "dense.bias": torch.ones(2)}, "dense.bias, dense.weight"),
        ({"bert.encoder.layer.2.output.dense.bias": torch.ones(32)}, "bert.encoder.layer.2.output.dense.bias"),
    ],
)
def test_weights_that_have_no_place_are_named_and_can_be_taken_out(made: Path, extra: dict, named: str) -> None:
    wanted = logits(made)
    change(made, lambda weights: weights.update(extra))
    error = refusal(made)
    assert f"has no place for {named}" in error
    follow(error)
    torch.testing.assert_close(logits(made), wanted)  # a kernel's last bit depends on where weights lie in memory


def test_a_deeper_model_under_a_smaller_number_of_layers_is_refused(made: Path) -> None:
    change(made, lambda weights: None, num_hidden_layers=1)
    assert "no place for bert.encoder.layer.1.attention.output.LayerNorm.bias" in refusal(made)
    with pytest.raises(InputError, match="no place for"):
        with_new_head(open_checkpoint(made), TASK, ("a", "b", "c"), 0)


@pytest.mark.parametrize(
    "name", ["bert.embeddings.position_ids", "cls.predictions.bias", "lm_head.bias", "bert.pooler.dense.extra"]
)
def test_heads_of_pretraining_and_buffers_are_no_harm(made: Path, name: str) -> None:
    wanted = logits(made)
    change(made, lambda weights: weights.update({name: torch.ones(4)}))
    torch.testing.assert_close(logits(made), wanted)


def test_another_head_is_no_harm_where_a_new_one_is_made(made: Path) -> None:
    change(made, lambda w: w.update({"qa_outputs.weight": torch.ones(2, 32), "classifier.bias": torch.ones(5)}))
    model = with_new_head(open_checkpoint(made), TASK, ("a", "b", "c"), 0)
    assert model.config.num_labels == 3


def test_an_encoder_that_is_not_there_is_not_made_up_below_a_new_head(made: Path) -> None:
    change(made, lambda weights: weights.pop("bert.encoder.layer.1.output.dense.bias"))
    with pytest.raises(InputError, match=r"weights are missing: bert\.encoder\.layer\.1\.output\.dense\.bias"):
        with_new_head(open_checkpoint(made), TASK, ("a", "b", "c"), 0)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_names_of_what_was_around_the_model_can_be_taken_off(made: Path, prefix: str) -> None:
    wanted = logits(made)
    change(made, lambda weights: [weights.update({prefix + name: weights.pop(name)}) for name in list(weights)])
    error = refusal(made)
    assert f"begin with '{prefix}'" in error
    follow(error)
    torch.testing.assert_close(logits(made), wanted)


def test_sizes_that_differ_are_named(made: Path) -> None:
    change(made, lambda weights: None, intermediate_size=32)
    assert "'bert.encoder.layer.0.intermediate.dense.bias' is 64, and config.json" in refusal(made)


def test_adapters_in_the_weights_are_named(made: Path) -> None:
    change(made, lambda w: w.update({"bert.encoder.layer.0.attention.self.query.lora_A.default.weight": torch.ones(4)}))
    assert "lora_A.default.weight' is of an adapter (peft) that is not merged" in refusal(made)


def with_adapter(made: Path, out: Path) -> tuple[torch.Tensor, transformers.PreTrainedModel]:
    """An adapter of `made`, not merged, with its head, in `out`; the merged model, and its logits."""
    import peft

    base = transformers.AutoModelForSequenceClassification.from_pretrained(made)
    torch.manual_seed(1)
    kind = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query"], modules_to_save=["classifier"])
    model = peft.get_peft_model(base, kind)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or ("modules_to_save" in name and weight.dim() > 1):
                weight.normal_()
    model.peft_config["default"].base_model_name_or_path = str(made)
    model.save_pretrained(str(out))
    merged: Any = model.merge_and_unload().eval()
    with torch.inference_mode():
        return merged(IDS, torch.ones_like(IDS)).logits, merged


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", [True, False])
def test_an_adapter_alone_is_merged_by_the_advised_command(made: Path, tmp_path: Path, config: bool) -> None:
    wanted, _ = with_adapter(made, tmp_path / "adapter")
    if config:
        shutil.copyfile(made / "config.json", tmp_path / "adapter" / "config.json")
    error = refusal(tmp_path / "adapter")
    assert f"an adapter of '{made}' that is not merged" in error
    follow(error)
    assert torch.allclose(logits(tmp_path / "adapter-merged"), wanted, atol=1e-6)
    assert (tmp_path / "adapter-merged" / "tokenizer.json").read_bytes() == (made / "tokenizer.json").read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_beside_the_merged_model_is_not_added_again(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "both"
    wanted, merged = with_adapter(made, out)
    setattr(merged, "_hf_peft_config_loaded", False)  # noqa: B010 - as long ago, when the merged model was saved to another directory
    merged.save_pretrained(out)
    shutil.copyfile(made / "tokenizer.json", out / "tokenizer.json")
    error = refusal(out)
    assert "which transformers would add to these weights" in error
    subprocess.run(["bash", "-c", re.findall(r"files: (rm [^;]*) ;", error)[0]], check=True)
    assert torch.allclose(logits(out), wanted, atol=1e-6)


@pytest.mark.parametrize(
    "config", [{"position_embedding_type": "relative_key"}, {"per_layer_config": {"1": {"intermediate_size": 32}}}]
)
def test_what_transformers_does_not_honour_is_refused(made: Path, config: dict) -> None:
    change(made, lambda weights: None, **config)
    assert f"'{next(iter(config))}' is " in refusal(made)


@pytest.mark.parametrize(
    "config",
    [
        {"position_embedding_type": "absolute", "per_layer_config": {}}, {"per_layer_config": None, "auto_map": None},
        {"quantization_config": None, "head_dim": None, "num_key_value_heads": None, "pruned_heads": {}},
        {"attn_implementation": "sdpa"}, {"_attn_implementation": "eager"}, {"_attn_implementation_internal": None},
    ],
)  # fmt: skip
def test_null_is_absent_and_attention_of_transformers_own_is_no_harm(made: Path, config: dict) -> None:
    wanted = logits(made)
    change(made, lambda weights: None, **config)
    torch.testing.assert_close(logits(made), wanted)
    assert with_new_head(open_checkpoint(made), TASK, ("a", "b", "c"), 0).config.num_labels == 3


def test_the_kernel_of_a_hub_is_refused(made: Path) -> None:
    change(made, lambda weights: None, attn_implementation="kernels-community/flash-attn")
    assert "'attn_implementation' could run code" in refusal(made)


@pytest.mark.parametrize("keep", ["both", "one"])
def test_tied_weights_that_differ_are_asked_about(tmp_path: Path, keep: str) -> None:
    path = make_checkpoint(tmp_path / "made", "qwen2", layers=2).path
    change(path, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"] + 1}))
    error = refusal(path, PROSE)
    assert "config.json ties 'lm_head.weight' to 'model.embed_tokens.weight'" in error
    follow(error.partition(", or '")[0] if keep == "both" else error)
    model = load(open_checkpoint(path, PROSE), PROSE)
    same = torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)  # type: ignore[union-attr, arg-type]
    assert same == (keep == "one")


def test_pickles_are_converted_with_their_tokenizer(made: Path) -> None:
    wanted, weights = logits(made), load_file(made / "model.safetensors")
    torch.save(weights, made / "pytorch_model.bin")
    (made / "model.safetensors").unlink()
    follow(refusal(made))
    assert torch.equal(logits(made.with_name("made-safetensors")), wanted)


def test_what_lies_beside_pickles_is_copied_as_it_is(made: Path) -> None:
    """The tokenizer byte for byte (AutoTokenizer would add a token to it), and how vectors are made."""
    (made / "1_Pooling").mkdir()
    beside = {
        "modules.json": [{"type": "sentence_transformers.models.Transformer"}], "1_Pooling/config.json": {"a": True},
        "config_sentence_transformers.json": {"prompts": {}}, "tokenizer_config.json": {"do_lower_case": True},
    }  # fmt: skip
    for name, value in beside.items():
        (made / name).write_text(json.dumps(value))
    for name in ("LICENSE", "vocab.txt", "adapter_notes.txt"):
        (made / name).write_text("x\n")
    (made / "checkpoint-9").mkdir()
    torch.save(load_file(made / "model.safetensors"), made / "pytorch_model.bin")
    (made / "model.safetensors").unlink()
    follow(refusal(made))
    new = made.with_name("made-safetensors")
    for name in (*beside, "tokenizer.json", "LICENSE"):
        assert (new / name).read_bytes() == (made / name).read_bytes()
    assert not {"pytorch_model.bin", "adapter_notes.txt", "checkpoint-9"} & {path.name for path in new.iterdir()}


def test_a_state_dict_is_converted_in_place(made: Path) -> None:
    wanted, weights = logits(made), load_file(made / "model.safetensors")
    torch.save({"state_dict": weights}, made / "model.pt")
    (made / "model.safetensors").unlink()
    follow(refusal(made))
    torch.testing.assert_close(logits(made), wanted)


def test_what_training_leaves_is_no_pickle_of_weights(made: Path) -> None:
    (made / "training_args.bin").write_bytes(b"x")
    (made / "model.safetensors").unlink()
    assert "no model.safetensors" in refusal(made)


def test_shards_are_written_as_one_file(made: Path) -> None:
    wanted = logits(made)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(made)
    (made / "model.safetensors").unlink()
    model.save_pretrained(made, max_shard_size="40KB")
    follow(refusal(made))
    assert torch.equal(logits(made.with_name("made-one-file")), wanted)


def test_an_index_without_its_shards_is_a_leftover(made: Path) -> None:
    wanted, name = logits(made), next(iter(header(made / "model.safetensors")))
    index = made / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: "model-00001-of-00002.safetensors"}}))
    torch.testing.assert_close(logits(made), wanted)
    shutil.copyfile(made / "model.safetensors", made / "model-00001-of-00002.safetensors")
    assert "sharded weights beside model.safetensors" in refusal(made)


def test_several_labels_are_said_by_the_advised_command(made: Path) -> None:
    task = TASKS["multi-label-classification"]
    error = refusal(made, task)
    assert "several labels may be right at once" in error
    follow(error)
    assert open_checkpoint(made, task).labels == LABELS
