"""The errors of the house, for the rooms above: they import from export, not past it."""

from paredown.runtime.errors import InputError, StepError, missing_extra, nearest, printable

__all__ = ["InputError", "StepError", "missing_extra", "nearest", "printable"]
