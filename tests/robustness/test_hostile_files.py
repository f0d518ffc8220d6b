"""Files made to harm: refused by name, in bounded memory, nothing run or overwritten."""

import gzip
import io
import json
import logging
import pickle
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

from megjax import EnergyDetector
from megjax.data import files, kdd99, prepare
from megjax.evaluation import classifier, inception
from megjax.io import npz, tensors
from megjax.metrics import frechet
from megjax.training import checkpoint, metric_writer

LIMIT = 2**20


def listing(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def bounded(monkeypatch, tmp_path):
    """A folder beside which nothing changes, and in which nothing but what a test wrote.

    Also holds what is allocated to 16 MB.
    """
    monkeypatch.setattr(npz, "MAX_UNPACKED", LIMIT)
    (tmp_path / "beside").write_bytes(b"as it was")
    folder = tmp_path / "folder"
    folder.mkdir()
    yield folder
    assert listing(tmp_path).keys() - {f"folder/{p}" for p in listing(folder)} == {
        "beside"
    }
    assert (tmp_path / "beside").read_bytes() == b"as it was"


def saved(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def archive(path, members, method=zipfile.ZIP_STORED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w", method) as file:
            for name, content in members.items():
                file.writestr(name, content)
    return path


class Trap:
    """Once unpickled, leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def objects(folder):
    trap = Trap(folder / "sprung")
    return np.array([trap, 1], object)


def broken(path):
    """Flips a bit in the middle of a compressed member, and its sum to match nothing."""
    rng = np.random.RandomState(0)
    archive(path, {"x.npy": saved(rng.randint(0, 9, 4000))}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    for i in range(400, 1200):
        content[i] ^= 0xFF
    path.write_bytes(content)


def flagged(path, offset, value):
    """Sets a field of the only member, in both places where an archive has it."""
    archive(path, {"x.npy": saved(np.ones((3, 2)))})
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    content[offset] = value
    content[central + 2 + offset] = value
    path.write_bytes(content)


def huge(path):
    header = saved(np.ones(3)).replace(b"(3,), }" + 12 * b" ", b"(9999999999999,), }")
    archive(path, {"x.npy": header})


ARCHIVES = {
    "a bomb": lambda path: archive(
        path, {"x.npy": saved(np.zeros((2**22, 1)))}, zipfile.ZIP_DEFLATED
    ),
    "many members": lambda path: archive(
        path,
        {f"a{i}.npy": saved(np.zeros(2**14)) for i in range(20)},
        zipfile.ZIP_DEFLATED,
    ),
    "a name above": lambda path: archive(path, {"../beside": b"overwritten"}),
    "an array above": lambda path: archive(path, {"../beside.npy": saved(np.eye(3))}),
    "an absolute name": lambda path: archive(path, {"/tmp/x.npy": saved(np.eye(3))}),
    "a name of Windows": lambda path: archive(path, {"..\\x.npy": saved(np.eye(3))}),
    "objects": lambda path: archive(path, {"x.npy": saved(objects(path.parent))}),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Trap(path.parent / "s"))),
    "a pickle in a zip": lambda path: archive(
        path, {"x.npy": pickle.dumps(Trap(path.parent / "sprung"))}
    ),
    "no array": lambda path: archive(path, {"x": b"text"}),
    "broken": broken,
    "encrypted": lambda path: flagged(path, 6, 1),
    "an unknown compression": lambda path: flagged(path, 8, 77),
    "a size of terabytes": huge,
    "half": lambda path: path.write_bytes(
        archive(path, {"x.npy": saved(np.eye(99))}).read_bytes()[:500]
    ),
    "a header of code": lambda path: archive(
        path,
        {"x.npy": b"\x93NUMPY\x01\x00\x20\x00__import__('os').system('ls')\n   "},
    ),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"not an archive"),
}
READERS = {
    "data": lambda path: files.custom(str(path)),
    "weights": tensors.load,
    "inception": inception.load,
    "classifier": classifier.load,
    "detector": EnergyDetector.load,
    "summary": lambda path: frechet.cached(path, "mark", pytest.fail),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_of_arrays(name, reader, bounded):
    path = bounded / "x.npz"
    ARCHIVES[name](path)
    before = listing(bounded)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"x\.npz") as error:
            READERS[reader](path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Memory that is asked for and never touched costs nothing.
    assert peak < 16 * LIMIT or name == "a size of terabytes"
    assert "\n" not in str(error.value)
    assert listing(bounded) == before


def test_a_compressed_archive_of_ordinary_arrays_is_read(bounded):
    """Bits are the most compressible arrays that people keep."""
    x = np.random.RandomState(0).randint(0, 2, (3000, 400)).astype(np.float32)
    np.savez_compressed(bounded / "x.npz", x)
    assert files.custom(str(bounded / "x.npz")).shape == (400,)


def test_weights_of_pytorch_that_unpack_to_too_much(bounded):
    path = bounded / "x.pth"
    members = {"a/data.pkl": b"", "a/data/0": bytes(2**24)}
    archive(path, members, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"x.pth is damaged.*over 200 times its size"):
        tensors.load(path)


def test_a_gzip_bomb_in_place_of_kdd99(bounded, monkeypatch):
    monkeypatch.setattr(kdd99, "_MAX_BYTES", LIMIT)
    path = bounded / kdd99.FILE_NAME
    path.write_bytes(gzip.compress(bytes(64 * LIMIT)))
    tracemalloc.start()
    with pytest.raises(
        ValueError, match=f"{kdd99.FILE_NAME} is not KDD.*unpacks to more"
    ):
        kdd99.table(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * LIMIT


def test_images_of_an_archive_are_never_unpacked_to_disk(bounded):
    """The sets that are prepared come as archives: their members have names only."""
    path = archive(bounded / "x.zip", {"../beside": b"one", "/etc/two": b"two"})
    members = prepare._ZipMembers(path)
    assert members["beside"] == b"one" and members["two"] == b"two"


RECORD = {
    "version": checkpoint.VERSION,
    "config": "toy",
    "recipe": "meg.plane",
    "shape": [2],
    "values": {"width": 3},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 99}, "of another version of megjax"),
        ({"version": 1.0}, "damaged"),
        ({"version": True}, "damaged"),
        ({"version": None}, "damaged"),
        ({"shape": [True]}, "damaged"),
        ({"shape": [2**40]}, "damaged"),
        ({"shape": "2"}, "damaged"),
        ({"shape": [[2]]}, "damaged"),
        ({"values": []}, "damaged"),
        ({"recipe": ["os.system"]}, "damaged"),
        ({"config": {"a": 1}}, "damaged"),
        ({"config": ...}, "damaged"),
        ({"shape": ...}, "damaged"),
    ],
)
def test_a_record_edited_by_hand(tmp_path, changes, words):
    record = {k: v for k, v in (RECORD | changes).items() if v is not ...}
    path = tmp_path / checkpoint.CONFIG_FILE
    path.write_text(json.dumps(RECORD))
    assert checkpoint.claimed(tmp_path).shape == (2,)
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"config.json is .*{words}"):
        checkpoint.claimed(tmp_path)


WHOLE = ['{"step": 10, "a": 1.5}', '{"step": 20, "a": null}', '{"step": 30, "a": 2}']
LINES = {
    "cut in half": '{"step": 15, "a": 1.',
    "half of two": '{"step": 15, "a"{"step": 16, "a": 1}',
    "garbage": "\x00\x01\x02",
    "a list": "[1, 2]",
    "text": '"step"',
    "no step": '{"a": 1}',
    "a step of text": '{"step": "15", "a": 1}',
    "a step of truth": '{"step": true, "a": 1}',
    "an infinite step": '{"step": 1e999, "a": 1}',
    "a huge step": '{"step": ' + "9" * 5000 + "}",
    "a value of text": '{"step": 15, "a": "high"}',
    "a nested value": '{"step": 15, "a": {"b": 1}}',
    "nested": "[" * 100_000,
}


@pytest.mark.parametrize("name", LINES)
def test_lines_of_metrics_that_are_none_are_counted_and_kept(name, tmp_path, caplog):
    path = tmp_path / metric_writer.METRICS_FILE
    text = "\n".join([WHOLE[0], LINES[name], *WHOLE[1:]]) + "\n"
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        found = metric_writer.read(tmp_path)
    assert [line["step"] for line in found] == [10, 20, 30]
    words = "metrics.jsonl: 1 of 4 lines are no metrics and left out, first line 2"
    assert words in caplog.text
    metric_writer._forget(path, after=20)
    assert path.read_text() == "\n".join(WHOLE[:2]).replace("null", "null") + "\n"
    copies = [path for path in tmp_path.iterdir() if "damaged" in path.name]
    assert [copy.read_text() for copy in copies] == [text]


def test_the_last_line_that_a_crash_cut_short_goes(tmp_path):
    path = tmp_path / metric_writer.METRICS_FILE
    path.write_text("\n".join(WHOLE)[:-5])
    metric_writer._forget(path, after=20)
    assert [path.name for path in tmp_path.iterdir()] == [metric_writer.METRICS_FILE]
    assert len(metric_writer.read(tmp_path)) == 2


def test_a_second_damage_overwrites_no_copy(tmp_path):
    path = tmp_path / metric_writer.METRICS_FILE
    for text in ("first\n", "second\n"):
        path.write_text(text + WHOLE[0] + "\n")
        metric_writer._forget(path, after=20)
    names = {f"{path.name}.damaged": "first", f"{path.name}.damaged1": "second"}
    for name, word in names.items():
        assert (tmp_path / name).read_text().startswith(word)
