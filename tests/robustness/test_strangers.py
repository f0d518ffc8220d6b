"""Models from a stranger: refused in one line where they are none, and never executed."""

import io
import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from megjax import EnergyDetector
from megjax.evaluation import classifier, inception

GARBAGE = bytes(range(256)) * 8
READERS = {
    "classifier": classifier.load,
    "inception": inception.load,
    "detector": EnergyDetector.load,
}
SUFFIXES = {"classifier": "npz", "inception": "pth", "detector": "npz"}


class Trap:
    """Once unpickled, leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.fixture
def sprung(tmp_path):
    """A file that is there once something of the stranger's has been executed."""
    path = tmp_path / "sprung"
    yield path
    assert not path.exists()


def saved(**arrays):
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(value) for name, value in arrays.items()})
    return file.getvalue()


def torch_file(content):
    """The parts of a .pth, with a pickle of the stranger's in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")
    return file.getvalue()


def test_a_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


FILES = {
    "missing": lambda trap: None,
    "garbage": lambda trap: GARBAGE,
    "empty": lambda trap: b"",
    "text": lambda trap: b"no model",
    "half a zip": lambda trap: b"PK\x03\x04" + bytes(50),
    "another table": lambda trap: saved(x=np.ones(3)),
    "a header of text": lambda trap: saved(header="nope"),
    "a header alone": lambda trap: saved(header=json.dumps({"kind": "megjax"})),
    "a header of objects": lambda trap: saved(header=np.array([trap, 1])),
    "a digest of objects": lambda trap: saved(sha256=np.array([trap, 1])),
    "a pickle": pickle.dumps,
    "a pickle in a zip": lambda trap: torch_file(pickle.dumps(trap)),
    "a pickle in an array": lambda trap: torch_file(saved(x=np.array([trap]))),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", FILES)
def test_files_of_models_that_are_none(reader, name, tmp_path, sprung):
    path = tmp_path / f"x.{SUFFIXES[reader]}"
    content = FILES[name](Trap(sprung))
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=r"x\.(npz|pth)"):
        READERS[reader](path)


def test_a_folder_is_no_model(tmp_path):
    for load in READERS.values():
        with pytest.raises((ValueError, OSError)):
            load(tmp_path)
