"""Paths of every function and flag that takes one: ~, folders, files and other letters."""

import errno
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax import api, checks
from megjax.data import dataset, files, folders, images, kdd99, prepare
from megjax.estimators.detector import EnergyDetector
from megjax.evaluation import classifier, inception
from megjax.io import atomic, tensors
from megjax.sampling import density, store
from megjax.training import (
    checkpoint,
    evaluate,
    experiment,
    loop,
    metric_writer,
    weights,
)
from tests.robustness.conftest import TOY

RECORD = checkpoint.Record("a", "meg.images", (8, 8, 1), {"batch_size": 8})


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home, and another folder that is the current one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield tmp_path / "home"
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~", "."),
        ("~/runs", "runs"),
        ("~/runs/", "runs"),
        (pathlib.Path("~/runs"), "runs"),
        ("~/a b/für", "a b/für"),
    ],
)
def test_a_path_is_below_the_home(given, expected, home):
    assert checks.path(given) == home / expected


def test_a_folder_may_be_called_like_a_home(home):
    found = checks.path("./~x")
    assert found == checks.path(found) == pathlib.Path.cwd() / "~x"


@pytest.mark.parametrize("given", ["runs", "a/~b", "runs/ä ö", "/tmp/x", "."])
def test_other_paths_are_as_given(given):
    assert checks.path(given) == pathlib.Path(given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("~nobody_of_this_name/x", "~nobody_of_this_name is no home here; write ./~"),
        ("", "'' is no path"),
        ("a\0b", r"'a\\x00b' is no path"),
        (3, "3 is a int: give a path"),
        (None, "None is None: give a path"),
        (b"runs", "b'runs' is a bytes: give a path"),
        (["runs"], "is a list: give a path"),
    ],
)
def test_what_is_no_path(given, says):
    with pytest.raises(ValueError, match=says) as error:
        checks.path(given)
    assert "\n" not in str(error.value)


def opened(path):
    with checkpoint.opened(path, keep=1) as checkpoints:
        checkpoint.save(checkpoints, 1, {"x": np.ones(2)})


def claimed(path):
    (checks.path(path)).mkdir()
    checkpoint.claim(path, RECORD)
    assert checkpoint.claimed(path) == RECORD


def stored(path):
    with store.opened(path, draws=True) as kept:
        kept.claim({"steps": 1, "thin": 1}, 1, 1)


def written(path):
    with metric_writer.opened(path, 0, 1) as writer:
        writer.write(1, {"x": 1.0})
    assert metric_writer.read(path)


def sampled(path):
    density.sample(
        lambda x: -0.5 * jnp.sum(x**2),
        jnp.ones((2, 2)),
        key=jax.random.key(0),
        kernel="rwm",
        num_warmup=0,
        num_samples=4,
        store=path,
        progress=False,
    )


def named(path):
    checks.path(path).write_text("def get_config(): pass")
    assert experiment.find(path) == str(checks.path(path))


WRITERS = {
    "checkpoint.opened": opened,
    "checkpoint.claim": claimed,
    "store.opened": stored,
    "metric_writer.opened": written,
    "experiment.find": named,
    "sample": pytest.param(sampled, marks=pytest.mark.filterwarnings("ignore")),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_home_is_written_to(name, home):
    write = WRITERS[name]
    write = write.values[0] if not callable(write) else write
    if name == "metric_writer.opened":
        (home / "made").mkdir()
    write("~/made")
    assert (home / "made").exists()


READERS = {
    "checkpoint.claimed": checkpoint.claimed,
    "loop.restore": loop.restore,
    "api.load": api.load,
    "api.load_weights": api.load_weights,
    "weights.load": weights.load,
    "EnergyDetector.load": EnergyDetector.load,
    "classifier.load": classifier.load,
    "store.draws": store.draws,
}


@pytest.mark.parametrize("name", READERS)
def test_a_home_is_read_from(name, home):
    """Where there is nothing, and the message has the path that was looked for."""
    with pytest.raises((ValueError, OSError), match=str(home / "nothing")) as error:
        READERS[name]("~/nothing")
    assert "~" not in str(error.value) and "repair" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nothing/x.npz", "there is no folder .*nothing; make it first"),
        ("folder", "folder failed: it is a folder; give the name of a file"),
        ("file/x.npz", "Not a directory|there is no folder"),
        ("n" * 300, "give a shorter path"),
    ],
)
def test_a_file_that_cannot_be_written_is_no_disk_to_repair(name, says, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match=says) as error:
        atomic.write(tmp_path / name, {"x": np.ones(2)})
    assert "repair" not in str(error.value) and "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("name", ["file", "file/below", "file/a/b"])
