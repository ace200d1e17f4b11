"""The settings beside a tokenizer.json count as they do for AutoTokenizer and sentence-transformers."""

import json
import logging
from pathlib import Path

import pytest
import transformers
from advised import follow
from conftest import BAD, FILLER, GOOD, TASK, make_checkpoint, paredown
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from paredown.compress.models import tokenizer_settings
from paredown.compress.models.inference import forward
from paredown.compress.models.loading import load, open_checkpoint, save
from paredown.runtime.errors import InputError
from paredown.runtime.preprocessor import Preprocessor
from paredown.tasks.registry import TASKS

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIALS, "[MASK]", *GOOD, *BAD, *FILLER, "Good", "Film", "cafe", "café", "##s", "电", "影", "电影", "q", ":"]
VECTORS = TASKS["sentence-embedding"]
TEXTS = ["Good film", "café", "CAFÉ goods", "电影 good", "the Film is good"]


def wordpiece(path: Path, rows: int = len(WORDS), **flags: bool | None) -> Path:
    """A BERT whose tokenizer is a WordPiece with these flags of its normalizer; its embedding has so many rows."""
    made = make_checkpoint(path).path
    model = transformers.AutoModelForSequenceClassification.from_pretrained(made)
    model.resize_token_embeddings(rows)
    model.save_pretrained(made)
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**flags)  # type: ignore[assignment, arg-type]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    tokenizer.decoder = decoders.WordPiece()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens([*SPECIALS, "[MASK]"])
    tokenizer.save(str(made / "tokenizer.json"))
    return made


def settings(path: Path, name: str = "tokenizer_config.json", **values: object) -> None:
    (path / name).write_text(json.dumps(values))


def both(path: Path, texts: list[str], longest: int = 64) -> tuple[list, list]:
    """Our token ids and AutoTokenizer's."""
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    ours = open_checkpoint(path, TASK).encoder(longest).ids(texts)
    return ours, [theirs(text, truncation=True, max_length=longest)["input_ids"] for text in texts]


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"lowercase": False}, {"do_lower_case": True}), ({"lowercase": True}, {"do_lower_case": False}),
        ({"lowercase": False, "strip_accents": False}, {"strip_accents": True, "do_lower_case": False}),
        ({"lowercase": True, "strip_accents": True}, {"strip_accents": False}),
        ({"handle_chinese_chars": True}, {"tokenize_chinese_chars": False}),
    ],
)  # fmt: skip
def test_case_accents_and_chinese_characters_are_as_the_settings_say(tmp_path: Path, own: dict, said: dict) -> None:
    path = wordpiece(tmp_path / "c", **own)
    before = Preprocessor(path / "tokenizer.json", 64, 0).ids(TEXTS)
    settings(path, tokenizer_class="BertTokenizer", **said)
    ours, theirs = both(path, TEXTS)
    assert ours == theirs != before


@pytest.mark.parametrize("where", ["tokenizer_config.json", "tokenizer.json"])
def test_the_side_that_is_cut_is_the_settings_own(tmp_path: Path, where: str) -> None:
    path, text = wordpiece(tmp_path / "c"), ["the film was " * 9 + "awful weak dull"]
    said = {"truncation_side": "left"} if where == "tokenizer_config.json" else {}
    settings(path, tokenizer_class="PreTrainedTokenizerFast", **said)
    if not said:
        data = json.loads((path / "tokenizer.json").read_text())
        data["truncation"] = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
        (path / "tokenizer.json").write_text(json.dumps(data))
    ours, theirs = both(path, text, 8)
    assert ours == theirs
    assert ours[0][-2] == WORDS.index("dull")
    copied = tmp_path / "artefact"
    open_checkpoint(path, TASK).copy_to(copied)
    assert Preprocessor(copied / "tokenizer.json", 8, 0).ids(text) == ours
    assert json.loads((copied / "tokenizer.json").read_text())["truncation"]["direction"] == "Left"


def byte_level(path: Path, space: bool) -> Path:
    from tokenizers.trainers import BpeTrainer

    made = make_checkpoint(path, "roberta").path
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"], initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(["the film was good, the plot was awful"] * 9, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.save(str(made / "tokenizer.json"))
    config = transformers.AutoConfig.from_pretrained(made)
    config.vocab_size, config.pad_token_id = tokenizer.get_vocab_size(), 1
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(made)
    return made


@pytest.mark.parametrize("said", [True, False])
def test_the_blank_before_the_first_word(tmp_path: Path, said: bool) -> None:
    path = byte_level(tmp_path / "c", not said)
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    settings(path, tokenizer_class="RobertaTokenizer", add_prefix_space=said, unk_token="<unk>", **names)
    ours, theirs = both(path, ["film good", "the plot"])
    assert ours == theirs
    load(open_checkpoint(path, TASK), TASK)


def added(content: str, special: bool) -> dict:
    return {"content": content, "special": special, "lstrip": False, "rstrip": False, "single_word": False,
            "normalized": not special}  # fmt: skip


