from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from conftest import BAD, FILLER, GOOD, make_checkpoint, sentences
from tokenizers import Tokenizer

from paredown.compress.config import Augment
from paredown.compress.training.augmentation import augment, recombined
from paredown.runtime.errors import InputError
from paredown.tasks import perturbations

TEXTS = [text for text, _ in sentences(40, 7)]
WORDS = {*GOOD, *BAD, *FILLER}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_same_seed_gives_the_same_rows_whatever_stands_beside_them() -> None:
    once, again, other = (augment(TEXTS, Augment(copies=2), seed=seed) for seed in (1, 1, 2))
    assert once == again
    assert once != other
    assert len({text for _, text in once} | set(TEXTS)) == len(once) + len(set(TEXTS))  # none is there twice
    fewer = augment(TEXTS[:10], Augment(), seed=1)
    assert fewer == [row for row in augment(TEXTS, Augment(), seed=1) if row[0] < 10]


def test_each_change_touches_as_many_words_as_asked() -> None:
    text = "one two three four five six seven eight nine ten"
    words = text.split()
    typed = perturbations.changed(text, perturbations.typos, 0.3, rng()).split()
    assert 1 <= sum(a != b for a, b in zip(words, typed, strict=True)) <= 3
    assert len(perturbations.changed(text, perturbations.deletion, 0.3, rng()).split()) == 7
    assert perturbations.changed("alone", perturbations.deletion, 1.0, rng()) == "alone"
    assert sorted(perturbations.changed(text, perturbations.swap, 0.2, rng()).split()) == sorted(words)


@pytest.mark.parametrize("change", perturbations.MEASURED.values(), ids=perturbations.MEASURED)
def test_what_runs_are_scored_under_is_the_same_every_time(change: perturbations.Change) -> None:
    once = perturbations.all_changed(TEXTS, change)
    assert once == perturbations.all_changed(TEXTS, change)
    assert once[:5] == perturbations.all_changed(TEXTS[:5], change)
    assert all(before != after for before, after in zip(TEXTS, once, strict=True))
    same = [len(before.split()) == len(after.split()) for before, after in zip(TEXTS, once, strict=True)]
    assert all(same) == (change in perturbations.KEEP_THE_WORDS)


def test_synonyms_come_from_the_file_and_keep_capitals(tmp_path: Path) -> None:
    path = tmp_path / "groups.txt"
    path.write_text("film, movie\nfilm, picture\n\n")
    groups = perturbations.read_synonyms(path)
    assert groups == {"film": ["movie", "picture"], "movie": ["film"], "picture": ["film"]}
    made = perturbations.changed("Film of a plot", perturbations.synonyms(groups), 0.2, rng())
    assert made in ("Movie of a plot", "Picture of a plot")
    assert perturbations.changed("a plot, nothing", perturbations.synonyms(groups), 0.2, rng()) == "a plot, nothing"
    path.write_text("film\n")
    with pytest.raises(InputError, match="line 1: 'film' is alone"):
        perturbations.read_synonyms(path)


def test_a_masked_model_fills_gaps_with_whole_words(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "mlm")
    tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
    tokenizer.add_special_tokens(["[MASK]"])
    tokenizer.save(str(checkpoint.path / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(checkpoint.path)
    config.vocab_size += 1
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(checkpoint.path)
    settings = Augment(kinds=["masked"], masked_model=str(checkpoint.path), share=0.3)
    made = augment(TEXTS, settings, seed=1)
    assert made == augment(TEXTS, settings, seed=1)
    assert len(made) > 30
    for i, text in made:
        before, after = TEXTS[i].split(), text.split()
        assert set(after) <= WORDS
        assert 1 <= sum(a != b for a, b in zip(before, after, strict=True)) <= max(1, round(0.3 * len(before)))


@pytest.mark.slow
def test_back_translation_goes_there_and_back(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(make_checkpoint(tmp_path / "bert").path / "tokenizer.json"))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]"
    )
    for name, seed in (("there", 0), ("back", 1)):
        torch.manual_seed(seed)
        config = transformers.T5Config(
            vocab_size=len(fast), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0,
            eos_token_id=3,
        )  # fmt: skip
        config.decoder_start_token_id = 0
        transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / name)
        fast.save_pretrained(tmp_path / name)
    settings = Augment(kinds=["back_translation"], through=[str(tmp_path / "there"), str(tmp_path / "back")])
    made = augment(TEXTS[:6], settings, seed=1)
    assert made == augment(TEXTS[:6], settings, seed=1)
    assert all({*text.split()} <= WORDS for _, text in made)
    broken = Augment(kinds=["back_translation"], through=[str(tmp_path / "none"), str(tmp_path / "back")])
    with pytest.raises(InputError, match="does not load"):
        augment(TEXTS[:2], broken)


def test_what_a_kind_needs_is_asked_for() -> None:
    for bad in ({"kinds": ["synonyms"]}, {"synonyms": "f"}, {"kinds": ["back_translation"], "through": ["a"]}):
        with pytest.raises(ValueError, match="needs"):
            Augment.model_validate(bad)


def test_recombined_texts_are_parts_of_two_and_depend_on_their_number_alone() -> None:
    texts = ["a b c d", "e f g h", "one"]
    made = recombined(texts, 50, seed=3)
    assert made[:10] == recombined(texts, 10, seed=3)
    assert made != recombined(texts, 50, seed=4)
    assert any({"a", "b"} <= set(text.split()) and {"g", "h"} <= set(text.split()) for text in made)
    assert all(text.strip() for text in made)


def test_texts_without_blanks_are_parted_by_characters() -> None:
    made = recombined(["这部电影很好", "我不喜欢它"], 20)
    assert all(" " not in text and text for text in made)
    assert any(text.startswith("这部") and text.endswith("它") for text in made)
