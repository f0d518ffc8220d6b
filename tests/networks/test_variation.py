"""Fresh generators of images whose samples depend on z at every layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.networks import dcgan, ladder

pytestmark = pytest.mark.usefixtures("quick_compilation")

LEAST_SHARE = 0.3
"""Of a layer's mean square about its channels' means that must be due to z."""

GENERATORS = {
    "dcgan": dcgan.Generator(64, per_unit=True),
    "ladder_8": ladder.Generator(8, 64, 1, per_unit=True),
    "ladder_32": ladder.Generator(32, 64, 3, per_unit=True),
}


@functools.partial(jax.jit, static_argnums=0, static_argnames="seed_bias")
def intermediates(generator, seed_bias=None):
    """What every layer of a fresh generator returns for 32 latents.

    seed_bias: of the first layer, with random signs.
    """
    z = jax.random.normal(jax.random.key(0), (32, 32))
    variables = generator.init(jax.random.key(1), z, train=False)
    if seed_bias is not None:
        bias = variables["params"]["seed"]["bias"]
        variables["params"]["seed"]["bias"] = seed_bias * jnp.sign(bias)
    _, kept = generator.apply(
        variables, z, train=True, capture_intermediates=True, mutable=True
    )
    return kept["intermediates"]


def shares(generator):
    """name of a layer -> share of its variation over batch and pixels due to z."""
    found = {}
    for name, calls in intermediates(generator).items():
        if name == "__call__":
            continue
        x = np.asarray(calls["__call__"][0], np.float64)
        pixels = x.reshape(len(x), -1, x.shape[-1])
        total = np.mean((pixels - pixels.mean((0, 1))) ** 2)
        found[name] = np.mean(pixels.var(0)) / total
    return found


@pytest.mark.parametrize("name", GENERATORS)
def test_every_layer_varies_with_z(name):
    found = shares(GENERATORS[name])
    assert len(found) >= 4 and min(found.values()) > LEAST_SHARE, found


def test_a_template_in_the_seed_takes_the_norm_over_pixels_in():
    """The same weights: a large bias of the seed leaves z almost no share of what the
    batch norm over pixels passes on, and does nothing to the one per unit."""

    def share(per_unit):
        generator = dcgan.Generator(64, per_unit=per_unit)
        kept = intermediates(generator, seed_bias=30)
        x = np.asarray(kept["norm_0"]["__call__"][0])
        return np.mean(x.var(0)) / np.mean((x - x.mean((0, 1, 2))) ** 2)

    assert share(per_unit=False) < 0.2 and share(per_unit=True) > 0.9
