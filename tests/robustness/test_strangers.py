"""Files from a stranger: refused in one line where they are wrong, and never executed."""

import io
import json
import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from megjax import EnergyDetector
from megjax.evaluation import classifier, inception
from megjax.training import checkpoint, experiment, loop

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


TRAP = "open({!r}, 'w')\ndef get_config():\n    pass\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of digits that has not been trained: its record is all that is read."""
    folder = tmp_path_factory.mktemp("run")
    values = experiment.plain_values(experiment.load("digits"))
    record = checkpoint.Record("digits", "meg.images", (8, 8, 1), values)
    checkpoint.claim(folder, record)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        *({"recipe": name} for name in ("os.system", "posix.system", "meg.nope", "")),
        *({"recipe": name} for name in ("..os.system", "megjax.recipes.meg.images")),
        *({"recipe": name} for name in ("meg.__builtins__", "meg.experiment")),
        *(
            {"recipe": name}
            for name in ("__init__.meg", "meg.images.data", "meg\n.images")
        ),
        *({"recipe": name} for name in ("{trap}", "trap.images", 3, ["meg.images"])),
        {"recipe": None, "config": "{trap}"},
        {"recipe": None, "config": "{trap}:images"},
        {"version": 1, "config_file": "{trap}", "recipe": None},
    ],
    ids=str,
)
def test_a_record_of_a_run_runs_nothing(change, run, tmp_path, sprung, monkeypatch):
    (tmp_path / "trap.py").write_text(TRAP.format(str(sprung)))
    monkeypatch.syspath_prepend(tmp_path)
    change = {
        key: value.replace("{trap}", str(tmp_path / "trap.py"))
        if isinstance(value, str)
        else value
        for key, value in change.items()
    }
    saved = json.loads((run / checkpoint.CONFIG_FILE).read_text())
    (tmp_path / checkpoint.CONFIG_FILE).write_text(json.dumps(saved | change))
    with pytest.raises(ValueError, match="recipe|damaged"):
        loop.restore(tmp_path)


@pytest.mark.parametrize("value", ["__import__('os').getcwd()", "{trap}", "os.system"])
@pytest.mark.parametrize("field", ["dtype", "meg.bound", "meg.pairing", "dataset"])
def test_values_of_a_record_are_data(field, value, run, tmp_path):
    saved = json.loads((run / checkpoint.CONFIG_FILE).read_text())
    *groups, name = field.split(".")
    values = saved["values"]
    for group in groups:
        values = values[group]
    values[name] = value
    (tmp_path / checkpoint.CONFIG_FILE).write_text(json.dumps(saved))
    with pytest.raises((ValueError, FileNotFoundError)):
        loop.restore(tmp_path)
