"""Checkpoints that are intact and cannot be read: the true reason, and nothing lost."""

import errno
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from orbax import checkpoint as ocp

from megjax.training import checkpoint

LIKE = {"x": jax.ShapeDtypeStruct((5,), np.float32)}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A run with steps 10 and 20, never to be changed."""
    workdir = tmp_path_factory.mktemp("healthy")
    with checkpoint.opened(workdir, keep=2) as checkpoints:
        for step in (10, 20):
            checkpoint.save(checkpoints, step, {"x": np.full(5, step, np.float32)})
    return workdir


def refused(number):
    return OSError(number, os.strerror(number), "a file")


def caused(error, cause):
    error.__cause__ = cause
    return error


REASONS = {
    "permission": (
        PermissionError(errno.EACCES, "Permission denied"),
        "Permission den",
    ),
    "a full disk": (refused(errno.ENOSPC), "no space left"),
    "too many files": (refused(errno.EMFILE), "Too many open files"),
    "a broken disk": (refused(errno.EIO), "Input/output error"),
    "a server that is away": (refused(errno.ESTALE), "file handle"),
    "a timeout": (refused(errno.ETIMEDOUT), "timed out"),
    "a read-only disk": (refused(errno.EROFS), "Read-only"),
    "a quota": (refused(errno.EDQUOT), "quota"),
    "TensorStore's permission": (
        ValueError("PERMISSION_DENIED: Error opening file"),
        "PERMISSION_DENIED",
    ),
    "TensorStore's limit": (
        ValueError("UNKNOWN: [OS error 24: EMFILE Too many open files]"),
        "Too many",
    ),
    "a name": ("\udcff".encode, "surrogates not allowed"),
    "a missing library": (ImportError("no zstandard"), "no zstandard"),
    "an older library": (NotImplementedError("ocdbt version 3"), "ocdbt version 3"),
    "a cause": (
        caused(ValueError("reading failed"), refused(errno.EACCES)),
        "reading failed|Permission denied",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_another_reason_than_damage_is_told_and_nothing_is_passed_over(
    name, healthy, caplog
):
    error, says = REASONS[name]

    def fails(*args, **kwargs):
        raise error if isinstance(error, Exception) else error()

    with checkpoint.opened(healthy, keep=2, writable=False) as checkpoints:
        intact = checkpoints.manager.restore
        checkpoints.manager.restore = (
            fails if isinstance(error, Exception) else lambda *_, **__: error()
        )
        with pytest.raises(OSError, match=f"not for damage to it .*({says})") as found:
            checkpoint.restore(checkpoints, LIKE)
        assert "\n" not in str(found.value) and "the checkpoint is kept" in str(
            found.value
        )
        assert "delete" not in str(found.value) and "is damaged" not in caplog.text
        checkpoints.manager.restore = intact
        assert checkpoint.restore(checkpoints, LIKE).step == 20


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory: 40 GiB")]
)
def test_a_lack_of_memory_is_no_damage(error, healthy, caplog):
    def fails(*args, **kwargs):
        raise error

    with checkpoint.opened(healthy, keep=2, writable=False) as checkpoints:
        checkpoints.manager.restore = fails
        with pytest.raises(type(error)):
            checkpoint.restore(checkpoints, LIKE)
    assert not caplog.text


@pytest.mark.parametrize(
    "error",
    [TypeError("no argument 'item'"), AttributeError("no 'restore'"), KeyError(3)],
)
def test_a_library_that_reads_nothing_is_no_damage(error, healthy, monkeypatch, caplog):
    """It fails on a new small checkpoint as well."""

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, "restore", fails)
    says = "not for damage to it .Orbax .* reads no checkpoint here"
    with (
        checkpoint.opened(healthy, keep=2, writable=False) as checkpoints,
        pytest.raises(OSError, match=says),
    ):
        checkpoint.restore(checkpoints, LIKE)
    assert not caplog.text


@pytest.mark.parametrize("older_is_read", [False, True])
def test_what_another_version_wrote_is_no_damage(
    older_is_read, healthy, tmp_path, caplog
):
    """Unless an older one of that version is read."""
    run = pathlib.Path(shutil.copytree(healthy, tmp_path / "run"))
    for path in (run / "checkpoints").glob("*/digests/metadata"):
        path.write_text(path.read_text().replace(ocp.__version__, "9.0.1"))

    def fails(step, args):
        if "state" in args and (step == 20 or not older_is_read):
            raise ValueError("metadata of an unknown form")
        return intact(step, args=args)

    with checkpoint.opened(run, keep=2, writable=False) as checkpoints:
        intact, checkpoints.manager.restore = checkpoints.manager.restore, fails
        if older_is_read:
            assert checkpoint.restore(checkpoints, LIKE).step == 10
        else:
            says = "can be read, and not for damage to them .Orbax 9.0.1 wrote it, this"
            with pytest.raises(OSError, match=says):
                checkpoint.restore(checkpoints, LIKE)
    assert "checkpoint 20" in caplog.text and "is damaged" not in caplog.text


def test_a_folder_that_may_not_be_read_is_no_damage(healthy, monkeypatch, caplog):
    """What Orbax makes of it may say anything."""
    plain = pathlib.Path.open

    def opened(path, mode="r", *args, **kwargs):
        if path.name == "manifest.ocdbt" and mode == "rb":
            raise refused(errno.EACCES)
        return plain(path, mode, *args, **kwargs)

    def fails(*args, **kwargs):
        raise ValueError("something")

    with checkpoint.opened(healthy, keep=2, writable=False) as checkpoints:
        checkpoints.manager.restore = fails
        monkeypatch.setattr(pathlib.Path, "open", opened)
        with pytest.raises(OSError, match="Permission denied: .*manifest.ocdbt"):
            checkpoint.restore(checkpoints, LIKE)
    assert not caplog.text


def test_damage_is_told_with_its_kind_and_no_advice_to_delete(healthy, tmp_path):
    run = pathlib.Path(shutil.copytree(healthy, tmp_path / "run"))
    for path in (run / "checkpoints").glob("*/digests/metadata"):
        path.write_text(path.read_text().replace("float32[5]", "float32[6]"))
    says = (
        "is damaged .the newest: the digest of the digests .*: restore it from a copy"
    )
    with (
        checkpoint.opened(run, keep=2) as checkpoints,
        pytest.raises(ValueError, match=says) as found,
    ):
        checkpoint.restore(checkpoints, LIKE)
    assert "delete" not in str(found.value)


@pytest.mark.parametrize("name", ["\udcff", "a\udce9b/run"])
@pytest.mark.parametrize("writable", [False, True])
def test_a_workdir_whose_name_is_no_text_is_refused_at_once(name, writable, tmp_path):
    with (
        pytest.raises(ValueError, match=r"workdir '.*udc.*': its name is no UTF-8"),
        checkpoint.opened(tmp_path / name, keep=1, writable=writable),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_workdir_in_another_encoding_than_utf_8_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsencode", lambda path: str(path).encode("latin-1"))
    with (
        pytest.raises(ValueError, match="set LC_ALL=C.UTF-8"),
        checkpoint.opened(tmp_path / "für", keep=1),
    ):
        pass


@pytest.mark.parametrize("name", ["a b", "für", "数", "100%", "a'b", "#1", "a:b"])
def test_names_of_other_letters_work(name, tmp_path):
    state = {"x": np.arange(5, dtype=np.float32)}
    with checkpoint.opened(tmp_path / name, keep=1) as checkpoints:
        checkpoint.save(checkpoints, 1, state)
        checkpoint.finished(checkpoints)
        found = checkpoint.restore(checkpoints, LIKE)
    np.testing.assert_array_equal(found.state["x"], state["x"])


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EACCES, "give a path that you may write to"),
        (errno.EROFS, "give a path that you may write to"),
        (errno.ENAMETOOLONG, "give a shorter path"),
        (errno.ENOSPC, "free or repair the disk"),
    ],
)
def test_a_workdir_that_cannot_be_made_is_told(number, says, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise refused(number)

    monkeypatch.setattr(pathlib.Path, "mkdir", fails)
    with (
        pytest.raises(OSError, match=f"workdir .* cannot be made .*: {says}"),
        checkpoint.opened(tmp_path / "run", keep=1),
    ):
        pass
