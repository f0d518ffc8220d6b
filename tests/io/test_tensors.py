"""Files of tensors: both formats of PyTorch, NumPy's, safetensors', and hostile ones."""

import collections
import io
import json
import os
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from megjax.io import tensors


class Storage:
    """What PyTorch would write for a flat array."""

    def __init__(self, values, kind="FloatStorage", size=None):
        self.values, self.kind = np.ascontiguousarray(values), kind
        self.size = self.values.size if size is None else size


class Tensor:
    """A view of a storage, pickled as PyTorch pickles a tensor."""

    def __init__(self, storage, shape, strides, offset=0):
        self.form = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.form


def contiguous(values, kind="FloatStorage"):
    values = np.asarray(values)
    strides = [step // values.itemsize for step in values.strides]
    return Tensor(Storage(values, kind), values.shape, tuple(strides))


class Writer(pickle.Pickler):
    """Storages leave the pickle, which refers to them by their order."""

    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self.storages, self.legacy = [], legacy

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        if value not in self.storages:
            self.storages.append(value)
        kind, key = getattr(sys.modules["torch"], value.kind), self.key(value)
        identifier = "storage", kind, key, "cpu", value.size
        return (*identifier, None) if self.legacy else identifier

    def key(self, storage):
        return str(self.storages.index(storage))


@pytest.fixture
def torch_names(monkeypatch):
    """Modules with the names that a pickle of tensors refers to."""

    def named(module, name, make):
        made = make(name)
        made.__module__, made.__qualname__ = module.__name__, name
        setattr(module, name, made)

    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for kind in tensors.STORAGES:
        named(torch, kind, lambda name: type(name, (), {}))
    named(utils, "_rebuild_tensor_v2", lambda name: lambda *_: None)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def write_zip(path, state):
    pickled = io.BytesIO()
    writer = Writer(pickled, legacy=False)
    writer.dump(state)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", pickled.getvalue())
        archive.writestr("weights/byteorder", "little")
        for storage in writer.storages:
            name = f"weights/data/{writer.key(storage)}"
            archive.writestr(name, storage.values.tobytes())
        archive.writestr("weights/version", "3\n")


def write_sequence(path, state):
    with path.open("wb") as file:
        for head in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(head, file, protocol=2)
        writer = Writer(file, legacy=True)
        writer.dump(state)
        pickle.dump(list(map(writer.key, writer.storages)), file, protocol=2)
        for storage in writer.storages:
            file.write(struct.pack("<q", storage.values.size))
            file.write(storage.values.tobytes())


FORMATS = {"zip": write_zip, "sequence": write_sequence}
both = pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)


@both
def test_a_state_dict_comes_back(tmp_path, torch_names, write):
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    shared = Storage(np.arange(10, dtype=np.float32))
    state = collections.OrderedDict(
        kernel=contiguous(kernel),
        transposed=Tensor(contiguous(kernel).form[0], (4, 6), (1, 4)),
        first=Tensor(shared, (4,), (1,)),
        rest=Tensor(shared, (3, 2), (2, 1), offset=4),
        scalar=contiguous(np.int64(7), "LongStorage"),
        half=contiguous(np.float16([1.5, -2]), "HalfStorage"),
        empty=contiguous(np.zeros((0, 3), np.float64), "DoubleStorage"),
    )
    # PyTorch's state dicts carry versions of modules as an attribute.
    state._metadata = collections.OrderedDict(a={"version": 1})
    write(tmp_path / "state.pth", state)
    found = tensors.load(tmp_path / "state.pth")
    np.testing.assert_array_equal(found["kernel"], kernel)
    np.testing.assert_array_equal(found["transposed"], kernel.reshape(6, 4).T)
    np.testing.assert_array_equal(found["first"], [0, 1, 2, 3])
    np.testing.assert_array_equal(found["rest"], [[4, 5], [6, 7], [8, 9]])
    assert found["scalar"] == 7 and found["scalar"].dtype == np.int64
    np.testing.assert_array_equal(found["half"], np.float16([1.5, -2]))
    assert found["empty"].shape == (0, 3) and found["empty"].dtype == np.float64


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.form = function, arguments

    def __reduce__(self):
        return self.form


