"""Networks of every power-of-two size: shapes, counts, ranges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax import losses
from megjax.learners import meg
from megjax.networks import heads, ladder

pytestmark = pytest.mark.usefixtures("quick_compilation")

KEY = jax.random.key(0)


def shapes(module, *args, **kwargs):
    return jax.eval_shape(lambda: module.init_with_output(KEY, *args, **kwargs))


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        (8, [256]),
        (16, [128, 256]),
        (32, [64, 128, 256]),
        (64, [64, 128, 256, 512]),
        (128, [64, 128, 256, 512, 512]),
    ],
)
def test_shapes_and_parameter_counts(image_size, expected):
    assert ladder.widths(512, image_size) == expected
    x, z = jnp.ones((2, image_size, image_size, 3)), jnp.ones((2, 128))
    energies, variables = shapes(heads.Energy(ladder.Trunk(512)), x)
    assert energies.shape == (2,)
    inputs = [3, *expected]
    count = sum(9 * a * b + b + 16 * b * b + b for a, b in zip(inputs, expected))
    count += 9 * expected[-1] * 512 + 512 + 16 * 512 + 1
    leaves = jax.tree.leaves(variables)
    assert sum(leaf.size for leaf in leaves) == count
    images, variables = shapes(ladder.Generator(image_size), z, train=False)
    assert images.shape == x.shape
    inputs = [512, *expected[::-1]]
    count = 128 * 16 * 512 + 16 * 512 + 9 * expected[0] * 3 + 3
    count += sum(16 * a * b + 3 * b for a, b in zip(inputs, expected[::-1]))
    leaves = jax.tree.leaves(variables["params"])
    assert sum(leaf.size for leaf in leaves) == count


def test_images_lie_in_the_open_interval_and_differ():
    generator = ladder.Generator(8, width=16, channels=1)
    z = jax.random.normal(KEY, (8, 4))
    images, variables = generator.init_with_output(KEY, z, train=True)
    assert images.shape == (8, 8, 8, 1)
    assert np.all(np.abs(images) < 1) and np.std(images, axis=0).max() > 1e-3
    assert set(variables["batch_stats"]) == {"norm_0"}


def test_default_init_is_pytorchs():
    x = jnp.ones((1, 8, 8, 1))
    top = ladder.Trunk(64, default_init=True).init(KEY, x)["params"]["top"]
    bound = 1 / np.sqrt(9 * 32)
    assert 0.99 * bound < np.abs(top["kernel"]).max() <= bound
    top = ladder.Trunk(64).init(KEY, x)["params"]["top"]
    assert top["kernel"].std() == pytest.approx(0.02 * 8**0.5, rel=0.02)


@pytest.mark.slow
def test_bfloat16_computes_with_float32_parameters():
    x, z = jnp.ones((2, 8, 8, 1)), jnp.ones((2, 4))
    half = jnp.bfloat16
    for module, args in (
        (heads.Energy(ladder.Trunk(8, dtype=half)), (x,)),
        (ladder.Generator(8, 8, 1, dtype=half), (z, True)),
    ):
        y, variables = module.init_with_output(KEY, *args)
        assert y.dtype == jnp.float32
        assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("image_size", [0, 4, 12, 28, 48])
def test_other_sizes_are_refused(image_size):
    with pytest.raises(ValueError, match=f"image_size={image_size} is none of 8, 16"):
        ladder.widths(64, image_size)


def test_oblong_images_are_refused():
    with pytest.raises(ValueError, match="make them square"):
        ladder.Trunk(8).init(KEY, jnp.ones((1, 8, 16, 1)))


@pytest.mark.slow
def test_recomputation_changes_nothing_but_memory(float64):
    """Same parameters; energies, penalties, images, statistics and gradients alike."""
    x = jax.random.normal(KEY, (3, 16, 16, 1))
    z = jax.random.normal(KEY, (3, 4))
    settings = {"dtype": jnp.float64}
    found = []
    for remat in (False, True):
        energy = heads.Energy(ladder.Trunk(8, remat=remat, **settings))
        generator = ladder.Generator(16, 8, 1, remat=remat, **settings)

        def loss(params, energy=energy, generator=generator):
            trained, variables = generator.apply(
                params["generator"], z, train=True, mutable=["batch_stats"]
            )
            penalised = losses.penalised_energy(energy, params["energy"], x, 0.3)
            fake = energy.apply({"params": params["energy"]}, trained)
            return jnp.mean(penalised[2]) - jnp.mean(fake), (variables, penalised[:2])

        params = {
            "energy": energy.init(KEY, x)["params"],
            "generator": generator.init(KEY, z, train=False),
        }
        text = str(jax.make_jaxpr(jax.grad(loss, has_aux=True))(params))
        assert ("remat" in text or "checkpoint" in text) == remat
        found.append((params, jax.jit(jax.grad(loss, has_aux=True))(params)))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        # Parameters and batch statistics are float32 whatever the rest is, and all
        # else depends on them.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_bfloat16_trains():
    """Two iterations of MEG: finite, parameters in float32, every kernel moves.

    At 16 pixels; `test_configs` traces 64, which takes long to compile.
    """
    trunk = ladder.Trunk(8, dtype=jnp.bfloat16)
    chosen = meg.Spec(
        heads.Energy(trunk),
        ladder.Generator(16, 8, 3, dtype=jnp.bfloat16),
        heads.Statistics(trunk, latent_dim=4, width=8),
        latent_dim=4,
        num_energy_updates=1,
    )
    learner = meg.meg(chosen)
    x = jax.random.uniform(KEY, (1, 2, 16, 16, 3), minval=-1)
    state = first = jax.jit(learner.init)(KEY, x[0])
    step = jax.jit(learner.step)
    for i in range(2):
        state, metrics = step(jax.random.key(i), state, x)
        assert np.all(np.isfinite(list(metrics.values())))
    for before, after in zip(*map(jax.tree.leaves, (first, state))):
        assert after.dtype == before.dtype != jnp.bfloat16
        if after.ndim > 1:
            assert not np.array_equal(before, after)
