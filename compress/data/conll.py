"""Reads CoNLL files: a word and its tag on each line, an empty line after a sentence. Without torch.

Columns are apart by tabs or by blanks: no other white space parts them, and a word may hold a no-break space. The first
column is the word, the last its tag; lines of one column have no tags. Lines that begin with "#" may be comments.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from paredown.runtime.errors import InputError

DOCUMENT = "-DOCSTART-"
TAG = re.compile(r"O|[BIESLUM][-_].+")


def sentences(path: str, lines: Sequence[str]) -> list[tuple[str, dict]]:
    """The sentences of a file, each with the line that it begins at: {"tokens": [...], "tags": [...]}.

    InputError for a sentence where some words have a tag and some have none, for a line that may be a comment or a
    word, and for formats whose first column is not the word (CoNLL-U, CoNLL-2012).
    """
    stripped = [line.strip(" \t") for line in lines]
    tabs = _by_tabs(stripped)
    groups: list[list[tuple[int, list[str]]]] = [[]]  # of sentences: lines with their numbers
    for number, line in enumerate(stripped, start=1):
        cells = _cells(line, tabs)
        if not line or cells[0] == DOCUMENT:
            groups.append([])
        else:
            groups[-1].append((number, cells))
    groups = _without_comments(path, [group for group in groups if group], stripped)
    _check_words(path, groups)
    found = []
    for group in groups:
        words = [cells for _, cells in group]
        if len({min(len(cells), 2) for cells in words}) > 1:
            raise InputError(f"{path}, line {group[-1][0]}: some words of this sentence have a tag, others have none")
        tags = {"tags": [cells[-1] for cells in words]} if len(words[0]) > 1 else {}
        found.append((f"line {group[0][0]}", {"tokens": [cells[0] for cells in words], **tags}))
    return found


def _cells(line: str, tabs: bool) -> list[str]:
    return [cell.strip(" ") for cell in line.split("\t")] if tabs else re.split(r"[ \t]+", line)


def _by_tabs(lines: Sequence[str]) -> bool:
    """Whether tabs alone part the columns: as many in every line, and not a first column that blanks part as well."""
    given = [line for line in lines if line and not line.startswith(("#", DOCUMENT))]
    counts = {line.count("\t") for line in given}
    if len(counts) != 1 or counts == {0}:
        return False
    firsts = [len(line.split("\t")[0].split(" ")) for line in given]
    return min(firsts, default=1) < 2


def _without_comments(
    path: str, groups: list[list[tuple[int, list[str]]]], lines: Sequence[str]
) -> list[list[tuple[int, list[str]]]]:
    plain = [(cells, number) for group in groups for number, cells in group if not cells[0].startswith("#")]
    if not plain:
        return groups
    layout = _Layout(
        width=Counter(len(cells) for cells, _ in plain).most_common(1)[0][0],
        tabs=any("\t" in lines[number - 1] for _, number in plain),
        tags=frozenset(cells[-1] for cells, _ in plain),
    )
    kept = []
    for group in groups:
        words: list[tuple[int, list[str]]] = []
        for number, cells in group:
            line = lines[number - 1]
            if line.startswith("#") and layout.is_comment(f"{path}, line {number}", line, cells, bool(words)):
                continue
            words.append((number, cells))
        kept.append(words)
    return [words for words in kept if words]


@dataclass(frozen=True)
class _Layout:
    """The lines of words that do not begin with "#"."""

    width: int  # columns of most lines
    tabs: bool  # tabs part the columns
    tags: frozenset[str]

    def is_comment(self, where: str, line: str, cells: list[str], inside: bool) -> bool:
        """Whether a line that begins with "#" is a comment, and not the word "#" or one like "#film"; `inside`: words
        of its sentence come before it. InputError where it may be either."""
        if len(cells) != self.width or re.match(r"#(begin|end) document\b", line):  # the latter of CoNLL-2012
            return True
        if self.width == 1 or cells[-1] in self.tags or TAG.fullmatch(cells[-1]) or cells[-1] == cells[0]:
            return " " in cells[0]
        if "=" in line or (" " in cells[0]) or ("\t" in line) != self.tabs:
            return True
        if inside or cells[0] != "#":
            return False
        raise InputError(
            f"{where}: {line[:60]!r} may be a comment, or the word '#' with the tag '{cells[-1]}', which no other word "
            "has; remove the line, or give the word another tag"
        )


def _check_words(path: str, groups: list[list[tuple[int, list[str]]]]) -> None:
    """InputError where the first column counts words, or names the document."""
    if not groups or len(groups[0][0][1]) < 2:
        return
    columns = [[cells[0] for _, cells in group] for group in groups]
    counted = [[cell for cell in column if re.fullmatch(r"\d+", cell)] for column in columns]
    numbered = all(
        numbers in ([str(i) for i in range(1, len(numbers) + 1)], [str(i) for i in range(len(numbers))])
        and all(re.fullmatch(r"\d+([-.]\d+)?", cell) for cell in column)
        for column, numbers in zip(columns, counted, strict=True)
    )
    where = f"{path}, line {groups[0][0][0]}"
    if numbered and max(map(len, columns)) > 1:
        out = '\'NF {print $2 "\\t" $4} !NF {print ""}\''
        raise InputError(
            f"{where}: the first column counts the words, as in CoNLL-U; a word and its tag a line are expected. Of "
            f"CoNLL-U, words and parts of speech: grep -v '^#' {shlex.quote(path)} | awk -F '\\t' {out} > words.conll"
        )
    named = {cell for column in columns for cell in column}
    if len(named) == 1 and sum(map(len, columns)) > 5 and len(groups[0][0][1]) > 3:
        raise InputError(
            f"{where}: the first column is '{named.pop()}' in every line, as in CoNLL-2012; the word is expected first "
            "and its tag last"
        )
