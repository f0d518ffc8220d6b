"""The FID's Inception: its size, its shapes, and its blocks in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, traverse_util

from megjax.networks import inception

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def traced():
    """Shapes of the variables, of every module's output, and the pools, at 299."""
    net, x, maps, pools = inception.Inception(), jnp.zeros((2, 299, 299, 3)), {}, {}

    def keep(call, args, kwargs, context):
        out = call(*args, **kwargs)
        maps[context.module.name] = jax.tree.map(jnp.shape, out)
        pools[context.module.name] = getattr(context.module, "pool", None)
        return out

    with linen.intercept_methods(keep):
        variables = jax.eval_shape(lambda: net.init(KEY, x))
    return variables, maps, pools


def test_number_of_parameters(traced):
    # torchvision counts 27,161,264 in its Inception-v3 with 1000 classes.
    auxiliary = 768 * 128 + 2 * 128 + 25 * 128 * 768 + 2 * 768 + 769 * 1000
    trunk = 27_161_264 - auxiliary - 2049 * 1000
    variables, maps, _ = traced
    sizes = [leaf.size for leaf in jax.tree.leaves(variables["params"])]
    assert sum(sizes) == trunk + 2048 * 1008
    kernels = [
        path
        for path in traverse_util.flatten_dict(variables["params"])
        if path[-2:] == ("conv", "kernel")
    ]
    assert len(kernels) == 94
    assert maps[None] == ((2, 2048), (2, 1008))


def test_maps_of_the_published_network(traced):
    sides = {
        "Conv2d_1a_3x3": (149, 32),
        "Conv2d_2a_3x3": (147, 32),
        "Conv2d_2b_3x3": (147, 64),
        "Conv2d_3b_1x1": (73, 80),
        "Conv2d_4a_3x3": (71, 192),
        "Mixed_5b": (35, 256),
        "Mixed_5c": (35, 288),
        "Mixed_5d": (35, 288),
        "Mixed_6a": (17, 768),
        "Mixed_6e": (17, 768),
        "Mixed_7a": (8, 1280),
        "Mixed_7b": (8, 2048),
        "Mixed_7c": (8, 2048),
    }
    for name, (side, channels) in sides.items():
        assert traced[1][name] == (2, side, side, channels), name


def test_kernels_of_the_factored_layers(traced):
    variables = traced[0]
    wide, tall = (1, 7), (7, 1)
    for block, name, kernel in (
        ("Mixed_6c", "branch7x7_2", (*wide, 160, 160)),
        ("Mixed_6c", "branch7x7_3", (*tall, 160, 192)),
        ("Mixed_6b", "branch7x7dbl_2", (*tall, 128, 128)),
        ("Mixed_6b", "branch7x7dbl_5", (*wide, 128, 192)),
        ("Mixed_7a", "branch7x7x3_2", (*wide, 192, 192)),
        ("Mixed_7c", "branch3x3_2a", (1, 3, 384, 384)),
        ("Mixed_7b", "branch3x3dbl_3b", (3, 1, 384, 384)),
    ):
        found = variables["params"][block][name]["conv"]["kernel"].shape
        assert found == kernel, (block, name)


def windows(x, kernel, stride, fill):
    """Every kernel-sized window: [B, H, W, C] -> [B, H', W', C, kh, kw]; SAME at
    stride 1, VALID at stride 2."""
    if stride == 1:
        margin = [(k // 2, k // 2) for k in kernel]
        x = np.pad(x, [(0, 0), *margin, (0, 0)], constant_values=fill)
    found = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
    return found[:, ::stride, ::stride]


class Numpy:
    """A block's layers by name, in float64."""

    def __init__(self, variables):
        self.params, self.statistics = variables["params"], variables["batch_stats"]

    def __call__(self, x, *names, stride=1):
        for name in names:
            kernel = np.asarray(self.params[name]["conv"]["kernel"], np.float64)
            seen = windows(x, kernel.shape[:2], stride, 0)
            x = np.einsum("bhwcij,ijco->bhwo", seen, kernel, optimize=True)
            own, stored = self.params[name]["bn"], self.statistics[name]["bn"]
            x = (x - stored["mean"]) / np.sqrt(stored["var"] + 0.001)
            x = np.maximum(x * own["scale"] + own["bias"], 0)
        return x


def mean_pool(x):
    """Means over the part of a 3x3 window that lies in the image."""
    return np.nanmean(windows(x, (3, 3), 1, np.nan), axis=(-2, -1))


def max_pool(x):
    return windows(x, (3, 3), 1, -np.inf).max(axis=(-2, -1))


def halved(x):
    return windows(x, (3, 3), 2, 0).max(axis=(-2, -1))


def block_a(net, x):
    return [
        net(x, "branch1x1"),
        net(x, "branch5x5_1", "branch5x5_2"),
        net(x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        net(mean_pool(x), "branch_pool"),
    ]


def block_b(net, x):
    double = net(x, "branch3x3dbl_1", "branch3x3dbl_2")
    return [
        net(x, "branch3x3", stride=2),
        net(double, "branch3x3dbl_3", stride=2),
        halved(x),
    ]


def block_c(net, x):
    return [
        net(x, "branch1x1"),
        net(x, *[f"branch7x7_{i}" for i in (1, 2, 3)]),
        net(x, *[f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)]),
        net(mean_pool(x), "branch_pool"),
    ]


def block_d(net, x):
    seven = net(x, *[f"branch7x7x3_{i}" for i in (1, 2, 3)])
    return [
        net(net(x, "branch3x3_1"), "branch3x3_2", stride=2),
        net(seven, "branch7x7x3_4", stride=2),
        halved(x),
    ]


def block_e(net, x, pool):
    single = net(x, "branch3x3_1")
    double = net(x, "branch3x3dbl_1", "branch3x3dbl_2")
    return [
        net(x, "branch1x1"),
        net(single, "branch3x3_2a"),
        net(single, "branch3x3_2b"),
        net(double, "branch3x3dbl_3a"),
        net(double, "branch3x3dbl_3b"),
        net(pool(x), "branch_pool"),
    ]


BLOCKS = {
    "A": (inception.BlockA(8), block_a),
    "B": (inception.BlockB(), block_b),
    "C": (inception.BlockC(16), block_c),
    "D": (inception.BlockD(), block_d),
    "E, mean": (
        inception.BlockE(inception._mean_pool),
        lambda net, x: block_e(net, x, mean_pool),
    ),
    "E, max": (
        inception.BlockE(inception._max_pool),
        lambda net, x: block_e(net, x, max_pool),
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_equal_numpy(name):
    block, expected = BLOCKS[name]
    rng = np.random.RandomState(0)
    x = rng.normal(size=(2, 7, 7, 5)).astype(np.float32)
    variables = jax.eval_shape(lambda: block.init(KEY, x))
    # Positive, as variances have to be; the kernels' scale keeps outputs near 1.
    variables = jax.tree.map(
        lambda leaf: np.float32(
            rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
            if len(leaf.shape) > 1
            else rng.uniform(0.5, 1.5, leaf.shape)
        ),
        variables,
    )
    found = jax.jit(block.apply)(variables, x)
    wanted = np.concatenate(expected(Numpy(variables), np.float64(x)), axis=-1)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert wanted.std() > 0.05


def test_the_last_block_alone_pools_by_maximum(traced):
    pools = {name: pool for name, pool in traced[2].items() if pool}
    assert pools == {"Mixed_7b": inception._mean_pool, "Mixed_7c": inception._max_pool}
