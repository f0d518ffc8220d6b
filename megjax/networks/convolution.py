"""Convolutions and their transposes in PyTorch's geometry, with CPU formulations.

XLA:CPU has fast kernels for few forms of convolution. A convolution, its transpose and
its weight gradient are the three faces of one trilinear form <x * w, y>, and each is
the derivative of the others. On CPU they are three primitives, each computed in the
form that is fast there and differentiable to any order; elsewhere the compiler's own
convolution is used.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from megjax.types import Array

_CANONICAL = ("NHWC", "HWIO", "NHWC")

# Up to these sides of the small image, or channels of the large one, columns and a dot
# beat XLA:CPU's convolution. Its convolution also swaps operands where the kernel is
# larger than the image, and is then a hundred times slower.
_DOT_SIDE = 4
_DOT_SIDE_TRANSPOSED = 8
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


def _convolution_cpu(x: Array, kernel: Array, geometry: Geometry) -> Array:
    pads = [(geometry.padding, geometry.padding)] * 2
    if min(geometry.reduced) > _DOT_SIDE:
        return _plain(x, kernel, geometry.stride, pads)
    columns = _columns(x, geometry)
    return _dot(columns, kernel.reshape(-1, kernel.shape[-1]), ((3,), (0,)))


def _columns(x: Array, geometry: Geometry) -> Array:
    """What every output position sees: [B, H, W, C] -> [B, h, w, k k C]."""
    x = jnp.pad(x, _spatial([(geometry.padding, geometry.padding)] * 2))
    stride = geometry.stride
    spans = [stride * (side - 1) + 1 for side in geometry.reduced]
    taps = range(geometry.kernel)
    return jnp.concatenate(
        [
            x[:, i : i + spans[0] : stride, j : j + spans[1] : stride]
            for i in taps
            for j in taps
        ],
        axis=-1,
    )


def _transposed_cpu(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Every residue of the output position modulo the stride, then interleaved.

    Output u + padding = stride t + r receives tap r + stride m from y[t - m].
    """
    stride = geometry.stride
    taps = -(-geometry.kernel // stride)
    thin = kernel.shape[2] <= _DOT_CHANNELS_TRANSPOSED
    if min(geometry.reduced) > _DOT_SIDE_TRANSPOSED and not thin:
        phase = partial(_phase_by_convolution, y, kernel, stride, taps)
    else:
        columns = _dot(y, kernel.reshape(-1, kernel.shape[3]), ((3,), (1,)))
        columns = columns.reshape(*y.shape[:3], *kernel.shape[:3])
        phase = partial(_phase_by_overlap, columns, stride, taps)
    residues = range(stride)
    rows = [jnp.stack([phase(r, c) for c in residues], axis=3) for r in residues]
    sides = [stride * (side + taps - 1) for side in geometry.reduced]
    x = jnp.stack(rows, axis=2).reshape(len(y), *sides, kernel.shape[2])
    # Lengths from padding to padding + size; what no tap reaches is zero.
    return lax.pad(
        x,
        jnp.zeros((), x.dtype),
        [(0, 0, 0)]
        + [
            (-geometry.padding, geometry.padding + size - side, 0)
            for size, side in zip(geometry.size, sides)
        ]
        + [(0, 0, 0)],
    )


def _phase_by_convolution(
    y: Array, kernel: Array, stride: int, taps: int, row: int, column: int
) -> Array:
    """One residue as a stride-1 convolution: [B, h + taps - 1, w + taps - 1, C]."""
    sub = _reversed(kernel[row::stride, column::stride])
    pads = [(side - 1, taps - 1) for side in sub.shape[:2]]
    return _plain(y, sub, 1, pads)


def _phase_by_overlap(
    columns: Array, stride: int, taps: int, row: int, column: int
) -> Array:
    """One residue as a sum of shifted columns [B, h, w, k, k, C]."""
    total = 0
    for i, tap_row in enumerate(range(row, columns.shape[3], stride)):
        for j, tap_column in enumerate(range(column, columns.shape[3], stride)):
            pads = _spatial([(i, taps - 1 - i), (j, taps - 1 - j)])
            total += jnp.pad(columns[:, :, :, tap_row, tap_column], pads)
    return total


def _weight_gradient_cpu(x: Array, y: Array, geometry: Geometry) -> Array:
    """Channels as the batch and the batch as channels, in canonical labels.

    The labels that differentiation of a convolution produces have no fast kernel.
    """
    pads = []
    for size, side in zip(geometry.size, geometry.reduced):
        reach = geometry.stride * (side - 1) + geometry.kernel
        pads.append((geometry.padding, reach - size - geometry.padding))
    kernel = _plain(
        x.transpose(3, 1, 2, 0), y.transpose(1, 2, 0, 3), 1, pads, geometry.stride
    )
    return kernel.transpose(1, 2, 0, 3)


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


def _spatial(pads):
    return [(0, 0), *pads, (0, 0)]


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
