"""One line for what a person got wrong: which errors those are, and their words."""

import errno
import os
import pathlib
import re
import sysconfig
import traceback
from typing import Any

RENAMED = {
    "far_moves": "learned_shrinkage",
    "halves": "coupling_masks",
    "whitenings": "warmup_windows",
    "driven": "fluctuating_temperature",
    "variant": "dataset",
    "name": "dataset",
}
"""Fields of configs that had other names."""

MISTAKES = (ValueError, OSError, FloatingPointError, ImportError)


def kind(value: Any) -> str:
    """What a value is that is not what it should be: "a list", or "None"."""
    return "None" if value is None else f"a {type(value).__name__}"


def no_field(name: str) -> str:
    """That a config has no such field, and what it is called now if it was renamed."""
    if name in RENAMED:
        return f"the config has no field {name}: it is called {RENAMED[name]} now"
    return f"the config has no field {name}: its fields are in the config file"


def failure(error: BaseException) -> str:
    """An error of a program that a person wrote: its type, words, file and line."""
    words = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    place = f"line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""
    return ", ".join(filter(None, (f"{type(error).__name__}: {words}"[:400], place)))


def own_place(error: BaseException) -> str:
    """File and line of an error in the innermost program that is no library's."""
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    libraries.add(str(pathlib.Path(__file__).parent))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*libraries, "<frozen"))
    ]
    return f"line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""


def is_backend(error: BaseException) -> bool:
    """Whether JAX has not the kind of device that it was told to use."""
    return isinstance(error, RuntimeError) and "initialize backend" in str(error)


def remedy(error: BaseException) -> str:
    """What to do where writing failed."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return "make that folder, or give another path"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "give a path that you may write to"
    if number == errno.ENAMETOOLONG:
        return "give a shorter path"
    return "free or repair the disk"


def is_memory(error: BaseException) -> bool:
    """Whether NumPy or XLA, whose error is a RuntimeError, ran out of memory."""
    words = ("RESOURCE_EXHAUSTED", "Out of memory")
    return isinstance(error, MemoryError) or any(w in str(error) for w in words)


def message(error: BaseException) -> str:
    """The message of an error in one line.

    Flag parsing wraps what a config file raises, traceback and all: the cause counts.
    """
    in_config = "Error whilst parsing config file" in str(error)
    while "Error whilst parsing config file" in str(error) and error.__context__:
        error = error.__context__
    words = " ".join(str(error).split()) or type(error).__name__
    if is_memory(error):
        return f"out of memory ({words[:160]}): lower config.batch_size or config.width"
    if is_backend(error):
        chosen = os.environ.get("JAX_PLATFORMS", "")
        return (
            f"JAX_PLATFORMS={chosen}: there is no such device, or JAX was installed "
            f"without it ({words[:160]}): unset JAX_PLATFORMS, or install that JAX"
        )
    if in_config and not isinstance(error, (*MISTAKES, SyntaxError)):
        if "get_config() " in words:
            return "the config's get_config takes no such argument, or needs none"
        return f"the config file fails ({failure(error)}): correct it"
    return _override_message(error, words)


def _override_message(error: BaseException, words: str) -> str:
    """The message where it may be that of ml_collections about --config.FIELD=VALUE."""
    if "'get_config'" in words:
        return "this file is no config: it has no function get_config"
    if isinstance(error, AttributeError | KeyError):
        *_, name = words.strip("'\"").split("Attempting to lookup: ")
        return no_field(name)
    if "malformed node or string" in words:
        return "a flag --config.FIELD=VALUE has no FIELD that can be, or no such VALUE"
    if "not supported for overriding" in words:
        field = re.search(r"field (config\.\S+)", words)
        return f"{field[1]} cannot be given as a flag: change it in the config file"
    if field := re.search(r"as instance of .*for (\S+) values allowed", words):
        return (
            f"config.{field[1]} cannot be given as a flag: change it in the config file"
        )
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        return f"{error.filename} is no directory, or below a file: name another"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "writing failed (no space left on the device): free some, run it again"
    unread, _, cause = words.partition("[Errno")
    if "failure to load" in unread:
        return f"no config file there: [Errno{cause}"
    return words
