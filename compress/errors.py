"""The two ways a job ends without a result. Both are one line for the user; neither is a bug of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
