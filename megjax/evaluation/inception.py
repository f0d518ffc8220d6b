"""Inception features and logits of uint8 images, with the public weights of the FID.

Heusel et al. 2017 (FID); preprocessing as the TensorFlow graph has it, and as
torch-fidelity (Obukhov et al. 2020) reproduces it.
"""

import functools
import hashlib
import pathlib
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from megjax import checks, distributed
from megjax.data import images
from megjax.io import tensors
from megjax.metrics import frechet
from megjax.networks import inception
from megjax.types import Array, PyTree

SIDE = 299
FILE_NAME = "pt_inception-2015-12-05-6726825d.pth"
SOURCE = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
HOW_TO_GET = (
    f"{FILE_NAME} (91 MB, Apache-2.0) from {SOURCE}{FILE_NAME}, or the same file from "
    "release v0.2.0 of github.com/toshas/torch-fidelity, and name it with "
    "--set=evaluation.inception_weights=PATH"
)
CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}
"""Products by XLA:CPU's library, convolutions not: a third less work of the processor."""

UNUSED = re.compile(r"fc\.bias|.*\.num_batches_tracked")
"""Arrays of the weight files without a part in features and logits."""


class Inception(NamedTuple):
    """A network with its weights. fingerprint: of the weights and the preprocessing."""

    variables: PyTree
    fingerprint: str

    def outputs(self, pixels: np.ndarray) -> tuple[Array, Array]:
        """Of images uint8 [B, H, W, 1 or 3]: features [B, 2048], logits [B, 1008].

        Not to be traced by `jax.jit`, see `resized`. Raises ValueError for other types,
        forms and numbers of channels.
        """
        images.check_pixels(pixels)
        if pixels.shape[-1] not in (1, 3):
            raise ValueError(
                f"images with {pixels.shape[-1]} channels: Inception takes 1 or 3."
            )
        pixels = np.broadcast_to(pixels, (*pixels.shape[:-1], 3))
        return forward(self.variables, resized(jnp.asarray(pixels, jnp.float32)))


def load(path: str) -> Inception:
    """The network with the weights of a .pth, .npz or .safetensors file.

    Whatever the format, names and layouts are those of the public .pth file. Raises
    FileNotFoundError, with where to get it, and ValueError where the file is damaged
    or has the weights of another network.
    """
    if not path or not checks.path(path).is_file():
        given = f"No Inception weights at {path}" if path else "No Inception weights"
        raise FileNotFoundError(f"{given}: fetch {HOW_TO_GET}")
    file = checks.path(path)
    _check_digest(file)
    arrays = tensors.load(file)
    return Inception(jax.device_put(variables(arrays, str(file))), _fingerprint(arrays))


def variables(arrays: dict[str, np.ndarray], origin: str) -> PyTree:
    """Parameters and statistics of `networks.inception` from arrays in PyTorch's form.

    Raises ValueError, naming `origin`, where arrays are missing, unknown or of another
    shape.
    """
    shapes = _shapes()
    names = {path: _torch_name(path) for path in shapes}
    given = {name for name in arrays if not UNUSED.fullmatch(name)}
    strange = sorted(given.symmetric_difference(names.values()))
    if strange:
        raise ValueError(
            f"{origin} does not hold the weights of the FID's Inception: "
            f"{len(strange)} names differ, first {strange[0]}; fetch {HOW_TO_GET}"
        )
    found = {path: _transposed(arrays[name]) for path, name in names.items()}
    for path, value in found.items():
        if value.shape != shapes[path]:
            raise ValueError(
                f"{origin} does not hold the weights of the FID's Inception: "
                f"{names[path]} has shape {arrays[names[path]].shape}; "
                f"fetch {HOW_TO_GET}"
            )
    return traverse_util.unflatten_dict(found)


def resized(x: Array, side: int = SIDE) -> Array:
    """TensorFlow 1's bilinear resize, corners not aligned: [B, H, W, C] -> [B, s, s, C].

    Pixel i of the result lies at i * H / s of the source, without half-pixel centres.
    Each operation is dispatched by itself and so rounded by itself, which makes the
    result equal to torch-fidelity's bit for bit: a compiler that sees both would fuse
    the product and the sum.
    """
    for axis in (2, 1):
        low, high, share = _neighbours(x.shape[axis], side)
        below, above = jnp.take(x, low, axis), jnp.take(x, high, axis)
        share = share.reshape([-1 if i == axis else 1 for i in range(4)])
        x = jnp.add(below, jnp.multiply(jnp.subtract(above, below), share))
    return x


def _neighbours(size: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices below and above every pixel of the result, and the fraction of the latter."""
    place = np.arange(side, dtype=np.float32) * np.float32(size / side)
    low = place.astype(np.int32)
    return low, np.minimum(low + 1, size - 1), place - low.astype(np.float32)


def forward(variables: PyTree, x: Array) -> tuple[Array, Array]:
    """Features and logits of images [B, H, H, 3] with values from 0 to 255."""
    return _compiled(jax.default_backend())(variables, x)


@functools.cache
def _compiled(platform: str):
    """The jitted network; on a CPU without the library kernels that are slow there."""
    options = CPU_OPTIONS if platform == "cpu" else None

    @functools.partial(jax.jit, compiler_options=options)
    def run(variables, x):
        x = (distributed.shard(x) - 128) / 128
        return inception.Inception().apply(variables, x)

    return run


@functools.cache
def _shapes() -> dict[tuple[str, ...], tuple[int, ...]]:
    """Of the network's variables, by their path."""
    init = functools.partial(inception.Inception().init, jax.random.key(0))
    made = jax.eval_shape(init, jnp.zeros((1, SIDE, SIDE, 3)))
    return {k: v.shape for k, v in traverse_util.flatten_dict(made).items()}


def _torch_name(path: tuple[str, ...]) -> str:
    """Mixed_5b.branch1x1.bn.weight of (params, Mixed_5b, branch1x1, bn, scale)."""
    leaves = {
        "kernel": "weight",
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    }
    return ".".join((*path[1:-1], leaves[path[-1]]))


def _transposed(value: np.ndarray) -> np.ndarray:
    """Kernels from [out, in, ...] to [..., in, out], as float32."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim)
    return np.asarray(value.transpose(axes) if axes else value, np.float32)


def _check_digest(file: pathlib.Path) -> None:
    """Holds a .pth file to the SHA-256 that begins as its name ends."""
    named = re.search(r"-([0-9a-f]{8,64})\.pth$", file.name)
    if named:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if not digest.startswith(named[1]):
            raise ValueError(
                f"{file} is damaged, its SHA-256 begins {digest[: len(named[1])]}: "
                f"fetch {HOW_TO_GET}"
            )


def _fingerprint(arrays: dict[str, np.ndarray]) -> str:
    """Of the arrays in use and of the preprocessing."""
    used = {
        name: np.asarray(arrays[name], np.float32)
        for name in sorted(arrays)
        if not UNUSED.fullmatch(name)
    }
    forms = [f"{name} {value.shape}" for name, value in used.items()]
    words = " ".join([f"TensorFlow 1 resize to {SIDE}", *forms])
    return frechet.fingerprint(words, used.values())