def test_tokens_that_only_the_settings_know(tmp_path: Path) -> None:
    path, first = wordpiece(tmp_path / "c", rows=len(WORDS) + 2), len(WORDS)
    decoder = {str(first): added("<user>", True), str(first + 1): added("covid", False)}
    settings(path, tokenizer_class="PreTrainedTokenizerFast", added_tokens_decoder=decoder)
    ours, theirs = both(path, ["<user> good film", "covid the covids", "x<user>y"])
    assert ours == theirs
    assert ours[0][1] == first
    copied = tmp_path / "artefact"
    open_checkpoint(path, TASK).copy_to(copied)
    assert Preprocessor(copied / "tokenizer.json", 64, 0).ids(["<user> good film"]) == ours[:1]


def test_tokens_of_added_tokens_json(tmp_path: Path) -> None:
    path = wordpiece(tmp_path / "c", rows=len(WORDS) + 1)
    settings(path, "added_tokens.json", **{"<user>": len(WORDS)})
    assert open_checkpoint(path, TASK).encoder().ids(["<user> good"])[0][1] == len(WORDS)


def test_a_token_at_two_numbers_is_refused(tmp_path: Path) -> None:
    path = wordpiece(tmp_path / "c", rows=99)
    settings(path, "added_tokens.json", **{"<user>": 90})
    with pytest.raises(InputError, match="'<user>' is 90 there"):
        open_checkpoint(path, TASK)


def test_a_special_token_in_the_vocabulary_is_one(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "c").path
    assert len(open_checkpoint(path, TASK).encoder().ids(["good [SEP] film"])[0]) == 7
    names = {"sep_token": "[SEP]", "cls_token": "[CLS]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    settings(path, tokenizer_class="PreTrainedTokenizerFast", **names)
    ours, theirs = both(path, ["good [SEP] film"])
    assert ours == theirs
    assert ours[0].count(3) == 2


def test_more_tokens_than_rows_of_the_embedding_and_the_advice(tmp_path: Path) -> None:
    path = wordpiece(tmp_path / "c")
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens(["[USR]"])
    tokenizer.save(str(path / "tokenizer.json"))
    with pytest.raises(InputError, match=rf"'\[USR\]' is token {len(WORDS)}, and the model's embedding has") as caught:
        open_checkpoint(path, TASK)
    follow(str(caught.value))
    assert open_checkpoint(path.with_name("c-resized"), TASK).config["vocab_size"] == len(WORDS) + 1


def test_the_padding_token_needs_no_row_because_no_text_has_it(tmp_path: Path) -> None:
    path = wordpiece(tmp_path / "c")
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<padding>", special=True)])
    tokenizer.save(str(path / "tokenizer.json"))
    settings(path, tokenizer_class="PreTrainedTokenizerFast", pad_token="<padding>")
    checkpoint = open_checkpoint(path, TASK)
    (row,) = checkpoint.encoder().ids(["good <padding> film"])  # somebody does all the same: as any other text
    assert max(row) < len(WORDS)
    forward(load(checkpoint, TASK), checkpoint.encoder().pad([row]))
    done = paredown("export", path, "--output-dir", tmp_path / "onnx")  # compared on random tokens
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("where", ["tokenizer.json", "added_tokens_decoder"])
def test_padding_and_mask_need_no_row_and_a_text_that_has_them_is_text(tmp_path: Path, where: str) -> None:
    path, first = wordpiece(tmp_path / "c"), len(WORDS)
    names = {"pad_token": "<padding>", "mask_token": "<gap>"}
    decoder = {str(first): added("<padding>", True), str(first + 1): added("<gap>", True)}
    settings(path, tokenizer_class="PreTrainedTokenizerFast", **names)
    if where == "tokenizer.json":
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names.values()])
        tokenizer.enable_padding(pad_id=first, pad_token="<padding>")
        tokenizer.save(str(path / "tokenizer.json"))
    else:
        settings(path, tokenizer_class="PreTrainedTokenizerFast", added_tokens_decoder=decoder, **names)
    checkpoint = open_checkpoint(path, TASK)
    rows = checkpoint.encoder(64).ids(["good <padding> film <gap>", "good film"])
    assert max(map(max, rows)) < first
    assert rows[1] == [2, WORDS.index("good"), WORDS.index("film"), 3]
    saved = save(load(checkpoint, TASK), checkpoint, tmp_path / "saved")
    assert saved.encoder(64).ids(["good <gap>"]) == checkpoint.encoder(64).ids(["good <gap>"])


def test_a_tokenizer_of_special_tokens_alone_is_refused(tmp_path: Path) -> None:
    path = wordpiece(tmp_path / "c")
    (path / "tokenizer.json").unlink()
    (path / "vocab.txt").unlink(missing_ok=True)
    with pytest.raises(InputError, match="nothing that it could be made of"):
        open_checkpoint(path, TASK)
    transformers.AutoTokenizer.from_pretrained(path).save_pretrained(path)  # makes one of five tokens
    with pytest.raises(InputError, match="knows special tokens alone"):
        open_checkpoint(path, TASK)


