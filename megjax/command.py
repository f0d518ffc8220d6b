"""How the scripts run: one line for what a person got wrong, never a traceback."""

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator

from absl import app, flags
from absl import logging as absl_logging

MISTAKES = (ValueError, OSError, FloatingPointError, ImportError, flags.Error)


def run(
    main: Callable[..., int | None],
    choices: Iterable[str] = (),
    *,
    distributed: bool = False,
    preemptible: bool = False,
) -> None:
    """Parses flags, runs `main`, exits with its status.

    choices: where given, the first argument must be one of them, and `main` gets it.
    distributed: whether several processes may run `main` together, by flags.
    preemptible: as for `processes.start`.
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
    together = contextlib.nullcontext
    if distributed:
        _define_flags()

        def together():
            return _processes(preemptible)

    def told(argv: list[str]):
        with together():
            sys.exit(_told(lambda: _run(main, argv, tuple(choices))))

    app.run(told, flags_parser=_parse)


def _define_flags() -> None:
    """The flags of several processes, listed by --help of the script."""
    own = {"module_name": sys.argv[0]}
    flags.DEFINE_bool(
        "distributed", False, "One of several processes of a cluster job.", **own
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, outside clusters.", **own
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes.", **own)
    flags.DEFINE_integer("process_id", None, "Of this one, from 0.", **own)
    flags.DEFINE_integer(
        "heartbeat_timeout", 100, "Seconds until a silent process is dead.", **own
    )
    flags.DEFINE_integer(
        "start_timeout", 300, "Seconds to wait for all processes.", **own
    )


@contextlib.contextmanager
def _processes(preemptible: bool) -> Iterator[None]:
    """Joins the other processes where flags say so; an error here ends them, too."""
    values = flags.FLAGS.flag_values_dict()
    given = [values[k] for k in ("coordinator", "num_processes", "process_id")]
    if not values["distributed"] and given == [None, None, None]:
        yield
        return
    from megjax import processes

    timeouts = {k: values[k] for k in ("heartbeat_timeout", "start_timeout")}
    _told(lambda: processes.start(*given, **timeouts, preemptible=preemptible))
    if not processes.is_main():
        logging.getLogger("megjax").setLevel(logging.WARNING)
    try:
        yield
    except SystemExit as end:
        if end.code == 1:
            processes.fail(_words(end.__context__))
        raise
    except BaseException as error:
        processes.heed()
        traceback.print_exc()
        processes.fail(f"{type(error).__name__}: {' '.join(str(error).split())}")
        raise


def _parse(argv: list[str]) -> list[str]:
    # A config file is a program of its own, which may raise anything.
    return _told(lambda: flags.FLAGS(argv), (Exception,))


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
        told = isinstance(error, mistakes) or is_memory(error)
        if os.environ.get("MEGJAX_TRACEBACK") or not told:
            raise
        print(f"error: {_words(error)}", file=sys.stderr)
        sys.exit(1)


def failure(error: BaseException) -> str:
    """An error of a program that a person wrote: its type, words, file and line."""
    words = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f"line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    return ", ".join(filter(None, (f"{type(error).__name__}: {words}"[:400], place)))


def is_memory(error: BaseException) -> bool:
    """Whether NumPy or XLA, whose error is a RuntimeError, ran out of memory."""
    words = ("RESOURCE_EXHAUSTED", "Out of memory")
    return isinstance(error, MemoryError) or any(w in str(error) for w in words)


def _words(error: BaseException) -> str:
    """The message of an error in one line.

    Flag parsing wraps what a config file raises, traceback and all: the cause counts.
    """
    in_config = "Error whilst parsing config file" in str(error)
    while "Error whilst parsing config file" in str(error) and error.__context__:
        error = error.__context__
    words = " ".join(str(error).split()) or type(error).__name__
    if is_memory(error):
        return f"out of memory ({words[:160]}): lower config.batch_size or config.width"
    if in_config and not isinstance(error, (*MISTAKES, SyntaxError)):
        if "get_config() " in words:
            return "the config's get_config takes no such argument, or needs none"
        return f"the config file fails ({failure(error)}): mend it"
    return _override_words(error, words)


def _override_words(error: BaseException, words: str) -> str:
    """The message where it may be that of ml_collections about --config.FIELD=VALUE."""
    if "'get_config'" in words:
        return "this file is no config: it has no function get_config"
    if isinstance(error, AttributeError | KeyError):
        *_, name = words.strip("'\"").split("Attempting to lookup: ")
        return f"the config has no field {name}: its fields are in the config file"
    if "malformed node or string" in words:
        return "a flag --config.FIELD=VALUE has no FIELD that can be, or no such VALUE"
    if "not supported for overriding" in words:
        field = re.search(r"field (config\.\S+)", words)
        return f"{field[1]} cannot be given as a flag: change it in the config file"
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        return f"{error.filename} is no directory, or below a file: name another"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "writing failed (no space left on the device): free some, run it again"
    unread, _, cause = words.partition("[Errno")
    if "failure to load" in unread:
        return f"no config file there: [Errno{cause}"
    return words