@both
@pytest.mark.parametrize("function", [os.system, eval, getattr, print])
def test_calls_are_refused(tmp_path, torch_names, write, function):
    crime = tmp_path / "crime"
    command = {
        os.system: f"touch {crime}",
        eval: f"open({str(crime)!r}, 'w')",
    }
    call = Call(function, command.get(function, "a"))
    write(tmp_path / "bad.pth", {"a": contiguous(np.float32([1])), "b": call})
    with pytest.raises(ValueError, match=f"refused, .*{function.__name__}"):
        tensors.load(tmp_path / "bad.pth")
    assert not crime.exists()


def test_calls_in_every_pickle_of_a_sequence_are_refused(tmp_path, torch_names):
    call = pickle.dumps(Call(os.system, f"touch {tmp_path}/crime"), protocol=2)
    heads = [pickle.dumps(v, 2) for v in (tensors.LEGACY_MAGIC, 1001, {}, {}, [])]
    for i in range(len(heads)):
        (tmp_path / "bad.pth").write_bytes(b"".join([*heads[:i], call, *heads[i:]]))
        with pytest.raises(ValueError, match="bad.pth"):
            tensors.load(tmp_path / "bad.pth")
    assert not (tmp_path / "crime").exists()


@both
@pytest.mark.parametrize(
    "tensor",
    [
        lambda s: Tensor(s, (5,), (1,)),
        lambda s: Tensor(s, (2,), (4,)),
        lambda s: Tensor(s, (2,), (1,), offset=3),
        lambda s: Tensor(s, (2,), (-1,), offset=1),
        lambda s: Tensor(s, (2,), (1,), offset=-1),
        lambda s: Tensor(s, (9, 9), (0, 0)),
        lambda s: Tensor(s, (2, 2), (1,)),
        lambda s: Tensor(Storage(s.values, size=99), (99,), (1,)),
        lambda s: Tensor(Storage(s.values, size=99), (4,), (1,)),
        lambda s: Tensor("0", (1,), (1,)),
        lambda s: s.values.tolist(),
    ],
)
def test_views_beyond_their_storage_are_refused(tmp_path, torch_names, write, tensor):
    state = {"a": tensor(Storage(np.arange(4, dtype=np.float32)))}
    write(tmp_path / "bad.pth", state)
    with pytest.raises(ValueError, match="bad.pth is damaged, or no .pth file of pl"):
        tensors.load(tmp_path / "bad.pth")


@both
def test_truncated_and_foreign_files_are_told(tmp_path, torch_names, write):
    write(tmp_path / "whole.pth", {"a": contiguous(np.zeros(100, np.float32))})
    whole = (tmp_path / "whole.pth").read_bytes()
    for content in (whole[:-200], whole[:40], b"", b"<html>", b"PK\x03\x04"):
        (tmp_path / "part.pth").write_bytes(content)
        with pytest.raises(ValueError, match="part.pth is damaged"):
            tensors.load(tmp_path / "part.pth")
    write(tmp_path / "list.pth", [1, 2])
    with pytest.raises(ValueError, match="does not hold a state dict"):
        tensors.load(tmp_path / "list.pth")


def test_npz_holds_no_objects(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.float32([[1]]))
    found = tensors.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["x"], [0, 1, 2])
    np.savez(tmp_path / "b.npz", x=np.array([print], object))
    with pytest.raises(ValueError, match="b.npz is damaged"):
        tensors.load(tmp_path / "b.npz")


def safetensors(header, body):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_safetensors(tmp_path):
    values = np.arange(6, dtype=np.float32)
    entries = {
        "__metadata__": {"format": "pt"},
        "x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]},
        "n": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]},
    }
    body = np.int64(5).tobytes() + values.tobytes()
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors(entries, body))
    found = tensors.load(path)
    assert found.keys() == {"x", "n"} and found["n"] == 5
    np.testing.assert_array_equal(found["x"], values.reshape(2, 3))
    for change in ({"data_offsets": [8, 99]}, {"shape": [7]}, {"dtype": "F99"}):
        path.write_bytes(safetensors({"x": entries["x"] | change}, body))
        with pytest.raises(ValueError, match="a.safetensors is damaged"):
            tensors.load(path)


def test_missing_files_and_other_suffixes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No file .*a\.pth"):
        tensors.load(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="ends in .pth, .pt, .npz, .safetensors"):
        tensors.load(tmp_path / "a.ckpt")
