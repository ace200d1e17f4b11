import json

import numpy as np
import pytest
import torch
import transformers
from conftest import LABELS, TASK, make_checkpoint
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from paredown.compress.config import Static, Trim
from paredown.compress.distillation.static_student import initial_student
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, save
from paredown.compress.pruning.vocabulary import changed_share, trim
from paredown.runtime.errors import InputError

TEXTS = ["the good film was a lovely scene", "an awful plot with dull actors", "néw wörds, ünseen", "12 films"]
SPECIALS = ["<pad>", "<unk>", "<s>", "</s>"]


def tokenizer_of(kind: str) -> Tokenizer:
    """A small trained tokenizer of each kind that checkpoints come with."""
    model, trainer = {
        "WordPiece": (
            models.WordPiece(unk_token="<unk>"),
            trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIALS),
        ),
        "BPE": (models.BPE(unk_token="<unk>"), trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIALS)),
        "Unigram": (
            models.Unigram(),
            trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIALS, unk_token="<unk>"),
        ),
    }[kind]
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    stems = ["act", "direct", "film", "wonder", "dread", "move", "plot", "sing"]
    more = [f"{stem}{end}" for stem in stems for end in ("", "s", "ing")]
    tokenizer.train_from_iterator([*TEXTS * 20, *more * 20], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return tokenizer


@pytest.fixture(params=["WordPiece", "BPE", "Unigram"])
def checkpoint(request, tmp_path) -> Checkpoint:
    """A tiny checkpoint with a vocabulary of that kind."""
    source = make_checkpoint(tmp_path / "source")
    tokenizer = tokenizer_of(request.param)
    config = json.loads((source.path / "config.json").read_text()) | {"vocab_size": tokenizer.get_vocab_size()}
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(transformers.BertConfig(**config))
    tokenizer.save(str(source.path / "tokenizer.json"))
    return save(model, source, tmp_path / "checkpoint")


def test_tokens_that_are_rare_fall_into_smaller_pieces(checkpoint: Checkpoint) -> None:
    texts = [*TEXTS, "the good film", "the good film"]
    file = checkpoint.path / "tokenizer.json"
    sizes = []
    for count in (1, 3):
        text = trim(load(checkpoint, TASK), file, texts, Trim(frequent=0, min_count=count))
        tokenizer = Tokenizer.from_str(text)
        sizes.append(tokenizer.get_vocab_size())
        tokens = tokenizer.encode("the good film").tokens
        assert tokens == checkpoint.encoder().tokenizer.encode("the good film").tokens
        assert "<unk>" not in tokenizer.encode("awful dull").tokens
    assert sizes[1] < sizes[0]


def test_text_of_the_data_keeps_its_tokens_and_its_answers(checkpoint: Checkpoint, tmp_path) -> None:
    model = load(checkpoint, TASK)
    before = [forward(model, checkpoint.encoder().pad([ids]))["logits"] for ids in checkpoint.encoder().ids(TEXTS)]
    was = [e.tokens for e in checkpoint.encoder().tokenizer.encode_batch(TEXTS)]
    text = trim(model, checkpoint.path / "tokenizer.json", TEXTS, Trim(frequent=0))
    saved = save(model, checkpoint, tmp_path / "trimmed", text)
    assert saved.config["vocab_size"] < checkpoint.config["vocab_size"]
    again, encoder = load(saved, TASK), saved.encoder()
    assert [e.tokens for e in encoder.tokenizer.encode_batch(TEXTS)] == was
    for ids, want in zip(encoder.ids(TEXTS), before, strict=True):
        np.testing.assert_allclose(forward(again, encoder.pad([ids]))["logits"], want, atol=1e-6)
    before = (checkpoint.path / "tokenizer.json").read_text()
    assert changed_share(before, text, TEXTS) == 0


def test_a_static_student_keeps_its_answers(checkpoint: Checkpoint, tmp_path) -> None:
    """Buckets of new token numbers were other buckets: 75.7 % before trimming, 70.9 % after."""
    settings = Static(width=8, pairs=64, convolution=3, convolution_layers=2, max_pooling=True)
    model = initial_student(load(checkpoint, TASK), settings, seed=0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    before = [forward(model, checkpoint.encoder().pad([ids]))["logits"] for ids in checkpoint.encoder().ids(TEXTS)]
    text = trim(model, checkpoint.path / "tokenizer.json", TEXTS, Trim(frequent=0))
    saved = save(model, checkpoint, tmp_path / "trimmed", text)
    assert saved.config["vocab_size"] < checkpoint.config["vocab_size"]
    again, encoder = load(saved, TASK), saved.encoder()
    for ids, want in zip(encoder.ids(TEXTS), before, strict=True):
        np.testing.assert_allclose(forward(again, encoder.pad([ids]))["logits"], want, atol=1e-6)


def test_text_not_seen_before_still_has_tokens(checkpoint: Checkpoint, tmp_path) -> None:
    model, unseen = load(checkpoint, TASK), ["wondering", "movings", "plots directing"]
    text = trim(model, checkpoint.path / "tokenizer.json", TEXTS, Trim(frequent=0))
    encodings = Tokenizer.from_str(text).encode_batch(unseen)
    assert not any("<unk>" in encoding.tokens for encoding in encodings)
    assert max(i for encoding in encodings for i in encoding.ids) < model.config.vocab_size
    assert 0 < changed_share((checkpoint.path / "tokenizer.json").read_text(), text, unseen) <= 1


def test_plain_transformers_reads_the_trimmed_tokenizer(checkpoint: Checkpoint, tmp_path) -> None:
    (checkpoint.path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"})
    )
    model = load(checkpoint, TASK)
    saved = save(
        model, checkpoint, tmp_path / "t", trim(model, checkpoint.path / "tokenizer.json", TEXTS, Trim(frequent=0))
    )
    theirs = transformers.AutoTokenizer.from_pretrained(saved.path)
    assert [theirs(text)["input_ids"] for text in TEXTS] == saved.encoder().ids(TEXTS)


def test_frequent_pieces_stay(teacher: Checkpoint) -> None:
    model = load(teacher, TASK)
    everything = model.config.vocab_size
    trim(model, teacher.path / "tokenizer.json", [], Trim(frequent=10))
    assert 10 <= model.config.vocab_size < everything
    assert model.config.id2label == dict(enumerate(LABELS))


def test_a_vocabulary_of_another_kind_is_refused(teacher: Checkpoint, tmp_path) -> None:
    data = json.loads((teacher.path / "tokenizer.json").read_text())
    data["model"] = {"type": "WordLevelish", "vocab": {}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"tokenizer.json: .*'WordLevelish'.*WordPiece"):
        trim(load(teacher, TASK), tmp_path / "tokenizer.json", [], Trim())
