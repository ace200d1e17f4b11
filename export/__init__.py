"""Checkpoints as models of a runtime; called, `paredown.export(model, ...)` exports one."""

from paredown import make_callable

make_callable(__name__)
