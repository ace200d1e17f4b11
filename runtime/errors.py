"""The two errors a user sees: bad input (InputError) and a result that cannot be trusted (StepError). Both are one
line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST = 2000  # characters of an error, which may quote a foreign file
# Of a terminal, and those that reorder what is shown (CVE-2021-42574); U+FFFE, U+FFFF: half a character, and none.
CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


class InputError(Exception):
    """Something that was given is wrong. The message names the file, the key or row, what was expected and the fix.

    The command line prints it and exits with 2.
    """


class StepError(Exception):
    """A step ran and its result may not be trusted (NaN loss, parity miss). The command line exits with 1."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`, did you mean 'x'?` for the closest known word, or the list of them when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return "known: " + ", ".join(known) if known else "none are known"


def missing_extra(module: str, extra: str) -> InputError:
    """The one line for a package that an extra would have brought."""
    return InputError(f"'{module}' is not installed; it comes with: pip install 'paredown[{extra}]'")


def one_line(error: BaseException) -> str:
    """What a library says, on one line of at most 300 characters; the name of its class where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def said(error: object) -> str:
    """What a command prints of an error: `printable`, and no more of it than LONGEST characters."""
    text = printable(f"error: {error}")
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"


def printable(text: str) -> str:
    """The text, as it may go to a terminal: control characters of a foreign file's names, labels and errors as escapes,
    in which JSON and Python read them again. Line breaks and tabs stay."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
