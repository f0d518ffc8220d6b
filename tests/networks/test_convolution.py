"""Convolutions against lax in float64, and against a transposition by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from megjax.networks import convolution

pytestmark = pytest.mark.usefixtures("float64", "quick_compilation")

# (side, channels, features, kernel, stride, padding): every geometry of dcgan and
# ladder, on both sides of the thresholds that choose a formulation.
GEOMETRIES = [
    (28, 3, 4, 5, 2, 2),
    (14, 2, 3, 5, 2, 2),
    (7, 2, 3, 5, 2, 2),
    (4, 2, 3, 5, 2, 2),
    (32, 6, 3, 4, 2, 1),
    (16, 2, 3, 4, 2, 1),
    (8, 2, 3, 4, 2, 1),
    (32, 3, 2, 3, 1, 1),
    (16, 6, 2, 3, 1, 1),
    (4, 2, 3, 3, 1, 1),
]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """As if these few channels were many, so that padding is left out."""
    monkeypatch.setattr(convolution, "_WIDE", 0)


def plain(x, kernel, *, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def case(geometry, batch=2):
    side, channels, features, size, stride, padding = geometry
    form = {"stride": stride, "padding": padding}
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, side, side, channels)))
    kernel = jnp.asarray(rng.normal(size=(size, size, channels, features)))
    y = jnp.asarray(
        rng.normal(size=jax.eval_shape(partial(plain, **form), x, kernel).shape)
    )
    extra = side - ((y.shape[1] - 1) * stride - 2 * padding + size)
    ours = partial(convolution.convolution, **form)
    transposed = partial(
        convolution.transposed_convolution, **form, output_padding=extra
    )
    return x, kernel, y, ours, partial(plain, **form), transposed


def assert_close(ours, theirs):
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), ours, theirs
    )


def test_transposed_convolution_spreads_one_pixel_by_hand():
    """A pixel at (1, 0) puts the unflipped kernel at 2 (1, 0) - 1, as in PyTorch."""
    kernel = jnp.arange(16.0).reshape(4, 4, 1, 1)
    y = jnp.zeros((1, 2, 2, 1)).at[0, 1, 0, 0].set(10.0)
    x = convolution.transposed_convolution(y, kernel, stride=2, padding=1)
    expected = [[0, 0, 0, 0], [10, 20, 30, 0], [50, 60, 70, 0], [90, 100, 110, 0]]
    np.testing.assert_array_equal(x[0, :, :, 0], expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_value_and_gradients_are_those_of_lax(geometry):
    x, kernel, y, ours, theirs, _ = case(geometry)
    assert_close(ours(x, kernel), theirs(x, kernel))
    gradients = (jax.jit(jax.vjp(f, x, kernel)[1])(y) for f in (ours, theirs))
    assert_close(*gradients)


@pytest.mark.slow
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_transposed_is_the_adjoint(geometry):
    """<conv(x), y> = <x, conv^T(y)>, and so for its own gradients."""
    x, kernel, y, _, theirs, transposed = case(geometry)
    adjoint = jax.linear_transpose(lambda x: theirs(x, kernel), x)
    assert_close(transposed(y, kernel), adjoint(y)[0])
    loss = lambda f: lambda y, kernel: jnp.sum(jnp.sin(f(y, kernel)))
    reference = lambda y, kernel: jax.linear_transpose(lambda x: theirs(x, kernel), x)(
        y
    )[0]
    ours, expected = (
        jax.jit(jax.grad(loss(f), (0, 1)))(y, kernel) for f in (transposed, reference)
    )
    assert_close(ours, expected)


@pytest.mark.parametrize("geometry", GEOMETRIES[::3])
def test_second_derivatives_are_those_of_lax(geometry):
    x, kernel, y, ours, theirs, _ = case(geometry)

    def penalty(f, x, kernel):
        inner = jax.grad(lambda x, w: jnp.sum(y * jnp.sin(f(x, w))), (0, 1))
        return sum(jnp.sum(jnp.sin(g)) for g in inner(x, kernel))

    gradients = (
        jax.jit(jax.grad(partial(penalty, f), (0, 1)))(x, kernel)
        for f in (ours, theirs)
    )
    assert_close(*gradients)


@pytest.mark.parametrize("geometry", [GEOMETRIES[1], GEOMETRIES[4]])
def test_forward_mode_over_reverse_mode(geometry):
    x, kernel, y, ours, theirs, _ = case(geometry)
    products = (
        jax.jvp(
            jax.grad(lambda x, f=f: jnp.sum(y * f(x, kernel) ** 2)), (x,), (jnp.cos(x),)
        )[1]
        for f in (ours, theirs)
    )
    assert_close(*products)


def squares(f, kernel, x):
    return jnp.sum(f(x[None], kernel) ** 2)


def test_vmap_over_images_kernels_and_gradients():
    x, kernel, y, ours, theirs, transposed = case(GEOMETRIES[2], batch=3)
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])
    for axes in ((0, None), (None, 0), (0, 0)):
        operands = (
            x[:, None] if axes[0] == 0 else x,
            kernels if axes[1] == 0 else kernel,
        )
        assert_close(jax.vmap(ours, axes)(*operands), jax.vmap(theirs, axes)(*operands))
    assert_close(
        jax.vmap(transposed, (0, None))(y[:, None], kernel)[:, 0], transposed(y, kernel)
    )
    per_example = (
        jax.vmap(jax.grad(partial(squares, f)), (None, 0))(kernel, x)
        for f in (ours, theirs)
    )
    assert_close(*per_example)


def test_scan_and_remat():
    x, kernel, _, ours, theirs, transposed = case(GEOMETRIES[5])

    def walk(forward, kernel):
        move = lambda x, _: (
            x - 0.01 * transposed(jnp.sin(forward(x, kernel)), kernel),
            None,
        )
        return jnp.sum(lax.scan(jax.checkpoint(move), x, None, length=3)[0])

    assert_close(*(jax.grad(partial(walk, f))(kernel) for f in (ours, theirs)))


def test_accelerator_form_is_the_same(monkeypatch):
    for geometry in GEOMETRIES:
        x, kernel, y, ours, _, transposed = case(geometry)
        on_cpu = ours(x, kernel), transposed(y, kernel)
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "gpu")
            elsewhere = ours(x, kernel), transposed(y, kernel)
        assert_close(on_cpu, elsewhere)


def test_bfloat16_in_and_out():
    x, kernel, y, ours, theirs, _ = case(GEOMETRIES[1])
    half = [v.astype(jnp.bfloat16) for v in (x, kernel, y)]
    value, vjp = jax.vjp(ours, *half[:2])
    assert value.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        value.astype(jnp.float32), theirs(x, kernel), rtol=0.02, atol=0.2
    )
    assert all(g.dtype == jnp.bfloat16 for g in vjp(half[2]))


@pytest.mark.parametrize(
    "size, kernel, stride, padding",
    [
        ((7, 7), 5, 2, 2),
        ((2, 8), 5, 2, 2),
        ((8, 4), 4, 2, 1),
        ((4, 5), 3, 1, 1),
        ((6, 6), 3, 2, 0),  # No tap sees the last row and column.
        ((9, 7), 4, 3, 0),
        ((5, 5), 2, 3, 1),
    ],
)
def test_convolution_by_blocks(size, kernel, stride, padding):
    geometry = convolution.Geometry(kernel, stride, padding, size)
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)))
    kernel = jnp.asarray(rng.normal(size=(kernel, kernel, 3, 4)))
    ours = convolution._convolution_by_blocks(x, kernel, geometry)
    assert_close(ours, plain(x, kernel, stride=stride, padding=padding))


@pytest.mark.slow
@pytest.mark.parametrize("side", [2, 4, 8])
def test_few_channels_multiply_padding_to_the_same_end(side, monkeypatch):
    geometry = convolution.Geometry(5, 2, 2, (side, side))
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, side, side, 3)))
    kernel = jnp.asarray(rng.normal(size=(5, 5, 3, 4)))
    y = jnp.asarray(rng.normal(size=(2, *geometry.reduced, 4)))

    def faces():
        return (
            convolution._convolution_cpu(x, kernel, geometry),
            convolution._transposed_cpu(y, kernel, geometry),
            convolution._weight_gradient_cpu(x, y, geometry),
        )

    without_padding = faces()
    monkeypatch.setattr(convolution, "_WIDE", 1000)
    assert_close(faces(), without_padding)
