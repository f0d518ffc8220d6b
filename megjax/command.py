"""How the scripts run: one line for what a person got wrong, never a traceback."""

import os
import sys
from collections.abc import Callable

from absl import app, flags, logging

MISTAKES = (ValueError, OSError, FloatingPointError, flags.Error)


def run(main: Callable[[], int | None]) -> None:
    """Parses flags, runs `main`, exits with its status.

    Mistakes in flags, configs, files and data end with one line on stderr and status
    1; so do flags that absl refuses. Set MEGJAX_TRACEBACK=1 for the traceback.
    """
    logging.set_verbosity(logging.INFO)
    app.run(lambda argv: sys.exit(_told(lambda: _run(main, argv))), flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    # A config override that names no field raises AttributeError or KeyError.
    return _told(lambda: flags.FLAGS(argv), (*MISTAKES, AttributeError, KeyError))


def _run(main: Callable[[], int | None], argv: list[str]) -> int | None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: flags are --name=value")
    return main()


def _told(call: Callable, mistakes: tuple = MISTAKES):
    """call(), with mistakes printed in one line."""
    try:
        return call()
    except mistakes as error:
        if os.environ.get("MEGJAX_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
