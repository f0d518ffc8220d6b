"""Networks of 28 x 28 images: shapes, counts, ranges, modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.networks import dcgan, heads

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


def shapes(module, *args, **kwargs):
    return jax.eval_shape(lambda: module.init_with_output(KEY, *args, **kwargs))


def num_params(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_shapes_and_parameter_counts_by_hand(channels):
    x, z = jnp.ones((2, 28, 28, channels)), jnp.ones((2, 128))
    energies, variables = shapes(heads.Energy(dcgan.Trunk(512)), x)
    assert energies.shape == (2,)
    kernels = 25 * (channels * 64 + 64 * 128 + 128 * 256 + 256 * 512)
    convolutions = kernels + 64 + 128 + 256 + 512
    assert num_params(variables) == convolutions + 4 * 512 + 1
    images, variables = shapes(dcgan.Generator(512, channels), z, train=False)
    assert images.shape == x.shape
    seed = 128 * 2048 + 2048
    norms = 2 * (512 + 256 + 128 + 64)
    biases = 256 + 128 + 64 + channels
    assert num_params(variables) == seed + kernels + biases + norms


@pytest.mark.slow
def test_sides_of_the_maps():
    """14, 7, 4, 2 inwards and 2, 4, 7, 14, 28 outwards; or of 32 pixels."""

    def sides(module, *args):
        _, state = module.init_with_output(KEY, *args, capture_intermediates=True)
        calls = state["intermediates"]
        names = sorted(name for name in calls if name.startswith("convolution"))
        return [calls[name]["__call__"][0].shape[1] for name in names]

    assert sides(dcgan.Trunk(8), jnp.ones((1, 28, 28, 1))) == [14, 7, 4, 2]
    assert sides(dcgan.Generator(8), jnp.ones((2, 4)), True) == [4, 7, 14, 28]
    assert sides(dcgan.Trunk(8), jnp.ones((1, 32, 32, 3))) == [16, 8, 4, 2]
    wide = dcgan.Generator(8, channels=3, image_size=32)
    assert sides(wide, jnp.ones((2, 4)), True) == [4, 8, 16, 32]


@pytest.mark.parametrize("image_size", [17, 24, 27, 31, 32])
def test_images_of_17_to_32_pixels(image_size):
    generator = dcgan.Generator(8, channels=2, image_size=image_size)
    x, _ = jax.eval_shape(
        lambda: generator.init_with_output(KEY, jnp.ones((3, 4)), train=True)
    )
    assert x.shape == (3, image_size, image_size, 2)


@pytest.mark.parametrize("image_size", [1, 16, 33, 64])
def test_images_of_other_sizes_are_refused(image_size):
    with pytest.raises(
        ValueError, match=f"image_size={image_size}: .* 17 to 32 pixels"
    ):
        dcgan.sides(image_size)


def test_images_lie_in_the_open_interval_and_differ():
    generator = dcgan.Generator(16)
    z = jax.random.normal(KEY, (8, 4))
    images, _ = jax.jit(lambda z: generator.init_with_output(KEY, z, train=True))(z)
    assert np.all(np.abs(images) < 1) and np.std(images, axis=0).max() > 1e-3


def test_inference_mode_does_not_couple_examples():
    generator = dcgan.Generator(8)
    z = jax.random.normal(KEY, (4, 4))
    variables = generator.init(KEY, z, train=False)
    whole = generator.apply(variables, z, train=False)
    part = generator.apply(variables, z[:1], train=False)
    np.testing.assert_allclose(whole[:1], part, atol=1e-6)
    trained, moved = generator.apply(variables, z, train=True, mutable=["batch_stats"])
    assert np.abs(trained - whole).max() > 1e-3
    assert set(moved["batch_stats"]) == {"norm_0", "norm_1", "norm_2", "norm_3"}


@pytest.mark.slow
def test_bfloat16_computes_with_float32_parameters():
    x, z = jnp.ones((2, 28, 28, 1)), jax.random.normal(KEY, (2, 4))
    half = jnp.bfloat16
    energy = heads.Energy(dcgan.Trunk(8, dtype=half))
    generator = dcgan.Generator(8, dtype=half)
    for module, args in ((energy, (x,)), (generator, (z, True))):
        y, variables = module.init_with_output(KEY, *args)
        assert y.dtype == jnp.float32
        assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    exact = heads.Energy(dcgan.Trunk(8))
    variables = exact.init(KEY, x)
    np.testing.assert_allclose(
        energy.apply(variables, x), exact.apply(variables, x), rtol=0.05, atol=0.01
    )


def test_width_must_be_a_multiple_of_eight():
    with pytest.raises(ValueError, match="width=12 .* multiple of 8"):
        dcgan.Trunk(12).init(KEY, jnp.ones((1, 28, 28, 1)))
