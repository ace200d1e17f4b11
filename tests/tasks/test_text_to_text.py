"""Texts that are written: cells, tokens, ROUGE-L, the loop, what is taught, and fewer layers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from writing import TASK, make_writer, write_rows
from writing import rows as rows_of_texts

from paredown.compress.config import Distill, Finetune
from paredown.compress.data.dataset import read_rows
from paredown.compress.distillation.distill import distill
from paredown.compress.models.architectures import SEQ2SEQ
from paredown.compress.models.inference import forward, teacher_scores
from paredown.compress.models.loading import load, open_checkpoint, save
from paredown.compress.models.seq2seq import depths
from paredown.compress.training.collate import stack
from paredown.compress.training.losses import NO_LABEL
from paredown.compress.training.seq2seq_targets import along, targets_of, training_rows
from paredown.compress.training.trainer import finetune
from paredown.runtime.errors import InputError
from paredown.runtime.seq2seq_decoding import writer
from paredown.tasks import text_to_text

ROWS = [[5, 9, 1], [4, 6, 8, 3, 11, 12, 7, 1], [10, 1]]


@pytest.mark.parametrize(
    ("said", "true", "want"),
    [
        ("The film, good!", "the film good", 1),
        ("good film", "the good film", 0.8),
        ("film good", "good film", 0.5),
        ("", "", 1),
        ("", "film", 0),
        ("хороший фильм", "фильм", 2 / 3),
    ],
)
def test_rouge_l_is_of_words_in_their_order(said: str, true: str, want: float) -> None:
    assert text_to_text.rouge_l(said, true) == pytest.approx(want)


def test_rouge_l_is_googles() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    rng = np.random.default_rng(0)
    words = ["The", "film", "was", "dull,", "good!", "42", "a", "plot-line"]
    for _ in range(200):
        said, true = (" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(2))
        assert text_to_text.rouge_l(said, true) == pytest.approx(scorer.score(true, said)["rougeL"].fmeasure)


def test_rows_are_texts_and_their_targets(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("source,summary\na long text,short\nanother,one\n")
    rows = read_rows(TASK, str(path))
    assert rows.gold.tolist() == ["short", "one"]
    assert rows.sample(1).renamed(("a",)).gold.tolist() in (["short"], ["one"])
    path.write_text("source,summary\na long text,\n")
    with pytest.raises(InputError, match="line 2: column 'summary' is empty"):
        read_rows(TASK, str(path))


def test_what_is_scored_is_the_text(tmp_path: Path) -> None:
    encoder = make_writer(tmp_path / "c").encoder(32)
    rows = read_rows(TASK, str(write_rows(tmp_path / "rows.jsonl", rows_of_texts(4, 0))))
    gold, targets = TASK.gold(rows, encoder), TASK.training_targets(rows, encoder)
    sequences = np.zeros((4, 9), dtype=np.int64)
    for row, target in zip(sequences, targets, strict=True):
        row[: len(target)] = target
    assert TASK.metric(sequences, gold) == 100
    assert TASK.further_metrics(sequences, gold)["exact"] == 100
    assert [a["text"] for a in TASK.decode(sequences, (), rows.texts, encoder)] == rows.gold.tolist()
    assert TASK.probabilities(sequences, [])[:, 0].tolist() == [len(t) + 1 for t in targets]
    other = sequences.copy()
    other[1, 0] = 7
    assert TASK.same_answers(other, sequences).tolist() == [True, False, True, True]


@pytest.mark.parametrize("kind", SEQ2SEQ)
def test_a_model_writes_what_it_would_without_a_cache(kind: str, tmp_path: Path) -> None:
    checkpoint = make_writer(tmp_path / "c", kind, spread=0.4)
    model, batch = load(checkpoint, TASK), checkpoint.encoder(32).pad(ROWS)
    found = forward(model, batch)["sequences"]
    assert found.shape == (3, 64)
    said = torch.zeros(3, 1, dtype=torch.long)
    with torch.inference_mode():
        for _ in range(8):
            given = {name: torch.from_numpy(array) for name, array in batch.items()}
            logits = model(**given, decoder_input_ids=said, use_cache=False).logits[:, -1]
            logits[:, 0] = -torch.inf
            said = torch.cat([said, logits.argmax(-1, keepdim=True)], dim=1)
    for ours, theirs in zip(found, said[:, 1:].numpy(), strict=True):
        count = int((ours != 0).sum())
        np.testing.assert_array_equal(ours[: min(count, 8)], theirs[: min(count, 8)])


def test_the_loop_stops_where_every_row_has_ended_and_refuses_no_numbers() -> None:
    calls = []

    def encoder(batch: dict) -> dict:
        return {"cross.0.key": np.zeros((2, 1, 3, 2)), "cross.0.value": np.zeros((2, 1, 3, 2))}

    def decoder(batch: dict) -> dict:
        calls.append(batch["past.0.key"].shape[2])
        logits = np.zeros((2, 5))
        logits[:, 0] = 9  # padding is never written
        logits[0, [3, 1][min(len(calls) - 1, 1)]] = 1
        logits[1, [3, 4, 1][min(len(calls) - 1, 2)]] = bad
        past = np.zeros((2, 1, len(calls), 2))
        return {"logits": logits, "present.0.key": past, "present.0.value": past}

    rules: dict = {"start_id": 2, "eos_id": 1, "pad_id": 0, "max_new_tokens": 6}
    batch = {"input_ids": np.ones((2, 3), np.int64), "attention_mask": np.ones((2, 3), np.int64)}
    bad = 1.0
    found = writer(encoder, decoder, rules)(batch)["sequences"]
    assert found.tolist() == [[3, 1, 0, 0, 0, 0], [3, 4, 1, 0, 0, 0]]
    assert calls == [0, 1, 2]
    bad = np.nan
    with pytest.raises(ValueError, match="not finite"):
        writer(encoder, decoder, rules)(batch)


def test_rows_learn_along_their_own_text_or_the_teachers(tmp_path: Path) -> None:
    model = load(make_writer(tmp_path / "c", spread=0.4), TASK)
    said = teacher_scores(model, ROWS)
    own = np.array([7, 6, 1])
    rows = along(model, ROWS, [own, np.array(NO_LABEL), own], said)
    assert rows[0]["targets"].tolist() == rows[0]["labels"].tolist() == [7, 6, 1]
    assert rows[0]["decoder_input_ids"].tolist() == [0, 7, 6]
    assert rows[1]["targets"].tolist() == targets_of(model, said)[1].tolist()
    assert set(rows[1]["labels"].tolist()) == {NO_LABEL}
    batch = stack(rows, 0)
    assert batch["labels"].shape == batch["targets"].shape == batch["decoder_input_ids"].shape
    assert batch["input_ids"].shape == (3, 8)
    assert (batch["targets"][0, 3:] == NO_LABEL).all()


def test_it_learns_and_its_student_has_fewer_layers(tmp_path: Path) -> None:
    checkpoint = make_writer(tmp_path / "c")
    encoder = checkpoint.encoder(32)
    rows = read_rows(TASK, str(write_rows(tmp_path / "rows.jsonl", rows_of_texts(64, 0))))
    model, ids, labels = load(checkpoint, TASK), encoder.ids(rows.texts), TASK.training_targets(rows, encoder)

    def loss() -> float:
        with torch.inference_mode():
            return float(model(**stack(training_rows(model, ids, labels), 0)).loss)

    before = loss()
    settings = Finetune(epochs=2, batch_size=8, learning_rate=5e-3, freeze_embeddings=False, patience=9, looks=1)
    finetune(model, ids, labels, settings, validation=(ids[:8], labels[:8]), seed=0)
    assert loss() < 0.8 * before
    student = distill(model, ids[:16], Distill(layers=2, decoder_layers=1, epochs=1, batch_size=8), labels=labels[:16])
    assert depths(student) == (2, 1)
    saved = save(student, checkpoint, tmp_path / "student")
    again = load(saved, TASK)
    batch = encoder.pad(ids[:3])
    np.testing.assert_array_equal(forward(again, batch)["sequences"], forward(student, batch)["sequences"])
    assert (again.config.num_layers, again.config.num_decoder_layers) == (2, 1)
    with pytest.raises(InputError, match="the first one in"):
        distill(model, ids[:16], Distill(layers=[1], epochs=1))
    with pytest.raises(InputError, match="width"):
        distill(model, ids[:16], Distill(layers=1, width=16, hidden_weight=0))


def test_a_checkpoint_that_cannot_write_is_refused(tmp_path: Path) -> None:
    path = make_writer(tmp_path / "c").path
    rules = json.loads((path / "generation_config.json").read_text())
    (path / "generation_config.json").write_text(json.dumps({**rules, "max_new_tokens": 7}))
    assert open_checkpoint(path, TASK).generation["max_new_tokens"] == 7
    (path / "generation_config.json").write_text(json.dumps({**rules, "eos_token_id": [1, 2]}))
    with pytest.raises(InputError, match="'eos_token_id' is"):
        open_checkpoint(path, TASK)
    (path / "generation_config.json").write_text(json.dumps({**rules, "eos_token_id": 4}))
    with pytest.raises(InputError, match="does not end with the token 4"):
        open_checkpoint(path, TASK)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "model_type": "bart"}))
    with pytest.raises(InputError, match="supported: t5, mt5, marian"):
        open_checkpoint(path, TASK)
    (path / "config.json").write_text(json.dumps({**config, "model_type": "marian"}))
    (path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="two SentencePiece models"):
        open_checkpoint(path, TASK)
