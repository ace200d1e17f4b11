"""The program. It imports nothing large before Ctrl+C is looked after: the rest takes a second."""

from __future__ import annotations

import os
import signal
import sys

from .pipeline.interrupted import INTERRUPTED, stop_at_once


def main() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us: `>&-`, a service
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - stays open; without imports
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # a shell that starts it with `&` ignores it
        from .pipeline.cli.main import main as command

        command()
        return
    signal.signal(signal.SIGINT, stop_at_once)
    from .pipeline.cli.main import main as command

    sys.unraisablehook = _in_a_callback
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        command()
    except KeyboardInterrupt:  # once more, while it was being answered
        stop_at_once()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # Python may end itself by the signal instead, where it had come in an `exec`
            os._exit(INTERRUPTED)
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is left is Python's own end


def _in_a_callback(unraisable: sys.UnraisableHookArgs) -> None:
    """Python passes over a KeyboardInterrupt that comes in a destructor or a callback of a weak reference."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        stop_at_once()
    sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    main()
