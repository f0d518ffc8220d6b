"""What a run leaves on disk: its config, and its states with a digest of every leaf.

Orbax writes the states. It does not notice most damaged bytes when it reads them back,
hence the digests. Of several processes the main one reads and writes, and sends what it
has read to the others: a run directory need not be seen by all, and all resume at the
same step.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from orbax import checkpoint as ocp

from megjax import checks, distributed, errors
from megjax.io import atomic
from megjax.types import PyTree

LOG = logging.getLogger(__name__)
CONFIG_FILE = "config.json"
VERSION = 1
"""Of the form of that file."""
OLDER = "git checkout 742d0bf"
"""What reads runs whose record has no version."""
DIRECTORY = "checkpoints"
FREE = (
    "data_dir",
    "train.num_steps",
    "train.log_every",
    "train.save_every",
    "train.evaluate_every",
    "train.keep",
    "train.max_returns",
    "train.max_energy",
)
FREE_GROUP = "evaluation."
"""Config fields, and a group of them, that a resumed run may change: they leave every
iteration as it is, but that more iterations stretch a learning rate that decays."""
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""Errors of files that are not there, which is damage."""
REFUSED = (
    *("Permission denied", "PERMISSION_DENIED", "Operation not permitted"),
    *("Too many open files", "Input/output error", "No space left", "Stale file"),
)
"""What TensorStore says of a machine that refuses to read."""


class Saved(NamedTuple):
    """A state that was read back, on the host; returns, ended: as given to `save`."""

    step: int
    state: PyTree
    returns: int
    ended: bool = False


class Record(NamedTuple):
    """What config.json of a run holds: data alone, nothing that is run.

    config: name of the config. recipe: as `experiment.recipe_name`. shape: of one
    example. values: of the config.
    """

    config: str
    recipe: str | None
    shape: tuple[int, ...]
    values: Mapping[str, Any]


