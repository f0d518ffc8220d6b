"""Files of arrays that are cut short, flipped, exchanged, or have no room."""

import errno
import hashlib
import logging
import os
import pathlib

import numpy as np
import pytest

from megjax.io import atomic

ARRAYS = {
    "energy": np.arange(12, dtype=np.float32).reshape(3, 4),
    "accepted": np.array([True, False]),
    "name": np.array("walk"),
}


def same(found):
    return found is not None and all(
        np.array_equal(found[k], v) and found[k].dtype == v.dtype
        for k, v in ARRAYS.items()
    )


def test_arrays_come_back_and_their_digest_is_the_one_worked_by_hand(tmp_path):
    path = tmp_path / "a.npz"
    atomic.write(path, {"x": np.array([1, 2], "<i4")})
    text = b"x <i4 (2,)\n\x01\x00\x00\x00\x02\x00\x00\x00"
    with np.load(path, allow_pickle=False) as saved:
        assert str(saved[atomic.DIGEST]) == hashlib.sha256(text).hexdigest()
    atomic.write(path, ARRAYS)
    assert same(atomic.read(path)) and list(tmp_path.iterdir()) == [path]
    assert atomic.read(tmp_path / "b.npz") is None


def test_equal_arrays_make_equal_files(tmp_path):
    atomic.write(tmp_path / "a", ARRAYS)
    other = dict(reversed(ARRAYS.items()))
    atomic.write(tmp_path / "b", other | {"energy": np.asfortranarray(other["energy"])})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_flipped_bit_and_no_cut_goes_unnoticed(tmp_path, caplog):
    """A flip is told or, in fields of the archive that nobody reads, changes nothing."""
    path = tmp_path / "a.npz"
    atomic.write(path, ARRAYS)
    whole, told = path.read_bytes(), 0
    with caplog.at_level(logging.CRITICAL):
        for i in range(0, 8 * len(whole), 7):
            flipped = bytearray(whole)
            flipped[i // 8] ^= 1 << i % 8
            path.write_bytes(flipped)
            found = atomic.read(path)
            told += found is None
            assert found is None or same(found)
        for length in range(0, len(whole), 50):
            path.write_bytes(whole[:length])
            assert atomic.read(path) is None
    assert told > len(whole) / 2
    atomic.read(path)
    assert caplog.messages[-1] == f"{path} is damaged: what it held is made again"


def test_exchanged_arrays_and_pickles_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    digest = atomic._digest(ARRAYS)
    other = ARRAYS | {"energy": ARRAYS["energy"] + 1}
    np.savez(path, sha256=np.array(digest), **other)
    assert atomic.read(path) is None
    np.savez(path, sha256=np.array(digest), x=np.array([{}], dtype=object))
    assert atomic.read(path) is None


@pytest.mark.parametrize("place", [(os, "fsync"), (pathlib.Path, "replace")])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, place):
    path = tmp_path / "a.npz"
    atomic.write(path, ARRAYS)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*place, full)
    with pytest.raises(
        OSError, match=r"a.npz failed \(No space left on device\): free"
    ):
        atomic.write(path, {"x": np.zeros(3)})
    monkeypatch.undo()
    assert same(atomic.read(path)) and list(tmp_path.iterdir()) == [path]