def test_the_files_of_a_slow_tokenizer_become_a_tokenizer(tmp_path: Path) -> None:
    path = wordpiece(tmp_path / "c")
    ids = open_checkpoint(path, TASK).encoder().ids(TEXTS)
    (path / "tokenizer.json").unlink()
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    with pytest.raises(InputError, match="write it with") as caught:
        open_checkpoint(path, TASK)
    follow(str(caught.value))
    assert open_checkpoint(path, TASK).encoder().ids(TEXTS) == ids


def test_sentencepiece_is_named_where_it_is_needed_and_missing(tmp_path: Path, monkeypatch) -> None:
    from paredown.compress.models import advice

    (tmp_path / "spm.model").write_bytes(b"")
    monkeypatch.setattr(advice, "_importable", lambda module: module != "sentencepiece")
    assert str(advice.write_tokenizer(tmp_path)).startswith("pip install sentencepiece && python -c ")


def test_a_setting_that_cannot_be_followed_is_refused_and_the_advice_helps(tmp_path: Path) -> None:
    path = wordpiece(tmp_path / "c")
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.normalizer = normalizers.NFC()  # type: ignore[assignment]
    tokenizer.save(str(path / "tokenizer.json"))
    settings(path, tokenizer_class="BertTokenizer", do_lower_case=False, strip_accents=True)
    with pytest.raises(InputError, match="a setting in it is not that of") as caught:
        load(open_checkpoint(path, TASK), TASK)
    follow(str(caught.value).partition(" ; or")[0])
    load(open_checkpoint(path, TASK), TASK)
    ours, theirs = both(path, TEXTS)
    assert ours == theirs


def test_a_class_that_reads_other_parts_is_warned_of(tmp_path: Path, caplog) -> None:
    path = wordpiece(tmp_path / "c")
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), digits])  # type: ignore
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    ids = tokenizer.encode("good, film 12").ids
    tokenizer_settings._agreed.clear()
    with caplog.at_level(logging.WARNING, "paredown"):
        load(open_checkpoint(path, TASK), TASK)
    assert "tokenizer.json and vocab.txt are not of one tokenizer" in caplog.text
    assert open_checkpoint(path, TASK).encoder().ids(["good, film 12"]) == [ids]  # it counts


def sentence_model(path: Path) -> Path:
    made = wordpiece(path, lowercase=False)
    model = transformers.AutoModel.from_pretrained(made)
    model.save_pretrained(made)
    parts = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{t}"}
               for i, (p, t) in enumerate(parts)]  # fmt: skip
    (made / "modules.json").write_text(json.dumps(modules))
    (made / "1_Pooling").mkdir()
    settings(made / "1_Pooling", "config.json", word_embedding_dimension=32, pooling_mode_mean_tokens=True)
    return made


def test_prompts_case_and_lengths_of_sentence_transformers_count(tmp_path: Path) -> None:
    path, text = sentence_model(tmp_path / "c"), "Good Film the plot was very awful and dull"
    settings(path, "sentence_bert_config.json", max_seq_length=9, do_lower_case=True)
    settings(path, "config_sentence_transformers.json", prompts={"query": "q: "}, default_prompt_name="query")
    found = open_checkpoint(path, VECTORS)
    plain = Tokenizer.from_file(str(path / "tokenizer.json"))
    plain.enable_truncation(9)
    wanted = plain.encode(f"q: {text}".lower()).ids
    assert found.encoder(64).ids([text]) == [wanted]
    assert found.positions == 9
    found.copy_to(tmp_path / "artefact")
    assert Preprocessor(tmp_path / "artefact" / "tokenizer.json", 9, 0).ids([text]) == [wanted]
    saved = save(load(found, VECTORS), found, tmp_path / "saved")  # its settings lie beside it again: not twice
    assert saved.encoder(64).ids([text]) == [wanted]
    assert found.for_task(TASK).encoder(64).ids(["Good"]) == [[2, WORDS.index("Good"), 3]]


@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers_itself_gives_the_same_tokens(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    path = sentence_model(tmp_path / "c")
    settings(path, tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]", unk_token="[UNK]")
    settings(path, "sentence_bert_config.json", max_seq_length=6, do_lower_case=True)
    theirs = library.SentenceTransformer(str(path), device="cpu").tokenize(["Good Film the plot was very dull"])
    ours = open_checkpoint(path, VECTORS).encoder(64).ids(["Good Film the plot was very dull"])
    assert theirs["input_ids"].tolist() == ours


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("config_sentence_transformers.json", {"default_prompt_name": "query", "prompts": {}}, "no such name"),
        ("tokenizer_config.json", {"split_special_tokens": True}, "split_special_tokens"),
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path: Path, file: str, values: dict, words: str) -> None:
    path = sentence_model(tmp_path / "c")
    settings(path, file, **values)
    with pytest.raises(InputError, match=words):
        open_checkpoint(path, VECTORS)


def test_the_tokenizers_own_length_counts_where_nobody_gives_one(tmp_path: Path) -> None:
    path = wordpiece(tmp_path / "c")
    settings(path, tokenizer_class="PreTrainedTokenizerFast", model_max_length=16)
    found = open_checkpoint(path, TASK)
    assert (found.encoder().max_length, found.encoder(32).max_length, found.positions) == (16, 32, 64)
