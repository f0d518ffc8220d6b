"""Convolutions and their transposes in PyTorch's geometry, with CPU formulations.

XLA:CPU has fast kernels for few forms of convolution. A convolution, its transpose and
its weight gradient are the three faces of one trilinear form <x * w, y>, and each is
the derivative of the others. On CPU they are three primitives, each computed in the
form that is fast there and differentiable to any order; elsewhere the compiler's own
convolution is used.
"""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from megjax.types import Array

_CANONICAL = ("NHWC", "HWIO", "NHWC")

# Up to these sides of the small image, or channels of the large one, columns and dots
# beat XLA:CPU's convolution. Its convolution also swaps operands where the kernel is
# larger than the image, and is then a hundred times slower.
_DOT_SIDE = 4
_DOT_SIDE_TRANSPOSED = 8
_DOT_SIDE_WEIGHTS = 2

# From this product of channels on, leaving out what multiplies padding pays for the
# larger number of dots.
_WIDE = 1 << 14
_DOT_CHANNELS_TRANSPOSED = 4


class Geometry(NamedTuple):
    """Shape of a square-kernel convolution from `size` [H, W] to `reduced` [h, w]."""

    kernel: int
    stride: int
    padding: int
    size: tuple[int, int]

    @property
    def reduced(self) -> tuple[int, int]:
        span = 2 * self.padding - self.kernel
        return tuple((side + span) // self.stride + 1 for side in self.size)


def convolution(x: Array, kernel: Array, *, stride: int, padding: int) -> Array:
    """Cross-correlation of x [B, H, W, C] with kernel [k, k, C, D] -> [B, h, w, D].

    h = floor((H + 2 padding - k) / stride) + 1, as PyTorch's Conv2d.
    """
    geometry = Geometry(len(kernel), stride, padding, x.shape[1:3])
    if jax.default_backend() == "cpu":
        return _convolution.bind(x, kernel, geometry=geometry)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=_CANONICAL,
    )


def transposed_convolution(
    y: Array, kernel: Array, *, stride: int, padding: int, output_padding: int = 0
) -> Array:
    """Adjoint of `convolution`: y [B, h, w, D], kernel [k, k, C, D] -> [B, H, W, C].

    H = (h - 1) stride - 2 padding + k + output_padding, as PyTorch's ConvTranspose2d,
    whose weight [D, C, k, k] has its axes in another order here.
    """
    grown = (stride * (side - 1) - 2 * padding for side in y.shape[1:3])
    size = tuple(side + len(kernel) + output_padding for side in grown)
    geometry = Geometry(len(kernel), stride, padding, size)
    if jax.default_backend() == "cpu":
        return _transposed.bind(y, kernel, geometry=geometry)
    return lax.conv_general_dilated(
        y,
        _reversed(kernel),
        (1, 1),
        [_adjoint_pads(geometry, axis) for axis in (0, 1)],
        lhs_dilation=(stride, stride),
        dimension_numbers=_CANONICAL,
    )


def _adjoint_pads(geometry: Geometry, axis: int) -> tuple[int, int]:
    """Zeros before and after the dilated small image, for a convolution to `size`."""
    before = geometry.kernel - 1 - geometry.padding
    dilated = geometry.stride * (geometry.reduced[axis] - 1) + 1
    return before, geometry.size[axis] + geometry.kernel - 1 - before - dilated


def _reversed(kernel: Array) -> Array:
    return jnp.flip(kernel, (0, 1)).swapaxes(2, 3)


class TapRange(NamedTuple):
    """Kernel taps [first, last) that see the image from the same outputs."""

    first: int
    last: int
    start: int
    stop: int

    @property
    def num(self) -> int:
        return self.last - self.first


def _pixel(geometry: Geometry, output: int, tap: int) -> int:
    return geometry.stride * output + tap - geometry.padding


