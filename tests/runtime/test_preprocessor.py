"""The first token of a word, and the types of two texts, are those of transformers' own tokenizers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from conftest import make_checkpoint
from tokenizers import Tokenizer

from paredown.compress.models.loading import open_checkpoint
from paredown.compress.models.token_types import types_of
from paredown.runtime.preprocessor import MARK, PAIR, Preprocessor, batches_of

TEXTS = [
    "The film was good, the plot was awful!", "Élan vital naïve café 12345 in 2024", "don't stop", "電影 很好 film",
    "x", "a-b_c/d @user #tag 😀 ... ok", "brilliant  acting\tthere", "antidisestablishmentarianism (New York)",
]  # fmt: skip
CORPUS = [*TEXTS, "the good film is a good film", "brilliant acting in the film"] * 9
KINDS: dict[str, Callable[[], transformers.PreTrainedTokenizerBase]] = {
    "bert": transformers.BertTokenizer,
    "roberta": lambda: transformers.RobertaTokenizer(add_prefix_space=True),
    "mpnet": transformers.MPNetTokenizer,
    "deberta-v2": transformers.DebertaV2Tokenizer,
    "xlm-roberta": transformers.XLMRobertaTokenizer,
    "camembert": transformers.CamembertTokenizer,
    "albert": transformers.AlbertTokenizer,
}
PAIRS = [
    ("good film", "the plot"), ("good @@ film", "the plot"), ("good film", "the @@ plot"),
    ("a @@ b", "c @@ d @@ the film"), ("@@", "@@"), ("good " * 30, "the plot"), ("the plot", "good @@ " * 30),
]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(what transformers uses, the tokenizer.json that it saves)."""
    made = KINDS[request.param]().train_new_from_iterator(CORPUS, 300)  # type: ignore[attr-defined]
    path = tmp_path_factory.mktemp(request.param)
    made.save_pretrained(path)
    return made, path / "tokenizer.json"


@pytest.mark.parametrize("longest", [64, 12, 6])
def test_a_word_begins_where_word_ids_says(tokenizer, longest: int) -> None:
    made, file = tokenizer
    encoder, compared = Preprocessor(file, longest, 0), 0
    for text in TEXTS:
        words = text.split()
        theirs = made(words, is_split_into_words=True, truncation=True, max_length=longest)
        ids = theirs.word_ids()
        if theirs["input_ids"] != encoder.ids([text])[0]:
            continue  # some tokenizers know how many blanks there are
        compared += 1
        want = [ids.index(i) if i in ids else -1 for i in range(len(words))]
        assert encoder.words([text])[0].first == want, text
    assert compared >= 6


def test_the_types_of_two_texts_are_the_tokenizers(tokenizer) -> None:
    made, file = tokenizer
    encoder = Preprocessor(file, 24, 0, marks=True)
    if 1 not in (made("a", "b").get("token_type_ids") or [0]):
        pytest.skip("its model knows one type")
    for a, b in PAIRS:
        first, second = a.replace("@@", made.sep_token), b.replace("@@", made.sep_token)
        theirs = made(first, second, truncation=True, max_length=24)
        (row,) = encoder.ids([f"{first}{PAIR}{second}"])
        assert [token - MARK if token >= MARK else token for token in row] == theirs["input_ids"]
        separator, after = encoder._boundary or (0, 0)
        assert types_of(torch.tensor([row]), separator, after)[0].tolist() == theirs["token_type_ids"]


def test_a_batch_of_marked_rows_and_padding_has_the_same_types(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "c").path
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    tokenizer.save(str(path / "tokenizer.json"))
    tokenizer.enable_truncation(64)
    encoder = Preprocessor(path / "tokenizer.json", 64, 0, marks=True)
    texts = [(a.replace("@@", "[SEP]"), b.replace("@@", "[SEP]")) for a, b in PAIRS]
    batch = encoder.pad(encoder.ids([PAIR.join(pair) for pair in texts]))
    found = types_of(torch.from_numpy(batch["input_ids"]), 3, 1)
    for row, mask, pair in zip(found, batch["attention_mask"], texts, strict=True):
        assert row[mask == 1].tolist() == tokenizer.encode(*pair).type_ids
    assert open_checkpoint(path).encoder().ids([PAIR.join(texts[0])])[0] == tokenizer.encode(*texts[0]).ids


def test_batches_of_long_rows_are_smaller() -> None:
    rows = [[1] * n for n in (600, 3, 40, 64, 500, 2, 33, 64)]
    batches = batches_of(rows, 0, batch_size=4, tokens=128)
    assert all(batch["input_ids"].size <= 128 or len(batch["input_ids"]) == 1 for batch in batches)
    lengths = sorted(int(n) for batch in batches for n in batch["attention_mask"].sum(1))
    assert lengths == sorted(map(len, rows))
    assert len(batches_of(rows[1:4], 0)) == 1
