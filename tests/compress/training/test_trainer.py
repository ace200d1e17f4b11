from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import LABELS, TASK, make_checkpoint

from paredown.compress.config import Finetune
from paredown.compress.data import dataset
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import Checkpoint, load, open_checkpoint, save
from paredown.compress.training import trainer as train
from paredown.compress.types import TrainingData
from paredown.runtime.errors import StepError
from paredown.runtime.preprocessor import collate

WORDS, HEAD = "bert.embeddings.word_embeddings.weight", "classifier.weight"


def rows_of(checkpoint: Checkpoint, files: dict, name: str = "train") -> tuple[list[list[int]], np.ndarray]:
    rows = dataset.read(str(files[name]), names=LABELS)
    return dataset.encode(checkpoint.encoder(), rows), rows.gold


def test_the_teacher_learns_and_the_embeddings_stay_when_frozen(untrained: Checkpoint, files: dict) -> None:
    ids, gold = rows_of(untrained, files)
    model = load(untrained, TASK)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = []
    settings = Finetune(epochs=1, learning_rate=5e-3)
    train.finetune(model, TrainingData(ids, gold), settings, progress=lambda share, text: seen.append(share))
    after = model.state_dict()
    assert torch.equal(before[WORDS], after[WORDS])
    assert not torch.equal(before[HEAD], after[HEAD])
    assert all(p.requires_grad for p in model.parameters())
    assert not model.training
    assert seen[-1] == 1.0


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("eurobert", {"num_key_value_heads": 4}), ("qwen3", {"num_key_value_heads": 2, "head_dim": 8}), ("funnel", {}),
        ("bart", {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "eos_token_id": 3}), ("longformer", {}),
    ],
)  # fmt: skip
def test_architectures_that_are_not_exported_learn_too(tmp_path: Path, kind: str, sizes: dict) -> None:
    """A teacher may be of any; a classifier of an encoder-decoder writes nothing."""
    path = make_checkpoint(tmp_path / "c").path
    common = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    if kind == "funnel":
        common = {"block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64}
    common |= {"vocab_size": 30, "pad_token_id": 0, "attention_window": 8}
    config = transformers.AutoConfig.for_model(kind, **(common | sizes))
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    source = open_checkpoint(path, TASK)
    ids = source.encoder(32).ids(["a good film", "the film was dull and very awful and the plot was weak"])
    model = train.finetune(load(source, TASK), TrainingData(ids, np.array([0, 1])), Finetune(epochs=1), seed=0)
    both = forward(model, source.encoder().pad(ids))["logits"]
    np.testing.assert_allclose(forward(model, source.encoder().pad(ids[:1]))["logits"], both[:1], atol=1e-5)


def test_the_same_seed_gives_the_same_weights(untrained: Checkpoint, files: dict) -> None:
    ids, gold = rows_of(untrained, files)
    settings = Finetune(epochs=0.5, learning_rate=1e-3)
    models = [train.finetune(load(untrained, TASK), TrainingData(ids, gold), settings, seed=s) for s in (1, 1, 2)]
    a, b, c = (model.state_dict()[HEAD] for model in models)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_loss_that_is_not_finite_stops_at_once(untrained: Checkpoint, files: dict) -> None:
    ids, gold = rows_of(untrained, files)
    model = load(untrained, TASK)
    with torch.no_grad():
        model.state_dict()[HEAD][0, 0] = float("nan")
    with pytest.raises(StepError, match=r"the loss is nan at step 1 of \d+"):
        train.finetune(model, TrainingData(ids, gold), Finetune(epochs=1))


def test_out_of_memory_halves_the_rows_at_a_time_and_keeps_the_batch(untrained: Checkpoint, files: dict) -> None:
    ids, gold = rows_of(untrained, files)
    rows = [{"input_ids": row, "labels": int(g)} for row, g in zip(ids, gold, strict=True)]
    sizes, said = [], []

    def loss(net, batch):
        sizes.append(len(batch["labels"]))
        if len(batch["labels"]) > 8:
            raise torch.OutOfMemoryError("no room")
        return torch.nn.functional.cross_entropy(net(input_ids=batch["input_ids"]).logits, batch["labels"])

    settings = Finetune(epochs=0.2, batch_size=32)
    train.fit(
        load(untrained, TASK),
        rows,
        loss,
        settings,
        seed=0,
        monitor=train.Monitor(progress=lambda share, text: said.append(text)),
    )
    assert max(sizes[2:]) == 8
    assert any("again with 8 rows" in text for text in said)
    steps = {text for text in said if text.startswith("step")}
    assert len(steps) == 3  # 400 rows * 0.2 / 32, rounded up: the effective batch is still 32


def test_long_rows_are_computed_in_parts_of_their_batch(untrained: Checkpoint, files: dict, monkeypatch) -> None:
    """32 rows of 512 tokens at a time take 17 GB: as many as fit, and the weights come to the same."""
    ids, gold = rows_of(untrained, files)
    rows = [{"input_ids": row, "labels": int(g)} for row, g in zip(ids[:64], gold, strict=False)]
    sizes, weights = [], []

    def loss(net, batch):
        sizes.append(batch["input_ids"].shape)
        return torch.nn.functional.cross_entropy(
            net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits, batch["labels"]
        )

    longest = max(map(len, ids[:64]))
    for tokens in (10_000, 8 * longest):
        monkeypatch.setattr(train, "TOKENS", tokens)
        sizes.clear()
        model = load(untrained, TASK)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        train.fit(model, rows, loss, Finetune(epochs=1, batch_size=16, learning_rate=1e-3), seed=0)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert max(count for count, _ in sizes) == min(16, tokens // longest)
        assert sum(count for count, _ in sizes) == 64
    assert torch.allclose(*weights, atol=3e-4)


def test_forward_gives_float32_logits(teacher: Checkpoint) -> None:
    batch = teacher.encoder().pad([[2, 5, 3], [2, 6, 7, 3]])
    out = forward(load(teacher, TASK), batch)["logits"]
    assert out.shape == (2, 2)
    assert out.dtype == np.float32


def test_what_computes_in_bf16_while_it_trains_does_not_afterwards(
    untrained: Checkpoint, files: dict, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate leaves its wrapper around `forward`, and the answers were others than those of the saved model."""
    monkeypatch.setattr(train, "fast_bf16", lambda: True)
    ids, gold = rows_of(untrained, files)
    model = train.finetune(load(untrained, TASK), TrainingData(ids[:64], gold[:64]), Finetune(epochs=1))
    again = load(save(model, untrained, tmp_path / "saved"), TASK)
    batch = untrained.encoder().pad(ids[:4])
    np.testing.assert_array_equal(forward(model, batch)["logits"], forward(again, batch)["logits"])


def test_class_weights_of_rows_that_come_one_by_one(untrained: Checkpoint, files: dict) -> None:
    """As a recipe's step gives them: a list of numbers."""
    ids, gold = rows_of(untrained, files)
    train.finetune(
        load(untrained, TASK), TrainingData(ids[:32], list(gold[:32])), Finetune(epochs=1, class_weights="balanced")
    )


@pytest.mark.parametrize("task", ["text-classification", "token-classification"])
def test_short_texts_on_a_cpu_with_amx_learn_the_same(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several lengths, padded to multiples of eight, and attention as two products: what it computes stays."""
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=5,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    kinds = {"text-classification": "ForSequenceClassification", "token-classification": "ForTokenClassification"}
    generator = np.random.default_rng(0)
    ids = [generator.integers(1, 50, length).tolist() for length in (3, 5, 7, 9, 30, 12, 11, 17)]
    labels = [np.full(len(row), 1) for row in ids] if task == "token-classification" else np.arange(8) % 5
    after = []
    for lengths, short in ((1, 0), (8, 192)):
        monkeypatch.setattr(train, "LENGTHS", lengths)
        monkeypatch.setattr(train, "SHORT", short)
        monkeypatch.setattr(train, "fast_bf16", lambda: True)
        torch.manual_seed(0)
        model = getattr(transformers, "Bert" + kinds[task])(config)
        before = forward(model, collate(ids, 0))["logits"]
        train.finetune(model, TrainingData(ids, labels), Finetune(epochs=4, learning_rate=1e-3, batch_size=4), seed=1)
        after.append(forward(model, collate(ids, 0))["logits"])
    assert np.abs(after[0] - after[1]).max() < 0.1 * np.abs(after[0] - before).max()  # as near as bf16 is