def _runs(geometry: Geometry, axis: int) -> list[TapRange]:
    """The taps along one axis, by the outputs [start, stop) that use them.

    On a small image a good part of all products would be with padding. Taps that see
    nothing else are left out.
    """
    runs = []
    for tap in range(geometry.kernel):
        seeing = [
            output
            for output in range(geometry.reduced[axis])
            if 0 <= _pixel(geometry, output, tap) < geometry.size[axis]
        ]
        reach = (seeing[0], seeing[-1] + 1) if seeing else None
        if reach and runs and runs[-1][2:] == reach:
            runs[-1] = runs[-1]._replace(last=tap + 1)
        elif reach:
            runs.append(TapRange(tap, tap + 1, *reach))
    return runs


def _groups(geometry: Geometry) -> list[tuple[TapRange, TapRange]]:
    """Blocks of taps, row by row."""
    return list(itertools.product(_runs(geometry, 0), _runs(geometry, 1)))


def _taps(kernel: Array, row: TapRange, column: TapRange) -> Array:
    return kernel[row.first : row.last, column.first : column.last]


def _outputs(y: Array, row: TapRange, column: TapRange) -> Array:
    return y[:, row.start : row.stop, column.start : column.stop]


def _seen(x: Array, geometry: Geometry, row: TapRange, column: TapRange) -> Array:
    """What a block of taps sees: [B, H, W, C] -> [B, its outputs, its taps C]."""

    def pixels(run, tap):
        first = _pixel(geometry, run.start, tap)
        last = _pixel(geometry, run.stop - 1, tap)
        return slice(first, last + 1, geometry.stride)

    taps = itertools.product(
        range(row.first, row.last), range(column.first, column.last)
    )
    return jnp.concatenate(
        [x[:, pixels(row, i), pixels(column, j)] for i, j in taps], axis=-1
    )


def _placed(part: Array, starts: tuple[int, ...], sides: tuple[int, ...]) -> Array:
    """Part [B, h, w, C] in a zero image of `sides`, from `starts` on; may be cropped."""
    pads = [
        (start, side - start - length, 0)
        for start, side, length in zip(starts, sides, part.shape[1:3])
    ]
    return lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *pads, (0, 0, 0)])


def _convolution_cpu(x: Array, kernel: Array, geometry: Geometry) -> Array:
    if min(geometry.reduced) > _DOT_SIDE:
        return _plain(x, kernel, geometry.stride, [(geometry.padding,) * 2] * 2)
    if not _is_wide(kernel.shape):
        return _convolution_by_blocks(x, kernel, geometry)
    total = 0
    for row, column in _groups(geometry):
        taps = _taps(kernel, row, column).reshape(-1, kernel.shape[3])
        part = _dot(_seen(x, geometry, row, column), taps, ((3,), (0,)))
        total += _placed(part, (row.start, column.start), geometry.reduced)
    return total


def _is_wide(kernel_shape: tuple[int, ...]) -> bool:
    return kernel_shape[2] * kernel_shape[3] >= _WIDE