class Checkpoints(NamedTuple):
    """An open store of states: Orbax's manager and the directory it works in.

    manager: None in other processes than the main one.
    """

    manager: ocp.CheckpointManager | None
    directory: pathlib.Path


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which does not take part in finding the step to stop at.

    It would ask with its own numbers, which stand in the way of the loop's.
    """

    def reached_preemption(self, step: int) -> bool:
        """False: the loop saves by itself when the time comes."""
        del step
        return False


@contextlib.contextmanager
def opened(
    workdir: str | pathlib.Path, *, keep: int, writable: bool = True
) -> Iterator[Checkpoints]:
    """The checkpoints of a run, the newest `keep` of them; waits for writes at exit.

    With `writable` the run is locked: raises ValueError where another process trains
    in the same directory, or where that is no directory.
    """
    directory = _encodable(checks.path(workdir).resolve()) / DIRECTORY
    if not distributed.is_main():
        yield Checkpoints(None, directory)
        return
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        cleanup_tmp_directories=writable,
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            active_processes={jax.process_index()}
        ),
    )
    with _quiet(), _locked(directory.parent) if writable else contextlib.nullcontext():
        if writable:
            with _writing(directory):
                directory.mkdir(exist_ok=True)
        checkpoints = Checkpoints(_Manager(directory, options=options), directory)
        with _closing(checkpoints):
            yield checkpoints


def save(
    checkpoints: Checkpoints,
    step: int,
    state: PyTree,
    *,
    returns: int = 0,
    ended: bool = False,
) -> None:
    """Writes the state of an iteration in the background.

    The state is copied to the host first, so the caller may donate it. This step and
    later ones that are there already go: training that comes by again has passed them
    over as damaged. Raises OSError where this write or an earlier one failed, and
    FloatingPointError, having written nothing, where the state is not finite: metrics
    show a bad update only one iteration later.

    returns: how often the run went back to a checkpoint before. ended: whether the state
    is that of a run at its end, after `Learner.finish`.
    """
    host = jax.tree.map(np.array, jax.device_get(state))
    _check_finite(host, step)
    if checkpoints.manager is None:
        return
    finished(checkpoints)
    leaves = digests(host)
    record = {"leaves": leaves, "returns": returns, "all": _combined(leaves, returns)}
    record |= {"ended": ended, "orbax": ocp.__version__}
    with _writing(checkpoints.directory):
        for other in checkpoints.manager.all_steps():
            if other >= step:
                checkpoints.manager.delete(other)
        checkpoints.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(host),
                digests=ocp.args.JsonSave(record),
            ),
            force=True,
        )


def finished(checkpoints: Checkpoints) -> None:
    """Waits for the write under way; raises OSError where it failed."""
    if checkpoints.manager is None:
        return
    with _writing(checkpoints.directory):
        checkpoints.manager.wait_until_finished()
        checkpoints.manager.check_for_errors()


def restore(
    checkpoints: Checkpoints, like: PyTree, step: int | None = None
) -> Saved | None:
    """The newest intact checkpoint, or that of a step; None where there is none at all.

    like: forms of the leaves. Damaged steps are passed over with a warning. Raises
    ValueError where the saved state has other leaves than `like`, where every step is
    damaged, or where there is no such step; OSError where reading fails for another
    reason than damage, for then the newest step is not to be passed over.
    """
    found = _newest(checkpoints, like, step) if checkpoints.manager else None
    numbers = [found.step, found.returns, found.ended] if found else [0, 0, 0]
    step, returns, ended = map(int, distributed.broadcast(np.int64(numbers)))
    if not step:
        return None
    if found is None:
        found = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    else:
        found = found.state
    return Saved(step, distributed.broadcast(found), returns, bool(ended))


def _newest(checkpoints: Checkpoints, like: PyTree, only: int | None) -> Saved | None:
    steps = sorted(checkpoints.manager.all_steps(), reverse=True)
    failed, foreign = [], []
    if only is not None and steps:
        if only not in steps:
            kept = ", ".join(map(str, reversed(steps)))
            raise ValueError(
                f"there is no checkpoint of step {only}: give one of {kept}"
            )
        steps = [only]
    for step in steps:
        try:
            return _restored(checkpoints, step, like)
        except _OtherState as error:
            raise ValueError(str(error)) from error
        # Orbax raises whatever its file formats raise.
        except Exception as error:  # noqa: BLE001
            failed.append(_damage(checkpoints, step, error))
            LOG.warning(
                "checkpoint %d in %s %s (%s): trying an earlier one",
                *(step, checkpoints.directory),
                *("cannot be read" if _is_foreign(error) else "is damaged", failed[-1]),
            )
            foreign += [failed[-1]] * _is_foreign(error)
    if foreign:
        raise OSError(
            f"no checkpoint in {checkpoints.directory} can be read, and not for damage "
            f"to them ({foreign[0]}): use that version; they are kept"
        )
    if steps:
        raise ValueError(
            f"every checkpoint in {checkpoints.directory} is damaged (the newest: "
            f"{failed[0]}): restore it from a copy, or use another --workdir"
        )
    return None


def _damage(checkpoints: Checkpoints, step: int, error: Exception) -> str:
    """What of a checkpoint that could not be read is damaged.

    Raises OSError or ValueError with the true reason where nothing says that it is:
    neither a digest nor a reader that works.
    """
    path = checkpoints.directory / str(step)
    if isinstance(error, _Mismatch):
        return str(error)
    if _is_foreign(error):
        return f"Orbax {error.args[0]} wrote it, this is {ocp.__version__}"
    if errors.is_memory(error):
        raise error
    reason = _unreadable(path, error)
    if reason is None and (reason := _reader_failure()) is not None:
        reason = f"Orbax {ocp.__version__} reads no checkpoint here: {reason}"
    if reason is None:
        return _line(error)
    raise OSError(
        f"reading {path} failed, and not for damage to it ({reason}): mend that, then "
        "run the command again; the checkpoint is kept"
    ) from error


def _unreadable(path: pathlib.Path, error: BaseException | None) -> str | None:
    """What of this machine is in the way of reading files; None where nothing is."""
    while error is not None:
        if isinstance(error, ImportError | UnicodeEncodeError | NotImplementedError):
            return _line(error)
        other = isinstance(error, OSError) and error.errno not in (None, *ABSENT)
        if other or any(words in str(error) for words in REFUSED):
            return _line(error)
        error = error.__cause__ or error.__context__
    for file in (path, *path.rglob("*")):
        try:
            next(file.iterdir(), None) if file.is_dir() else file.open("rb").close()
        except OSError as refused:
            if refused.errno not in ABSENT:
                return f"{refused.strerror}: {file}"
    return None


def _reader_failure() -> str | None:
    """Why Orbax does not read back what it writes; None where it does.

    So that of an error that may be anything the checkpoint is blamed only where a
    small new one is read without it.
    """
    like = {"x": np.arange(3)}
    with tempfile.TemporaryDirectory() as folder:
        options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
        try:
            with ocp.CheckpointManager(folder, options=options) as manager:
                manager.save(0, args=ocp.args.StandardSave(like))
                found = manager.restore(0, args=ocp.args.StandardRestore(like))
            return None if np.array_equal(found["x"], like["x"]) else "other numbers"
        except Exception as error:  # noqa: BLE001
            return _line(error)


def digests(state: PyTree) -> dict[str, str]:
    """leaf path -> "dtype[shape] sha256" of every leaf of a state."""
    return {
        jax.tree_util.keystr(path): _digest(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def state_digest(state: PyTree) -> str:
    """One SHA-256 of a whole state; equal for equal bits."""
    return _combined(digests(state))


def claim(workdir: str | pathlib.Path, record: Record) -> None:
    """Records the config of a run, or checks that the run has this one.

    Raises ValueError where the directory has checkpoints of another config, naming the
    fields that differ; those in `FREE` may, and are recorded again. Raises it, too,
    where the main process was started with another config than this one. To be called
    while the run is locked.
    """
    workdir = checks.path(workdir)
    try:
        plain = json.loads(json.dumps(record._asdict()))
    except TypeError as error:
        raise ValueError(
            f"the config has a field that is no plain value ({error}): give numbers, "
            "text, lists and groups of them"
        ) from error
    given = {"version": VERSION} | plain
    if not distributed.agree(json.dumps(given, sort_keys=True)):
        raise ValueError(
            f"process {jax.process_index()} was started with another config than "
            "process 0: give all the same flags"
        )
    if not distributed.is_main():
        return
    path = workdir / CONFIG_FILE
    if steps := _steps(workdir / DIRECTORY):
        saved = _claimed(workdir)
        found = difference(saved["values"], given["values"])
        for field in ("shape", "recipe", "config"):
            if saved[field] != given[field]:
                found = f"{field}: the run has {saved[field]}, given {given[field]}"
        if found:
            raise ValueError(
                f"{workdir} holds a run with another config ({found}): "
                "give the same values, or another --workdir"
            )
        num_steps = given["values"]["train"]["num_steps"]
        if max(steps) > num_steps:
            raise ValueError(
                f"{workdir} holds a run of {max(steps)} iterations, and "
                f"config.train.num_steps={num_steps}: give at least as many, or another "
                "--workdir"
            )
    with _writing(workdir):
        text = json.dumps(given, indent=2) + "\n"
        atomic.replace(path, lambda file: file.write(text.encode()))


def claimed(workdir: str | pathlib.Path) -> Record:
    """The record of the run in a directory, as the main process sees it.

    Raises FileNotFoundError where there is no run, ValueError where its record is
    damaged, or of another version of megjax.
    """
    text = json.dumps(_claimed(workdir)) if distributed.is_main() else ""
    saved = json.loads(distributed.broadcast_text(text))
    return Record(
        saved["config"], saved["recipe"], tuple(saved["shape"]), saved["values"]
    )


def _claimed(workdir: str | pathlib.Path) -> dict[str, Any]:
    workdir = checks.path(workdir)
    path = workdir / CONFIG_FILE
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{path} is missing, so {workdir} is no run: name another directory (--workdir)"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({_line(error)}): restore it") from error
    return parsed(text, path)


def parsed(text: str, path: pathlib.Path) -> dict[str, Any]:
    """A record as plain data; path: where its text is from, for messages.

    Raises ValueError where it is damaged, or of another version of megjax.
    """
    try:
        saved = json.loads(text)
        if not _is_record(saved):
            raise ValueError("it holds no config")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({_cause(error)}): restore it, or use another --workdir"
        ) from error
    if saved.get("version") != VERSION:
        raise ValueError(
            f"{path} is of another version of megjax: train again, or read it with the "
            f"version that wrote it ({'a newer one' if 'version' in saved else OLDER})"
        )
    return saved


def _is_record(saved: Any) -> bool:
    """Whether what JSON gave has the form of a record of any version."""
    if "version" not in saved:
        return isinstance(saved["config_file"], str)
    shape = saved["shape"]
    return (
        type(saved["version"]) is int
        and isinstance(saved["config"], str)
        and isinstance(saved["recipe"], str | None)
        and isinstance(saved["values"], dict)
        and isinstance(shape, list)
        and len(shape) > 0
        and all(type(size) is int and 0 < size < 2**31 for size in shape)
    )


def _cause(error: Exception) -> str:
    """An error of reading JSON; of looking things up in it, in a person's words."""
    return _line(error) if isinstance(error, ValueError) else "it holds no config"


