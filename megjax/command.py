"""How the scripts run: one line for what a person got wrong, never a traceback."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable

from absl import app, flags
from absl import logging as absl_logging

MISTAKES = (ValueError, OSError, FloatingPointError, ImportError, flags.Error)


def run(main: Callable[..., int | None], choices: Iterable[str] = ()) -> None:
    """Parses flags, runs `main`, exits with its status.

    choices: where given, the first argument must be one of them, and `main` gets it.
    Mistakes in flags, configs, files and data end with one line on stderr and status
    1; so do flags that absl refuses. Set MEGJAX_TRACEBACK=1 for the traceback.
    """
    # Orbax tells its progress through absl; ours goes through the package's logger.
    absl_logging.set_verbosity(absl_logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.getLogger("megjax").addHandler(handler)
    logging.getLogger("megjax").setLevel(logging.INFO)
    logging.getLogger("megjax").propagate = False
    app.run(
        lambda argv: sys.exit(_told(lambda: _run(main, argv, tuple(choices)))),
        flags_parser=_parse,
    )


def _parse(argv: list[str]) -> list[str]:
    # A config override that names no field raises AttributeError or KeyError.
    mistakes = (*MISTAKES, AttributeError, KeyError, SyntaxError)
    return _told(lambda: flags.FLAGS(argv), mistakes)


def _run(main: Callable[..., int | None], argv: list[str], choices) -> int | None:
    taken = argv[1 : 1 + bool(choices)]
    if choices and taken[:1] not in [[choice] for choice in choices]:
        raise ValueError(f"the first argument is one of {', '.join(choices)}")
    if rest := argv[1 + len(taken) :]:
        raise ValueError(f"unexpected argument {rest[0]!r}: flags are --name=value")
    return main(*taken)


def _told(call: Callable, mistakes: tuple = MISTAKES):
    """call(), with mistakes and a lack of memory printed in one line."""
    try:
        return call()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (*mistakes, MemoryError, RuntimeError) as error:
        told = isinstance(error, mistakes) or _is_memory(error)
        if os.environ.get("MEGJAX_TRACEBACK") or not told:
            raise
        print(f"error: {_words(error)}", file=sys.stderr)
        sys.exit(1)


def _is_memory(error: BaseException) -> bool:
    """Whether NumPy or XLA, whose error is a RuntimeError, ran out of memory."""
    words = ("RESOURCE_EXHAUSTED", "Out of memory")
    return isinstance(error, MemoryError) or any(w in str(error) for w in words)


def _words(error: BaseException) -> str:
    """The message of an error in one line.

    Flag parsing wraps what a config file raises, traceback and all: the cause counts.
    """
    while "Error whilst parsing config file" in str(error) and error.__context__:
        error = error.__context__
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, AttributeError | KeyError):
        name = words.strip("'\"")
        return f"the config has no field {name}: its fields are in the config file"
    if isinstance(error, MemoryError | RuntimeError):
        return f"out of memory ({words[:160]}): lower config.batch_size or config.width"
    unread, _, cause = words.partition("[Errno")
    if "failure to load" in unread:
        return f"no config file there: [Errno{cause}"
    return words
