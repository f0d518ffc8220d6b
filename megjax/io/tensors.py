"""Named arrays of .pth, .npz and .safetensors files; reading one cannot run code.

A .pth file is a Python pickle, which may call anything; here it may only say which
bytes of the file form which tensor. Both of PyTorch's formats are read: zip archives,
and the sequence of pickles that it wrote before version 1.6.
"""

import collections
import io
import math
import pathlib
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from megjax import checks, extras
from megjax.io import npz

SUFFIXES = (".pth", ".pt", ".npz", ".safetensors")
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
_DAMAGED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    # Of zip archives: encrypted, or compressed in an unknown way.
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What readers raise on bytes that are not of their format."""


class _Storage(NamedTuple):
    """A flat array of a .pth file: its name there, its type, its length."""

    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    """A view of a storage; strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def load(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name: of a PyTorch state dict, NumPy's or safetensors'.

    Raises FileNotFoundError, and ValueError for other suffixes, damaged files, and
    pickles that hold anything but tensors.
    """
    path = checks.path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: give a file that ends in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"No file {path}.")
    readers = {".npz": _npz, ".safetensors": _safetensors}
    try:
        return readers.get(path.suffix, _pth)(path)
    except _DAMAGED as error:
        cause = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(
            f"{path} is damaged, or no {path.suffix} file of plain tensors: {cause}"
        ) from error


def _npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    return npz.read(path)


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    with extras.needed("weights"):
        import safetensors.numpy
    try:
        return safetensors.numpy.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error


def _pth(path: pathlib.Path) -> dict[str, np.ndarray]:
    if zipfile.is_zipfile(path):
        return _zipped(path)
    with path.open("rb") as file:
        return _sequence(file)


def _zipped(path: pathlib.Path) -> dict[str, np.ndarray]:
    """NAME/data.pkl describes the tensors, NAME/data/KEY are their storages."""
    npz.check(path)
    with zipfile.ZipFile(path) as archive:
        (root,) = {name.partition("/")[0] for name in archive.namelist()}
        order = f"{root}/byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("its bytes are in big-endian order")
        pickled = io.BytesIO(archive.read(f"{root}/data.pkl"))
        tensors = _tensors(_Unpickler(pickled).load())

        def flat(storage: _Storage) -> np.ndarray:
            name = f"{root}/data/{storage.key}"
            expected = storage.size * np.dtype(storage.dtype).itemsize
            # Before it is read, since the archive may be compressed.
            if archive.getinfo(name).file_size != expected:
                raise ValueError(f"{name} does not have {expected} bytes")
            return np.frombuffer(archive.read(name), storage.dtype)

        return _arrays(tensors, flat)


def _sequence(file: io.BufferedReader) -> dict[str, np.ndarray]:
    """Magic number, version, machine, tensors, storage names; then the storages."""
    magic, protocol, machine = (_Unpickler(file).load() for _ in range(3))
    if (magic, protocol) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
        raise ValueError("it does not begin as a PyTorch file")
    if not machine["little_endian"]:
        raise ValueError("its bytes are in big-endian order")
    tensors = _tensors(_Unpickler(file).load())
    known = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    content = {}
    for key in _Unpickler(file).load():
        (size,) = struct.unpack("<q", file.read(8))
        if size != known[key].size:
            raise ValueError(f"storage {key} does not have {known[key].size} elements")
        dtype = np.dtype(known[key].dtype)
        content[key] = np.frombuffer(file.read(size * dtype.itemsize), dtype)
    return _arrays(tensors, lambda storage: content[storage.key])


def _tensors(loaded: Any) -> dict[str, _Tensor]:
    if not isinstance(loaded, dict):
        raise pickle.UnpicklingError("it does not hold a state dict")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise pickle.UnpicklingError(f"entry {name!r} is no tensor")
    return loaded


def _arrays(
    tensors: dict[str, _Tensor], flat: Callable[[_Storage], np.ndarray]
) -> dict[str, np.ndarray]:
    return {name: _view(flat(t.storage), t) for name, t in tensors.items()}


def _view(flat: np.ndarray, tensor: _Tensor) -> np.ndarray:
    """The elements of a storage that a tensor names, within bounds."""
    shape, strides = tensor.shape, tensor.strides
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides))
    numbers = (tensor.offset, *shape, *strides)
    if len(shape) != len(strides) or min(numbers) < 0:
        raise ValueError("a tensor's form makes no sense")
    if math.prod(shape) > len(flat) or (math.prod(shape) and last >= len(flat)):
        raise ValueError("a tensor reaches beyond its storage")
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], shape, [step * flat.itemsize for step in strides]
    )
    return np.array(view)


def _rebuilt(storage, offset, shape, strides, *_) -> _Tensor:
    """In place of torch._utils._rebuild_tensor_v2."""
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = map(int, shape), map(int, strides)
    return _Tensor(storage, int(offset), *map(tuple, numbers))


class _Unpickler(pickle.Unpickler):
    """Knows the names that a state dict of tensors consists of, and no others."""

    names = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    } | {("torch", name): dtype for name, dtype in STORAGES.items()}

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of an allowed global; UnpicklingError at every other one."""
        if (module, name) not in self.names:
            raise pickle.UnpicklingError(
                f"refused, since it asks for {module}.{name} and is no file of tensors"
            )
        return self.names[module, name]

    def persistent_load(self, identifier: Any) -> _Storage:
        """The storage that ("storage", type, key, device, size) refers to."""
        kind, dtype, key, _, size, *view = identifier
        if kind != "storage" or dtype not in STORAGES.values() or any(view):
            raise pickle.UnpicklingError("a storage of unknown form")
        return _Storage(str(key), dtype, int(size))
