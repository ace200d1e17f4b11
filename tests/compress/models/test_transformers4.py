"""What is saved opens in transformers 4 with the same logits and tokens; PAREDOWN_TRANSFORMERS_4 names its python."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import LABELS, TASK, write_tokenizer
from tokenizers import Tokenizer
from writing import make_writer

from paredown.compress.config import Trim
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.models.structure import cut, describe_by_config
from paredown.compress.models.transformers4 import for_transformers_4
from paredown.compress.models.validation import header
from paredown.compress.pruning.vocabulary import trim
from paredown.tasks.base import Task
from paredown.tasks.registry import TASKS

PYTHON = os.environ.get("PAREDOWN_TRANSFORMERS_4")
TEXTS = ["The film was good, the plot was awful!", "Élan vital, naïve café: 12345 in 2024", "don't  stop <b>电影</b>"]
PROBES = [*TEXTS, "x", " The FILM ", "good film " * 40, "one \t two\nthree", "a [MASK] b <mask> <extra_id_3> d <user>"]
PAIRS = [("the film", "the plot was good"), ("Élan", "a café")]
TOKENIZERS = {
    "bert": "BertTokenizer", "roberta": "RobertaTokenizer", "electra": "ElectraTokenizer",
    "distilbert": "DistilBertTokenizer", "mpnet": "MPNetTokenizer", "deberta-v2": "DebertaV2Tokenizer",
    "modernbert": "TokenizersBackend", "llama": "LlamaTokenizer", "qwen2": "Qwen2Tokenizer", "gpt2": "GPT2Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer", "camembert": "CamembertTokenizer", "albert": "AlbertTokenizer",
}  # fmt: skip
OPEN = """
import json, sys, torch, transformers
assert transformers.__version__.startswith("4."), transformers.__version__
told = json.load(open(sys.argv[1]))
found = {}
for name, (path, auto, inputs) in told["models"].items():
    try:
        model, report = getattr(transformers, auto).from_pretrained(path, output_loading_info=True, dtype=torch.float32)
        with torch.inference_mode():
            logits = model.eval()(**{key: torch.tensor(value) for key, value in inputs.items()}).logits
        keys = [sorted(map(str, report[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")]
        found[name] = {"logits": logits.tolist(), "keys": keys}
        if "input_ids" in inputs:
            tokenizer = transformers.AutoTokenizer.from_pretrained(path)
            found[name]["class"] = type(tokenizer).__name__
            texts = told["probes"]
            found[name]["ids"] = [tokenizer(text, truncation=True, max_length=24)["input_ids"] for text in texts]
            found[name]["pairs"] = [tokenizer(*pair)["input_ids"] for pair in told["pairs"]]
            found[name]["special"] = sorted(set(tokenizer.all_special_tokens))
            found[name]["rows"] = max(tokenizer.get_vocab().values()) + 1
        if hasattr(model, "generation_config") and model.can_generate():
            found[name]["generation"] = model.generation_config.to_diff_dict()
    except Exception as error:
        found[name] = {"error": f"{type(error).__name__}: {error}"[:600]}
json.dump(found, open(sys.argv[2], "w"))
"""


def tokenizer_of(kind: str, path: Path, **more: Any) -> Any:
    """What transformers 5 saves for an architecture: its own class, trained on a few texts, with a token added."""
    made = transformers.BertTokenizer() if kind == "modernbert" else getattr(transformers, TOKENIZERS[kind])()
    made = made.train_new_from_iterator(TEXTS * 20, 400)
    if kind == "modernbert":
        own = json.loads(made.backend_tokenizer.to_str())
        names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
        made = transformers.TokenizersBackend(tokenizer_object=Tokenizer.from_str(json.dumps(own)), **names)
    made.add_special_tokens({"extra_special_tokens": ["<user>"]}, replace_extra_special_tokens=False)
    made.save_pretrained(path)
    return made


def checkpoint_of(kind: str, path: Path) -> tuple[Checkpoint, Task]:
    """An untrained checkpoint of an architecture, as transformers 5 saves it."""
    if kind in ("t5", "mt5", "marian"):
        made = make_writer(path, kind, spread=0.4)
        if kind == "marian":  # its own class wants two SentencePiece models
            json_of(path / "tokenizer_config.json", tokenizer_class="TokenizersBackend", eos_token="</s>",
                    pad_token="<pad>", unk_token="<unk>", backend="tokenizers")  # fmt: skip
        else:
            json_of(path / "tokenizer_config.json", tokenizer_class="T5Tokenizer", extra_ids=0, eos_token="</s>",
                    pad_token="<pad>", unk_token="<unk>", backend="tokenizers", extra_special_tokens=[])  # fmt: skip
        return made, TASKS["text-to-text"]
    task = TASKS["text-generation"] if kind in ("llama", "qwen2", "gpt2") else TASK
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 64}
    if kind in ("vit", "resnet", "convnext"):
        task, shape = TASKS["image-classification"], {"image_size": 16, "patch_size": 8}
        if kind != "vit":
            sizes, shape = {}, {"hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 16}
            shape |= {"num_stages": 2} if kind == "convnext" else {"embedding_size": 8, "layer_type": "basic"}
        config = transformers.AutoConfig.for_model(kind, **names, **sizes, **shape)
        said = {"do_resize": True, "size": {"height": 16, "width": 16}, "resample": 2, "do_normalize": True,
                "image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # fmt: skip
        path.mkdir(parents=True)
        json_of(path / "preprocessor_config.json", image_processor_type="ViTImageProcessor", **said)
    else:
        tokenizer = tokenizer_of(kind, path)
        tokens = {"pad_token_id": tokenizer.pad_token_id or 0, "bos_token_id": tokenizer.bos_token_id,
                  "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
        more: dict[str, Any] = {
            "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
            "deberta-v2": {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"]},
            "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
            "llama": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
            "qwen2": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            "modernbert": {
                "global_attn_every_n_layers": 2, "local_attention": 4,
                "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 16e4},
                                    "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}},
            },
            "albert": {"embedding_size": 16},
        }.get(kind, {})  # fmt: skip
        labels = {} if task is not TASK else names
        config = transformers.AutoConfig.for_model(
            kind, vocab_size=len(tokenizer), **tokens, **labels, **(sizes | {"num_key_value_heads": 2} | more)
        )
    torch.manual_seed(0)
    model = getattr(transformers, task.auto_class).from_config(config)
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and not name.startswith("classifier"):
            weight.data.mul_(3)
    model.save_pretrained(path)
    return open_checkpoint(path, task), task


def json_of(path: Path, **values: object) -> None:
    path.write_text(json.dumps(values))


KINDS = [*TOKENIZERS, "t5", "mt5", "marian", "vit", "resnet", "convnext"]
EVEN, TRIMMED = ("roberta", "qwen2", "vit"), ("distilbert", "mpnet")  # pruned to one shape; with fewer tokens
GENERATION = {kind: {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2} for kind in ("llama", "t5", "marian")}


def trimmed(model: Any, source: Checkpoint) -> str:
    """The model without the tokens that a few words do not need, in place; returns its tokenizer.json."""
    file, words = source.path / "tokenizer.json", ["The film was good, the plot"]
    return trim(model, file, words, Trim(frequent=20), source.tokenizer_text)


def differences(kind: str, want: dict, got: dict) -> list[str]:
    """What transformers 4 gives otherwise than we do, a line each."""
    if "error" in got:
        return [f"{kind}: {got['error']}"]
    wrong, logits = [], torch.tensor(got["logits"])
    apart = float((logits - want["logits"]).abs().max() / want["logits"].abs().max())
    if apart > 2e-5 or any(got["keys"]):
        wrong.append(f"{kind}: logits differ by a share of {apart}, {got['keys']}")
    if "ids" in want:
        ours, theirs = want["ids"] + want["pairs"], got["ids"] + got["pairs"]
        for probe, a, b in zip([*PROBES, *PAIRS], ours, theirs, strict=True):
            if a != b:
                wrong.append(f"{kind} {got['class']}: {probe!r} is {a} and {b}")
        if got["rows"] > want["rows"]:
            wrong.append(f"{kind} {got['class']}: {got['rows']} tokens, the embedding has {want['rows']} rows")
    if kind in TOKENIZERS and "<user>" not in got["special"]:
        wrong.append(f"{kind} {got['class']}: special tokens are {got['special']}")
    if any(got["generation"].get(key) != value for key, value in GENERATION.get(kind, {}).items()):
        wrong.append(f"{kind}: the generation settings are {got['generation']}")
    return wrong


@pytest.mark.skipif(PYTHON is None, reason="PAREDOWN_TRANSFORMERS_4 names no python that has transformers 4")
def test_every_architecture_opens_in_transformers_4(tmp_path: Path) -> None:
    assert PYTHON is not None
    told: dict[str, Any] = {"models": {}, "probes": PROBES, "pairs": PAIRS}
    wanted: dict[str, dict] = {}
    for kind in KINDS:
        source, task = checkpoint_of(kind, tmp_path / "made" / kind)
        model = load(source, task)
        for key, value in GENERATION.get(kind, {}).items():
            setattr(model.generation_config, key, value)
        if kind in EVEN:
            cut(model, [np.arange(4)] * 2, [np.arange(32)] * 2)
            describe_by_config(model)
        saved = save(model, source, tmp_path / kind, trimmed(model, source) if kind in TRIMMED else None)
        assert not (saved.path / "structure.json").exists()
        ids = torch.tensor([[2, 5, 11, 20, 13, 7, 9, 14, 21, 17, 8, 3]] * 2)
        if task.reads_images:
            inputs = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
        else:
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if task.graph == "seq2seq":
            inputs["decoder_input_ids"] = ids[:, :3]
        with torch.inference_mode():
            logits = load(saved, task)(**inputs).logits
        told["models"][kind] = str(saved.path), task.auto_class, {k: v.tolist() for k, v in inputs.items()}
        wanted[kind] = {"logits": logits}
        if not task.reads_images:
            encoder = saved.encoder(24)
            pairs = [saved.encoder().tokenizer.encode(*pair).ids for pair in PAIRS]
            wanted[kind] |= {"ids": encoder.ids(PROBES), "pairs": pairs, "rows": saved.config["vocab_size"]}
    json_of(tmp_path / "told.json", **told)
    command = [PYTHON, "-c", OPEN, tmp_path / "told.json", tmp_path / "found.json"]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(list(map(str, command)), check=True, env=env, capture_output=True)
    found = json.loads((tmp_path / "found.json").read_text())
    wrong = [line for kind, want in wanted.items() for line in differences(kind, want, found[kind])]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"tokenizer_class": "TokenizersBackend"}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"tokenizer_class": "BertTokenizer"}, {"tokenizer_class": "BertTokenizer"}),
        ({"extra_special_tokens": ["<a>", "<b>"], "additional_special_tokens": ["<a>"]},
         {"additional_special_tokens": ["<a>", "<b>"]}),
        ({"extra_special_tokens": {"image_token": "<i>"}}, {"extra_special_tokens": {"image_token": "<i>"}}),
        ({"tokenizer_class": "LlamaTokenizer"},
         {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True}),
        ({"tokenizer_class": "LlamaTokenizerFast", "add_eos_token": False},
         {"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": True, "add_eos_token": False}),
    ],
)  # fmt: skip
def test_names_that_only_transformers_5_knows_become_those_of_both(tmp_path: Path, said: dict, wanted: dict) -> None:
    write_tokenizer(tmp_path)  # [CLS] before a text and [SEP] behind it
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    json_of(tmp_path / "tokenizer_config.json", **said)
    for_transformers_4(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == wanted


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"rope_type": "default", "rope_theta": 1e6}, {"rope_theta": 1e6}),
        ({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5},
         {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ({"full_attention": {"rope_theta": 16e4}, "sliding_attention": {"rope_theta": 1e4}},
         {"global_rope_theta": 16e4, "local_rope_theta": 1e4}),
    ],
)  # fmt: skip
def test_rotary_positions_are_said_in_both_ways(tmp_path: Path, said: dict, wanted: dict) -> None:
    json_of(tmp_path / "config.json", model_type="llama", rope_parameters=said)
    for_transformers_4(tmp_path)
    found = json.loads((tmp_path / "config.json").read_text())
    assert found == {"model_type": "llama", "rope_parameters": said, **wanted}


@pytest.mark.parametrize("kind", ["t5", "mt5"])
@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("version", [4, 5])
def test_the_output_layer_of_a_t5_may_be_its_own(tmp_path: Path, kind: str, apart: bool, version: int) -> None:
    """Flan-T5, T5 v1.1, mT5: transformers 5 says that they are tied, and loads both where both are in the file."""
    task = TASKS["text-to-text"]
    path = make_writer(tmp_path / "made", kind, spread=0.4).path
    config = transformers.AutoConfig.from_pretrained(path)
    config.scale_decoder_outputs = kind == "t5" and not apart
    model: Any = transformers.AutoModelForSeq2SeqLM.from_config(config)
    if apart:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(path)
    if version == 4:
        config = json.loads((path / "config.json").read_text())
        scaled = config.pop("scale_decoder_outputs", False)
        json_of(path / "config.json", **config | {"tie_word_embeddings": scaled})
    ids = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "decoder_input_ids": torch.tensor([[0, 5]])}
    with torch.inference_mode():
        wanted = model.eval()(**ids).logits
        source = open_checkpoint(path, task)
        assert torch.allclose(load(source, task)(**ids).logits, wanted, atol=1e-5)
        saved = save(load(source, task), source, tmp_path / "saved")
        assert torch.allclose(load(saved, task)(**ids).logits, wanted, atol=1e-5)
    own = apart or kind == "mt5"
    assert ("lm_head.weight" in header(saved.path / "model.safetensors")) == own
    assert saved.config["tie_word_embeddings"] != own
