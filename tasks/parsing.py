"""Parsing of one table cell: a text, a label, several labels, a number, or words and their tags. Without torch.

Every InputError names the file and the row (`where`) and the column.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from paredown.runtime.errors import InputError, missing_extra
from paredown.runtime.preprocessor import PAIR, is_text

from .labels import ClassName, canonical, written


def text_of(record: Mapping[str, object], column: str, of_words: bool, where: str) -> str:
    """The text in a cell, its words where it has a list of them."""
    value = record.get(column)
    if of_words:
        value = " ".join(words(value, where, column))
    if value is not None and not isinstance(value, str) and value == value:  # not NaN
        raise InputError(f"{where}: column '{column}': a text is expected, not {type(value).__name__} {value!r:.40}")
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: column '{column}' is empty; remove the row or fill it in")
    if not is_text(value):
        raise InputError(f"{where}: column '{column}' holds half a character (a lone surrogate) or U+001E")
    return value


def image_of(value: object, folder: Path, where: str) -> str:
    """An image as a data URI: that of the file at a path (relative to `folder`), of a data URI, or of bytes as
    `datasets` keeps them, {"bytes": ..., "path": ...}."""
    try:
        from paredown.runtime.images import bytes_of, uri
    except ImportError as error:
        raise missing_extra(error.name or "PIL", "images") from None
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    shown = repr(value)[:200] if isinstance(value, str) else "it"
    try:
        if isinstance(value, str) and value.startswith("data:"):
            value, shown = bytes_of(value), "a data URI"
        elif isinstance(value, str) and value.strip():
            value = (folder / value.strip()).read_bytes()
        if isinstance(value, bytes):
            return uri(value)
    except OSError as error:
        raise InputError(f"{where}: {shown}: {error.strerror}; a path is relative to {folder}") from None
    except ValueError as error:
        raise InputError(f"{where}: {shown}: {error}; mend the file or remove the row") from None
    raise InputError(f"{where}: the path of an image file, or a data URI, is expected")


def comparable(text: str) -> str:
    """The text as it is compared: NFKC, without case, one blank for white space, none at the ends. Images unchanged."""
    if text.startswith("data:image/"):
        return text
    parts = (" ".join(unicodedata.normalize("NFKC", part).casefold().split()) for part in text.split(PAIR))
    return PAIR.join(parts)


def text_digest(text: str) -> bytes:
    """16 bytes of BLAKE2 that two texts share where `comparable` does."""
    return hashlib.blake2b(comparable(text).encode(), digest_size=16).digest()


def columns_of(row: str) -> dict[str, str]:
    """A row's text, or two texts, or its image, under names that `read` finds again."""
    if row.startswith("data:image/"):
        return {"image": row}
    first, pair, second = row.partition(PAIR)
    return {"text": first, "text_pair": second} if pair else {"text": first}


def number(value: object, where: str, column: str, text: str) -> float:
    """The number in a cell."""
    try:
        found = (
            math.nan if isinstance(value, bool) or "_" in str(value) else float(str(value))
        )  # Python takes 1_0 for 10
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{where}: a number is expected in column '{column}' of the row {text[:60]!r}, not {value!r}")
    return found


def listed(value: object, where: str, column: str) -> list[str]:
    """The labels of a row that may have none: of a list, or of a string with semicolons between them."""
    if isinstance(value, float) and math.isnan(value):
        value = None
    if isinstance(value, str):
        return [part.strip() for part in value.split(";") if part.strip()]
    if value is None:
        raise InputError(f"{where}: column '{column}' is missing; an empty list, or an empty cell, says: no label")
    parts = value if isinstance(value, list) and not any(isinstance(part, bool) for part in value) else None
    names = None if parts is None else [written(part, where, column) for part in parts]
    if names is None or "" in names or len({canonical(name) for name in names}) < len(names):
        raise InputError(
            f"{where}: column '{column}': a list of a row's labels, or a cell with semicolons between them, is "
            "expected, each label once (not a 0 or 1 for every label)"
        )
    return names


def answers_of(value: object, context: str, where: str, column: str) -> tuple[tuple[int, str], ...]:
    """The answers in a cell, each with the character of `context` that it begins at; none: the context does not say.

    As in SQuAD, {"text": [...], "answer_start": [...]} or a list of {"text": ..., "answer_start": ...}; or a text, or a
    list of them, each at the first place where the context has it.
    """
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        begins = value.get("answer_start") or [None] * len(value["text"])
        if not isinstance(begins, list) or len(begins) != len(value["text"]):
            raise InputError(f"{where}: column '{column}': text and answer_start are lists of one length")
        given: list = list(zip(value["text"], begins, strict=True))
    elif isinstance(value, list):
        given = [(v.get("text"), v.get("answer_start")) if isinstance(v, dict) else (v, None) for v in value]
    else:
        given = [(value, None)] if value != "" else []
    found = []
    for text, begin in given:
        if not isinstance(text, str) or not text.strip() or not (begin is None or type(begin) is int):
            raise InputError(
                f"{where}: column '{column}': an answer's text is expected, or SQuAD's text and answer_start; no "
                f"answer is an empty cell or an empty list, not {value!r:.60}"
            )
        place = context.find(text) if begin is None else begin
        if place < 0 or context[place : place + len(text)] != text:
            at = "" if begin is None else f" at character {begin}"
            raise InputError(
                f"{where}: the context has no {text[:60]!r}{at}; an answer is a part of it, letter by letter"
            )
        found.append((place, text))
    return tuple(found)


def words(value: object, where: str, column: str) -> list[str]:
    """The words (or tags) of a cell: a list, or a string with blanks between them; no word holds a blank."""
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list) and all(isinstance(word, str | int) or _is_whole(word) for word in value):
        return [word if isinstance(word, ClassName) else "".join(str(word).split()) or "_" for word in value]
    raise InputError(f"{where}: column '{column}': a list of words, or words with blanks between them, is expected")


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def tags(value: object, where: str, column: str, text: str) -> list[str]:
    """The tags in a cell, one for each word of `text`."""
    given, known_words = words(value, where, column), text.split()
    if len(given) != len(known_words):
        raise InputError(
            f"{where}: {len(known_words)} words and {len(given)} tags in column '{column}'; one a word is needed"
        )
    return given