def difference(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """The fields that may not change and do, in words; None where there are none."""
    saved, given = _flat(saved), _flat(given)
    words = [
        f"{name}: the run has {saved.get(name)!r:.80}, given {given.get(name)!r:.80}"
        for name in sorted(saved.keys() | given.keys())
        if name not in FREE
        and not name.startswith(FREE_GROUP)
        and saved.get(name) != given.get(name)
    ]
    return "; ".join(words) or None


def _is_foreign(error: BaseException) -> bool:
    return isinstance(error, _OtherVersion)


class _OtherVersion(Exception):
    """A checkpoint that another version of Orbax wrote, and that this does not read."""


class _Mismatch(Exception):
    """A checkpoint whose digests prove that it is damaged."""


class _OtherState(Exception):
    """A checkpoint of a state with other leaves than the one asked for."""


def _restored(checkpoints: Checkpoints, step: int, like: PyTree) -> Saved:
    manager = checkpoints.manager
    record = manager.restore(
        step, args=ocp.args.Composite(digests=ocp.args.JsonRestore())
    ).digests
    saved, returns = record["leaves"], record.get("returns", 0)
    if _combined(saved, returns) != record["all"]:
        raise _Mismatch("the digest of the digests does not match")
    _check_leaves(saved, like, f"checkpoint {step} in {checkpoints.directory}")
    # Arrays of NumPy come back as such, wherever they were saved from.
    host = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
    try:
        state = manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(host))
        ).state
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        writer = record.get("orbax", ocp.__version__)
        if writer == ocp.__version__ or _unreadable(
            checkpoints.directory / str(step), error
        ):
            raise
        raise _OtherVersion(writer) from error
    found = digests(state)
    wrong = [path for path in found if found[path] != saved[path]]
    if wrong:
        raise _Mismatch(f"the digest of {wrong[0]} does not match")
    # An earlier version did not say; its runs ended where they were to end.
    return Saved(step, state, returns, record.get("ended", True))


