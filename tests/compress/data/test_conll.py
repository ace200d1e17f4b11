"""CoNLL files: columns apart by tabs or blanks, comments, and what is no word in the first column."""

import re
import subprocess
from pathlib import Path

import pytest

from paredown.compress.data.conll import sentences
from paredown.runtime.errors import InputError


def read(text: str) -> list[tuple[list[str], list[str] | None]]:
    return [(record["tokens"], record.get("tags")) for _, record in sentences("a.conll", text.split("\n"))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n", [(["EU", "rejects"], ["B-ORG", "O"])]),
        ("EU\tB-ORG\nfilm\tO\n \t\na\tO\n", [(["EU", "film"], ["B-ORG", "O"]), (["a"], ["O"])]),
        ("10\u00a0000\tB-num\nfilms\tO\n", [(["10\u00a0000", "films"], ["B-num", "O"])]),
        ("10\u00a0000 B-num\na\u3000b O\n", [(["10\u00a0000", "a\u3000b"], ["B-num", "O"])]),
        ("New York\tB-LOC\nfilms\tO\n", [(["New York", "films"], ["B-LOC", "O"])]),
        ("EU NNP\tB-ORG\na DT\tO\n", [(["EU", "a"], ["B-ORG", "O"])]),
        ("a  b\tO\nc\tO\n", [(["a  b", "c"], ["O", "O"])]),
        ("one\ntwo\n\nthree\n", [(["one", "two"], None), (["three"], None)]),
        # comments
        ("# id 5f1a\tdomain=train\nthe _ _ O\nfilm _ _ B-Work\n\n# id 77\tdomain=train\na _ _ O\n",
         [(["the", "film"], ["O", "B-Work"]), (["a"], ["O"])]),
        ("# id 5 domain=x\nthe _ _ O\n", [(["the"], ["O"])]),
        ("#begin document (x); part 000\nthe O\n\n#end document\n", [(["the"], ["O"])]),
        ("# text = a film\na\tO\n", [(["a"], ["O"])]),
        ("# a sentence\none\ntwo\n", [(["one", "two"], None)]),
        # the word "#", and words that begin with it
        ("#good\tB-tag\nfilm\tO\n\n#\tO\na\tO\n", [(["#good", "film"], ["B-tag", "O"]), (["#", "a"], ["O", "O"])]),
        ("# O\nfilm O\n", [(["#", "film"], ["O", "O"])]),
        ("costs VBZ\n# SYM\n5 CD\n", [(["costs", "#", "5"], ["VBZ", "SYM", "CD"])]),
        ("# #\n5 CD\n", [(["#", "5"], ["#", "CD"])]),
    ],
)  # fmt: skip
def test_words_and_tags(text: str, expected: list) -> None:
    assert read(text) == expected


def test_a_line_that_may_be_either_is_refused() -> None:
    with pytest.raises(InputError, match=r"line 1: '# film' may be a comment, or the word '#' with the tag 'film'"):
        read("# film\na O\nb O\n")


CONLLU = "# sent_id = 1\n" + "".join(
    f"{i}\t{word}\t{word}\t{tag}\t_\t_\t0\t_\t_\t_\n"
    for i, (word, tag) in enumerate([("a", "DET"), ("film", "NOUN")], 1)
)


def test_the_advice_about_conll_u_works(tmp_path: Path) -> None:
    file = tmp_path / "it's.conll"
    file.write_text(CONLLU + "\n# sent_id = 2\n1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n" + CONLLU.partition("\n")[2])
    with pytest.raises(InputError, match="counts the words, as in CoNLL-U") as caught:
        sentences(str(file), file.read_text().split("\n"))
    command = re.search(r"grep .*$", str(caught.value))
    assert command
    subprocess.run(command[0], shell=True, check=True, cwd=tmp_path)
    made = read((tmp_path / "words.conll").read_text())
    assert made[0] == (["a", "film"], ["DET", "NOUN"])


def test_a_document_in_the_first_column_is_refused() -> None:
    with pytest.raises(InputError, match=r"is 'bc/cctv' in every line, as in CoNLL-2012"):
        read("".join(f"bc/cctv 0 {i} word{i} NN *\n" for i in range(7)))


def test_sentences_of_numbers_are_words() -> None:
    assert read("1 O\n2 O\n\nfilm O\n")[0] == (["1", "2"], ["O", "O"])
    assert read("1 B-num\n\n1 B-num\n") == [(["1"], ["B-num"]), (["1"], ["B-num"])]
