"""How the scripts run: one line for what a person got wrong, never a traceback."""

import contextlib
import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from absl import app as absl_app
from absl import flags
from absl import logging as absl_logging

from megjax import errors

MISTAKES = (*errors.MISTAKES, flags.Error)
UNHEARD = []
"""Why the output of this process goes nowhere, if it does."""


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
    preemptible: as for `distributed.start`.
    Mistakes in flags, configs, files and data end with one line on stderr and status
    1; so do flags that absl refuses. Set MEGJAX_TRACEBACK=1 for the traceback.
    """
    # Of a command, whose script only calls it, --help shows docstring and flags.
    module = sys.modules[main.__module__]
    sys.modules["__main__"].__doc__ = module.__doc__
    for flag in flags.FLAGS.get_flags_for_module(module.__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
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

    def reported(argv: list[str]):
        with together():
            status = _one_line(lambda: _run(main, argv, tuple(choices)))
            sys.exit(status or (128 + signal.SIGPIPE if UNHEARD else 0))

    absl_app.run(reported, flags_parser=_parse)


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


def check_flags(module: str, but: Iterable[str] = ()) -> None:
    """ValueError where this process has other flags of a module than process 0.

    but: names of flags that may differ, such as paths on disks of its own. All
    processes call it together.
    """
    import jax

    from megjax import distributed

    own = {
        flag.name: flag.value
        for flag in flags.FLAGS.get_flags_for_module(module)
        if flag.name not in but
    }
    if not distributed.agree(repr(sorted(own.items()))):
        raise ValueError(
            f"process {jax.process_index()} was started with other flags than process "
            "0: give all the same"
        )


@contextlib.contextmanager
def _processes(preemptible: bool) -> Iterator[None]:
    """Joins the other processes where flags say so; an error here ends them, too."""
    values = flags.FLAGS.flag_values_dict()
    given = [values[k] for k in ("coordinator", "num_processes", "process_id")]
    if not values["distributed"] and given == [None, None, None]:
        yield
        return
    from megjax import distributed

    timeouts = {k: values[k] for k in ("heartbeat_timeout", "start_timeout")}
    _one_line(lambda: distributed.start(*given, **timeouts, preemptible=preemptible))
    if not distributed.is_main():
        logging.getLogger("megjax").setLevel(logging.WARNING)
    try:
        yield
    except SystemExit as end:
        if end.code == 1:
            distributed.fail(errors.message(end.__context__))
        raise
    except BaseException as error:
        distributed.raise_peer_failure()
        traceback.print_exc()
        distributed.fail(f"{type(error).__name__}: {' '.join(str(error).split())}")
        raise


def _parse(argv: list[str]) -> list[str]:
    # A config file is a program of its own, which may raise anything.
    return _one_line(lambda: flags.FLAGS(argv), (Exception,))


def _run(main: Callable[..., int | None], argv: list[str], choices) -> int | None:
    taken = argv[1 : 1 + bool(choices)]
    if choices and taken[:1] not in [[choice] for choice in choices]:
        raise ValueError(f"the first argument is one of {', '.join(choices)}")
    if rest := argv[1 + len(taken) :]:
        raise ValueError(f"unexpected argument {rest[0]!r}: flags are --name=value")
    return main(*taken)


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints to stdout, or to a stream, as long as somebody reads it.

    Where nobody does any more (`| head`, a closed terminal) the rest goes nowhere, and
    the command goes on: what it makes is on disk. `run` then ends it with status 141.
    """
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        # The stream still holds what it could not write, and tries again at exit.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        UNHEARD.append(error)


def _one_line(call: Callable, mistakes: tuple = MISTAKES):
    """call(), with mistakes and a lack of memory printed in one line."""
    try:
        return call()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (*mistakes, MemoryError, RuntimeError) as error:
        expected = isinstance(error, mistakes) or errors.is_memory(error)
        expected = expected or errors.is_backend(error)
        if os.environ.get("MEGJAX_TRACEBACK") or not expected:
            raise
        say(f"error: {errors.message(error)}", sys.stderr)
        sys.exit(1)
