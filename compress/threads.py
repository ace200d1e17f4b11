"""How many threads a step takes that may have others of its kind beside it."""

from __future__ import annotations

from paredown.runtime.selftest import usable_cores

FEW = 2


def few_threads() -> int:
    """Threads of an evaluation and of dynamic quantisation: two, where there are two cores.

    The number is the same whether such a step is done alone or beside others, so its numbers are too: sums in another
    order are other outputs. Calls have one row, which more threads make little faster; several steps at once do.
    """
    return min(FEW, usable_cores())
