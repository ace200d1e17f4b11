"""Generation settings beside a checkpoint: texts are those of transformers under the same settings, or a refusal."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from conftest import PROSE, make_checkpoint, paredown
from writing import TASK as WRITTEN
from writing import make_writer

from paredown.compress.models.inference import forward
from paredown.compress.models.loading import load, open_checkpoint, save
from paredown.export.artifact import read_artifact
from paredown.export.onnx.exporter import plain_onnx
from paredown.export.opening import open_artifact
from paredown.export.runtimes.base import ExportJob
from paredown.export.runtimes.registry import RUNTIMES
from paredown.runtime.causal_decoding import Decoder
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import collate

PROMPTS = [[2, 16, 18, 4, 9], [2], [2, 5, 5, 5, 5, 5, 5, 5, 6], [2, 9, 9]]
MOST = 12
SAMPLED = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "num_beams": 4, "length_penalty": 2.0}
SETTINGS = {
    "none": {},
    "sampling and beams": SAMPLED,
    "penalty": {"repetition_penalty": 1.3},
    "reward": {"repetition_penalty": 0.8},
    "bigrams": {"no_repeat_ngram_size": 2},
    "no token twice": {"no_repeat_ngram_size": 1},
    "trigrams": {"no_repeat_ngram_size": 3, "repetition_penalty": 1.1},
    "bad words": {"bad_words_ids": [[9], [16, 17], [5, 5, 6], [12]]},
    "at least new": {"min_new_tokens": 6},
    "at least": {"min_length": 10},
    "suppressed": {"suppress_tokens": [9, 16, 5], "begin_suppress_tokens": [12, 24]},
    "begins": {"begin_suppress_tokens": [9, 16, 5, 11, 12]},
    "forced first": {"forced_bos_token_id": 7, "begin_suppress_tokens": [9, 16, 5, 11]},
    "forced last": {"forced_eos_token_id": 3},
    "forced last of two": {"forced_eos_token_id": [3, 9]},
    "all": {
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "bad_words_ids": [[16]], "min_new_tokens": 4,
        "suppress_tokens": [5], "begin_suppress_tokens": [9], "forced_eos_token_id": 3, **SAMPLED,
    },
}  # fmt: skip


def say(path: Path, **values: object) -> None:
    (path / "generation_config.json").write_text(json.dumps(values))


def spread(path: Path) -> None:
    """Weights so large that answers differ from text to text."""
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    torch.manual_seed(3)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data.normal_(0, 0.3)
    model.save_pretrained(path)


@pytest.fixture(scope="module", params=["llama", "qwen2", "gpt2"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(directory of a checkpoint, a session of its graph): the graph knows nothing of the settings."""
    path = make_checkpoint(tmp_path_factory.mktemp(request.param) / "c", request.param).path
    spread(path)
    checkpoint = open_checkpoint(path, PROSE)
    graph = plain_onnx(checkpoint, PROSE, path.parent / "plain.onnx")
    artifact = RUNTIMES["onnxruntime"].export(ExportJob(graph, checkpoint, PROSE, path.parent / "artifact", 64, "fp32"))
    opened = open_artifact(artifact, 1)
    assert isinstance(opened, Decoder)
    return path, opened._session


def generated(path: Path, auto: str, rows: list[list[int]], **more: object) -> list[list[int]]:
    """What transformers writes of each row alone, with the settings beside the model, greedily."""
    model = getattr(transformers, auto).from_pretrained(path).eval()
    found = []
    for row in rows:
        ids = torch.tensor([row])
        greedy = {"max_new_tokens": MOST, "do_sample": False, "num_beams": 1, **more}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **greedy)
        found.append(out[0].tolist()[len(row) if auto.endswith("CausalLM") else 1 :])
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_text_goes_on_as_in_transformers(decoder, name: str) -> None:
    (path, session), ends = decoder, [3, 12, 24, 25]
    say(path, eos_token_id=ends, pad_token_id=0, bos_token_id=2, **SETTINGS[name])
    about = open_checkpoint(path, PROSE).generation | {"max_new_tokens": MOST}
    found = Decoder(session, about).continued(PROMPTS)
    theirs = generated(path, "AutoModelForCausalLM", PROMPTS)
    want = [[token for token in row if token not in ends] for row in theirs]
    assert [[int(i) for i in row if i >= 0] for row in found] == want


@pytest.fixture(scope="module", params=["t5", "marian"])
def writes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return make_writer(tmp_path_factory.mktemp(request.param) / "c", request.param, spread=0.4).path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_text_is_written_as_in_transformers(writes: Path, name: str) -> None:
    path = writes
    settings = {key: 1 if key == "forced_eos_token_id" else value for key, value in SETTINGS[name].items()}
    say(path, eos_token_id=1, pad_token_id=0, decoder_start_token_id=0, **settings)
    rows = [[16, 4, 9, 14, 1], [5, 1], [7, 8, 6, 11, 12, 13, 1]]
    checkpoint = replace(open_checkpoint(path, WRITTEN), max_new_tokens=MOST)
    found = forward(load(checkpoint, WRITTEN), collate(rows, 0))["sequences"]
    never = {"suppress_tokens": [0, *SETTINGS[name].get("suppress_tokens", [])]}  # padding is no word of a text
    for ours, theirs in zip(found.tolist(), generated(path, "AutoModelForSeq2SeqLM", rows, **never), strict=True):
        assert ours[: len(theirs)] == theirs
        assert not any(ours[len(theirs) :])


@pytest.mark.filterwarnings("ignore")
def test_they_count_in_what_is_saved_and_exported(tmp_path: Path) -> None:
    made = {"llama": make_checkpoint(tmp_path / "llama", "llama").path, "t5": make_writer(tmp_path / "t5").path}
    for kind, path in made.items():
        task, ends = (PROSE, 3) if kind == "llama" else (WRITTEN, 1)
        wanted = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "bad_words_ids": [[9]]}
        say(path, eos_token_id=ends, pad_token_id=0, decoder_start_token_id=0, do_sample=True, **wanted)
        source = open_checkpoint(path, task)
        saved = save(load(source, task), source, tmp_path / "saved" / kind)
        assert saved.generation["logits"] == wanted
        done = paredown("export", saved.path, "--task", task.name, "--output-dir", tmp_path / "out" / kind)
        assert done.returncode == 0, done.stderr
        artifact = read_artifact(tmp_path / "out" / kind)
        assert artifact.generation is not None
        assert artifact.generation["logits"] == wanted


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"guidance_scale": 1.5}, "'guidance_scale' is 1.5, which changes the texts"),
        ({"stop_strings": ["film"]}, "stop_strings"), ({"token_healing": True}, "token_healing"),
        ({"sequence_bias": [[[9], 5.0]]}, "sequence_bias"), ({"bad_words_ids": [[99]]}, "'bad_words_ids' is"),
        ({"suppress_tokens": ["film"]}, "'suppress_tokens' is"), ({"repetition_penalty": -1}, "'repetition_penalty'"),
    ],
)  # fmt: skip
def test_what_changes_texts_and_is_not_known_is_refused(tmp_path: Path, said: dict, words: str) -> None:
    path = make_checkpoint(tmp_path / "c", "llama").path
    say(path, eos_token_id=3, **said)
    with pytest.raises(InputError, match=words):
        _ = open_checkpoint(path, PROSE).generation
    say(path, eos_token_id=3, guidance_scale=None, stop_strings=[], sequence_bias={}, token_healing=False, **SAMPLED)
    assert "logits" not in open_checkpoint(path, PROSE).generation