def test_a_file_where_a_folder_should_be(name, tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(NotADirectoryError, match="is no directory, or below a file: n"):
        atomic.folder(tmp_path / name)


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EACCES, "Permission denied.*give a path that you may write to"),
        (errno.EROFS, "Read-only.*give a path that you may write to"),
        (errno.ENOSPC, "No space left.*free or repair the disk"),
        (errno.EDQUOT, "quota.*free or repair the disk"),
        (errno.EIO, "Input/output.*free or repair the disk"),
    ],
)
def test_what_to_do_where_writing_fails(number, says, tmp_path, monkeypatch):
    def fails(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match=says):
        atomic.write(tmp_path / "x.npz", {"x": np.ones(2)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["folder.py", "folder.py/", "folder/"])
def test_a_folder_is_no_config(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / given).mkdir()
    with pytest.raises(ValueError, match="is a folder: give the config file in it"):
        experiment.find(given)


@pytest.mark.parametrize("name", ["~/results", "results/"])
def test_results_of_evaluations_are_looked_for_at_home(name, home):
    (home / "results").write_text("no folder")
    path = home / "results" if name == "results/" else name
    assert evaluate.read(checks.path(path)) == {}


LINES = [
    ("train.py", "--workdir=~nobody_at_all/x"),
    ("train.py", "--config=~nobody_at_all/x.py"),
    ("sample.py", "--workdir=~nobody_at_all"),
    ("sample.py", "--workdir={root}", "--out=~nobody_at_all/x"),
    ("evaluate.py", "--workdir=~nobody_at_all/x"),
    ("evaluate.py", "--workdir={root}", "--out=~nobody_at_all/x"),
    # As of a variable of the shell that is not set: it was the newest run's, or its.
    *((f"{name}.py", "--workdir=") for name in ("train", "sample", "evaluate")),
    ("megjax/cli.py", "export", "--workdir="),
    ("megjax/cli.py", "report", "--workdir="),
    ("megjax/evaluation/classifier.py", "--data=mnist", "--data_dir=~nobody_at_all"),
    ("megjax/cli.py", "prepare", "kdd99", "--data_dir=~nobody_at_all"),
    (
        "megjax/cli.py",
        "prepare",
        "kdd99",
        "--data_dir={root}",
        "--raw_dir=~nobody_at_all",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_flags_with_a_home_that_is_none(line, scripts, tmp_path):
    script, *flags = line
    more = TOY if script == "train.py" and "--config" not in flags[0] else ()
    says = "~nobody_at_all is no home here|is missing, so|'' is no path"
    assert scripts.refusal_fault(tmp_path, [script, *more, *flags], says) is None


DATA = {
    "folder": folders.folder,
    "custom": files.custom,
    "array": files.array,
    "images": lambda path: images.labelled("mnist", data_dir=path),
    "kdd99": lambda path: kdd99.kdd99(path, data_dir=None),
    "kdd99 below": lambda path: kdd99.kdd99(None, data_dir=path),
    "find_file": lambda path: dataset.find_file(("a",), "b", path),
    "prepare": lambda path: prepare.prepare("kdd99", data_dir=path),
    "originals": lambda path: prepare.prepare("kdd99", data_dir=".", raw_dir=path),
    "inception": inception.load,
    "tensors": tensors.load,
}


@pytest.mark.parametrize("path", ["~nobody_of_this_name/x.npy", "a\0b.npy"])
@pytest.mark.parametrize("name", DATA)
def test_data_below_a_home_that_is_none(name, path):
    """pathlib raises RuntimeError, which ended in a traceback."""
    with pytest.raises(ValueError, match="no home here|is no path"):
        DATA[name](path)


@pytest.mark.parametrize("given", ["folder", "folder/", "new/", ".", "~", "a/b/"])
@pytest.mark.parametrize("save", ["estimator", "weights"])
def test_a_folder_is_no_file_to_save_to(save, given, home):
    """A trailing slash went unsaid, and "." was a name that is empty."""
    pathlib.Path(home, "folder").mkdir()
    path = str(home / given) if given.startswith("f") else given
    with pytest.raises(ValueError, match="is a folder: give the name of a file"):
        if save == "weights":
            weights.save(path, None)
        else:
            EnergyDetector().fit(np.ones((3, 2)) * [[1], [2], [3]]).save(path)