def _convolution_by_blocks(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """One dot of columns and taps, which multiplies padding too.

    The image is cut into blocks of stride x stride pixels, of which the convolution has
    a stride of 1. That takes a slice for each block of taps, not for each tap; XLA
    compiles every slice as a kernel of its own, and these were a third of the time that
    the training step of `mnist_small` took to compile.
    """
    stride, padding, num = geometry.stride, geometry.padding, len(x)
    (height, width), taps = geometry.reduced, range(0, geometry.kernel, stride)
    grid = [side + len(taps) - 1 for side in geometry.reduced]
    ends = [stride * n - size - padding for n, size in zip(grid, geometry.size)]
    # Pixels that no tap sees are cut off.
    pads = [(0, 0, 0), (padding, ends[0], 0), (padding, ends[1], 0), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)
    x = x.reshape(num, grid[0], stride, grid[1], stride, -1).transpose(0, 1, 3, 2, 4, 5)
    seen, used = [], []
    for (i, row), (j, column) in itertools.product(enumerate(taps), repeat=2):
        block = kernel[row : row + stride, column : column + stride]
        # Of a kernel whose side is no multiple of the stride, the last are smaller.
        rows, columns, _, features = block.shape
        part = x[:, i : i + height, j : j + width, :rows, :columns]
        seen.append(part.reshape(num, height, width, -1))
        used.append(block.reshape(-1, features))
    return _dot(jnp.concatenate(seen, axis=3), jnp.concatenate(used), ((3,), (0,)))


def _transposed_cpu(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Every residue of the pixel modulo the stride, then interleaved."""
    stride, size = geometry.stride, geometry.size
    sides = tuple(-(-side // stride) for side in size)
    small = min(geometry.reduced) <= _DOT_SIDE_TRANSPOSED
    if small or kernel.shape[2] <= _DOT_CHANNELS_TRANSPOSED:
        split = small and _is_wide(kernel.shape)
        phases = _phases_by_overlap(y, kernel, geometry, sides, split)
    else:
        phases = _phases_by_convolution(y, kernel, geometry, sides)
    residues = range(stride)
    rows = [jnp.stack([phases[r, c] for c in residues], axis=3) for r in residues]
    x = jnp.stack(rows, axis=2)
    x = x.reshape(len(y), stride * sides[0], stride * sides[1], kernel.shape[2])
    return x[:, : size[0], : size[1]]


Phases = dict[tuple[int, ...], Array]


def _phases_by_convolution(
    y: Array, kernel: Array, geometry: Geometry, sides: tuple[int, int]
) -> Phases:
    """Each residue as a stride-1 convolution with every stride-th tap: [B, *sides, C].

    Pixel stride t + residue gets tap first + stride m from y[t + shift - m].
    """
    stride = geometry.stride
    phases = {}
    for residues in itertools.product(range(stride), repeat=2):
        shifts, firsts = zip(*(divmod(r + geometry.padding, stride) for r in residues))
        taps = _reversed(kernel[firsts[0] :: stride, firsts[1] :: stride])
        pads = [
            (num - 1 - shift, side - length + shift)
            for num, shift, side, length in zip(
                taps.shape, shifts, sides, geometry.reduced
            )
        ]
        phases[residues] = _plain(y, taps, 1, pads)
    return phases


def _phases_by_overlap(
    y: Array, kernel: Array, geometry: Geometry, sides: tuple[int, int], split: bool
) -> Phases:
    """Each residue as a sum of shifted products with single taps: [B, *sides, C].

    split: only the products that stay within the image, else all of them in one dot.
    """
    whole = tuple(TapRange(0, geometry.kernel, 0, side) for side in geometry.reduced)
    zeros = jnp.zeros((len(y), *sides, kernel.shape[2]), y.dtype)
    phases = dict.fromkeys(np.ndindex(geometry.stride, geometry.stride), zeros)
    for row, column in _groups(geometry) if split else [whole]:
        taps = _taps(kernel, row, column)
        flat = taps.reshape(-1, taps.shape[3])
        parts = _dot(_outputs(y, row, column), flat, ((3,), (1,)))
        parts = parts.reshape(*parts.shape[:3], *taps.shape[:3])
        for i, j in np.ndindex(row.num, column.num):
            pixels = (
                _pixel(geometry, row.start, row.first + i),
                _pixel(geometry, column.start, column.first + j),
            )
            starts, residues = zip(*(divmod(p, geometry.stride) for p in pixels))
            phases[residues] += _placed(parts[:, :, :, i, j], starts, sides)
    return phases


def _weight_gradient_cpu(x: Array, y: Array, geometry: Geometry) -> Array:
    wide = x.shape[3] * y.shape[3] >= _WIDE
    if wide and min(geometry.reduced) <= _DOT_SIDE_WEIGHTS:
        return _weight_gradient_by_taps(x, y, geometry)
    # Channels as the batch and the batch as channels, in canonical labels: those that
    # differentiation of a convolution produces have no fast kernel.
    pads = []
    for size, side in zip(geometry.size, geometry.reduced):
        reach = geometry.stride * (side - 1) + geometry.kernel
        pads.append((geometry.padding, reach - size - geometry.padding))
    kernel = _plain(
        x.transpose(3, 1, 2, 0), y.transpose(1, 2, 0, 3), 1, pads, geometry.stride
    )
    return kernel.transpose(1, 2, 0, 3)


def _weight_gradient_by_taps(x: Array, y: Array, geometry: Geometry) -> Array:
    """A product for each block of taps; zero for taps that see padding alone."""

    def block(row, column):
        seen = _seen(x, geometry, row, column)
        gradient = _dot(seen, _outputs(y, row, column), ((0, 1, 2), (0, 1, 2)))
        return gradient.reshape(row.num, column.num, x.shape[3], y.shape[3])

    rows, columns = _runs(geometry, 0), _runs(geometry, 1)
    strips = [jnp.concatenate([block(r, c) for c in columns], axis=1) for r in rows]
    unseen = [
        (runs[0].first, geometry.kernel - runs[-1].last) for runs in (rows, columns)
    ]
    return jnp.pad(jnp.concatenate(strips, axis=0), [*unseen, (0, 0), (0, 0)])


def _plain(x, kernel, stride, pads, dilation=1) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=_CANONICAL,
        preferred_element_type=_accumulator(x),
    ).astype(x.dtype)


def _dot(a: Array, b: Array, contraction) -> Array:
    return lax.dot_general(
        a, b, (contraction, ((), ())), preferred_element_type=_accumulator(a)
    ).astype(a.dtype)


def _accumulator(x: Array):
    # Plain bfloat16 products miss the hardware's matrix units on CPU.
    return jnp.promote_types(x.dtype, jnp.float32)


def _primitive(name: str, implementation, shape) -> core.Primitive:
    """A primitive for one face; `shape` is that of its result, from its operands'."""
    primitive = core.Primitive(f"megjax_{name}")
    primitive.def_impl(jax.jit(implementation, static_argnames="geometry"))
    primitive.def_abstract_eval(
        lambda a, b, *, geometry: a.update(shape=shape(a.shape, b.shape, geometry))
    )
    mlir.register_lowering(
        primitive, mlir.lower_fun(implementation, multiple_results=False)
    )
    return primitive


_convolution = _primitive(
    "convolution",
    _convolution_cpu,
    lambda x, w, geometry: (x[0], *geometry.reduced, w[3]),
)
_transposed = _primitive(
    "transposed_convolution",
    _transposed_cpu,
    lambda y, w, geometry: (y[0], *geometry.size, w[2]),
)
_weight_gradient = _primitive(
    "convolution_weight_gradient",
    _weight_gradient_cpu,
    lambda x, y, geometry: (geometry.kernel, geometry.kernel, x[3], y[3]),
)

ad.defbilinear(
    _convolution,
    lambda y, x, w, **shape: _transposed.bind(y, w, **shape),
    lambda y, x, w, **shape: _weight_gradient.bind(x, y, **shape),
)
ad.defbilinear(
    _transposed,
    lambda x, y, w, **shape: _convolution.bind(x, w, **shape),
    lambda x, y, w, **shape: _weight_gradient.bind(x, y, **shape),
)
ad.defbilinear(
    _weight_gradient,
    lambda w, x, y, **shape: _transposed.bind(y, w, **shape),
    lambda w, x, y, **shape: _convolution.bind(x, w, **shape),
)


def _fold(primitive, operands, axes, **shape) -> tuple[Array, int]:
    """vmap over images alone: the mapped axis joins the batch."""
    images, kernel = operands
    if axes[1] is not None:
        return _loop(primitive, operands, axes, **shape)
    images = jnp.moveaxis(images, axes[0], 0)
    result = primitive.bind(images.reshape(-1, *images.shape[2:]), kernel, **shape)
    return result.reshape(*images.shape[:2], *result.shape[1:]), 0


def _loop(primitive, operands, axes, **shape) -> tuple[Array, int]:
    """vmap over kernels, or of kernels' gradients: one after the other."""
    mapped = [
        operand if axis is None else jnp.moveaxis(operand, axis, 0)
        for operand, axis in zip(operands, axes)
    ]

    def one(index):
        return primitive.bind(
            *(m if axis is None else m[index] for m, axis in zip(mapped, axes)), **shape
        )

    size = next(len(m) for m, axis in zip(mapped, axes) if axis is not None)
    return lax.map(one, jnp.arange(size)), 0


batching.primitive_batchers[_convolution] = partial(_fold, _convolution)
batching.primitive_batchers[_transposed] = partial(_fold, _transposed)
batching.primitive_batchers[_weight_gradient] = partial(_loop, _weight_gradient)