def _check_leaves(saved: Mapping[str, str], like: PyTree, name: str) -> None:
    """Raises _OtherState naming the first leaf that differs in presence or form."""
    wanted = {
        jax.tree_util.keystr(path): _form(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    forms = {path: text.split()[0] for path, text in saved.items()}
    for path in sorted(wanted.keys() | forms.keys()):
        if wanted.get(path) != forms.get(path):
            raise _OtherState(
                f"{name} does not fit this model: {path} is "
                f"{forms.get(path, 'absent')} there and {wanted.get(path, 'absent')} "
                "here; check out the version that wrote it, or use another --workdir"
            )


def _check_finite(state: PyTree, step: int) -> None:
    """FloatingPointError naming a leaf of the state that is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.all(np.isfinite(leaf)):
            raise FloatingPointError(
                f"{jax.tree_util.keystr(path)} not finite after iteration {step}"
            )


def _combined(leaves: Mapping[str, str], returns: int = 0) -> str:
    content = {**leaves, "returns": returns} if returns else leaves
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _form(leaf) -> str:
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def _digest(leaf) -> str:
    leaf = np.ascontiguousarray(leaf).reshape(np.shape(leaf))
    return f"{_form(leaf)} {hashlib.sha256(leaf.tobytes()).hexdigest()}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _steps(directory: pathlib.Path) -> list[int]:
    """Steps of the finished checkpoints in a directory, which may be missing."""
    return [int(path.name) for path in directory.glob("*") if path.name.isdigit()]


def _encodable(path: pathlib.Path) -> pathlib.Path:
    """The path; ValueError where Orbax, which writes UTF-8, would name another."""
    try:
        same = os.fsencode(path) == str(path).encode()
    except UnicodeError:
        same = False
    if not same:
        raise ValueError(
            f"workdir {str(path)!a}: its name is no UTF-8 here (the locale has "
            f"{sys.getfilesystemencoding()}): rename it, or set LC_ALL=C.UTF-8"
        )
    return path


@contextlib.contextmanager
def _locked(workdir: pathlib.Path) -> Iterator[None]:
    """Makes the directory and holds its lock, which goes with the process."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(
            f"workdir {workdir} is no directory: name another with --workdir"
        ) from error
    except OSError as error:
        raise OSError(
            f"workdir {workdir} cannot be made ({error.strerror or error}): "
            f"{errors.remedy(error)}"
        ) from error
    with _lock_file(workdir) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process trains in {workdir}: wait for it, or use another "
                "--workdir"
            ) from error
        yield


def _lock_file(workdir: pathlib.Path) -> IO[str]:
    try:
        return (workdir / "lock").open("w")
    except OSError as error:
        raise OSError(
            f"workdir {workdir} cannot be locked ({error.strerror or error}): "
            f"{errors.remedy(error)}"
        ) from error


@contextlib.contextmanager
def _closing(checkpoints: Checkpoints) -> Iterator[None]:
    """Waits for the write under way; its failure does not hide an error of the body."""
    try:
        yield
    except BaseException:
        try:
            finished(checkpoints)
        except OSError as error:
            LOG.warning("%s", error)
        raise
    else:
        finished(checkpoints)
    finally:
        # Orbax raises a failed write again here.
        with contextlib.suppress(Exception):
            checkpoints.manager.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what Orbax prints on top of what it raises: pages of tracebacks.

    Some come from its log; others from reads that end after the first one that failed,
    in threads, by way of `sys.unraisablehook`.
    """

    def foreign(record: logging.LogRecord) -> bool:
        return "orbax" not in pathlib.Path(record.pathname).parts

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    logger, previous = logging.getLogger("absl"), sys.unraisablehook
    logger.addFilter(foreign)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous
        logger.removeFilter(foreign)


@contextlib.contextmanager
def _writing(directory: pathlib.Path) -> Iterator[None]:
    """Whatever is raised while writing, as an OSError of one line."""
    try:
        yield
    except Exception as error:
        raise OSError(
            f"writing to {directory} failed ({_line(error)}): {errors.remedy(error)}, "
            "then run the command again; earlier checkpoints are kept"
        ) from error


def _line(error: Exception, length: int = 160) -> str:
    """An error in one line; Orbax buries a full disk under the names of its files."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "RESOURCE_EXHAUSTED: Error writing" in text or "No space left" in text:
        return "no space left on the device"
    return text if len(text) <= length else text[:length] + "..."
