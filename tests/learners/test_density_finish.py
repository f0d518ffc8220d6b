"""The finish by noise contrast: closed forms, what switches, and runs killed within it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from megjax import distributed
from megjax.data.dataset import Dataset
from megjax.densities import reference
from megjax.learners import density_finish, noise_contrastive
from megjax.learners.base import Learner
from megjax.networks import fourier
from megjax.samplers import partition
from megjax.training import checkpoint
from tests.training import test_loop

pytestmark = pytest.mark.usefixtures("quick_compilation")

LEVEL, CENTRES, STD = 300.0, np.array([[-1.0, 0.0], [1.0, 0.5]]), 0.2
MIXTURE = [stats.multivariate_normal(centre, STD**2) for centre in CENTRES]


def points(num=4000):
    rng = np.random.RandomState(0)
    x = CENTRES[rng.randint(2, size=num)] + STD * rng.normal(size=(num, 2))
    return Dataset("two", (2,), num, np.float32(x), lambda store, i: store[i])


def game():
    """A generator and an energy that are off; the state counts steps, and is in both."""

    def sample(key, state, num):
        noise = jax.random.normal(key, (num, 2))
        return jnp.array([0.1, 0.2]) + jnp.array([1.1, 0.5]) * noise + state / 100

    return Learner(
        init=lambda key, x: jnp.zeros([]),
        step=lambda key, state, x: (state + 1, {"mean": jnp.mean(x)}),
        sample=sample,
        energy=lambda state, x: jnp.sum(x**2, axis=1) + LEVEL + state,
        latents=lambda key, num: jnp.zeros((num, 1)),
        generate=lambda state, z: jnp.zeros((len(z), 2)) + state,
    )


def specified(contrast=None, **changes):
    contrast = {
        "optimizer": optax.adam(optax.cosine_decay_schedule(5e-3, 400)),
        "num_importance": 20_000,
    } | (contrast or {})
    network = fourier.Energy((32,), 32, 2.0)
    contrast = noise_contrastive.Spec(network, reference.gaussian(1.5), **contrast)
    generated = reference.kernel_density((0.2,), num_points=200)
    spec = density_finish.Spec(contrast, generated, num_draws=200, batch_size=256)
    return spec._replace(**{"num_steps": 400} | changes)


def begun(spec):
    learner = density_finish.with_density(game(), spec)
    return learner, learner.init(jax.random.key(0), jnp.zeros((4, 2)))


@pytest.fixture(scope="module")
def finished(quick_compilation):
    """Finished with a network that learns nothing."""
    learner, state = begun(specified({"optimizer": optax.sgd(0.0)}, num_steps=1))
    return learner, *learner.finish(jax.random.key(1), state, points())


def test_the_energy_goes_on_from_the_one_that_was_trained(finished):
    """Of a network at zero the rest is the confinement, and log Z that of a Gaussian."""
    learner, state, metrics = finished
    data = points()
    mean, factor = np.mean(data.store, axis=0), state.density.whitening.factor
    x = jnp.asarray(data.store[:50])
    square = np.sum(np.linalg.solve(factor, (x - mean).T) ** 2, axis=0) / 2
    change = learner.energy(state, x) - game().energy(state.inner, x)
    shift = np.sum(np.log(np.diagonal(factor)))
    np.testing.assert_allclose(change, square + shift, rtol=1e-3, atol=1e-3)
    # |x|^2 + (x - m)' P (x - m) / 2 with P the inverse covariance, by its square.
    precision = np.linalg.inv(factor @ factor.T)
    total = precision + 2 * np.eye(2)
    pulled = precision @ mean
    constant = mean @ pulled - pulled @ np.linalg.solve(total, pulled)
    log_z = -LEVEL - shift - constant / 2
    log_z += np.log(2 * np.pi) - np.linalg.slogdet(total)[1] / 2
    np.testing.assert_allclose(learner.log_partition(state), log_z, atol=0.05)
    assert metrics["partition/effective_share"] > 0.2


def test_the_finished_energy_is_the_density_of_the_data():
    learner, state = begun(specified())
    data = points()
    state, metrics = learner.finish(jax.random.key(1), state, data)
    energy_fn = functools.partial(learner.energy, state)
    found = partition.quadrature(energy_fn, [-5, -5], [5, 5], num_cells=300)
    x = np.float32(np.concatenate([d.rvs(2000, random_state=1) for d in MIXTURE]))
    truth = np.mean(np.log(np.mean([d.pdf(x) for d in MIXTURE], axis=0)))
    divergence = truth + np.mean(energy_fn(jnp.asarray(x))) + found.log_z
    assert divergence < 0.03
    assert abs(learner.log_partition(state) - found.log_z) < 0.03
    assert metrics["finish/loss"] < 2 * np.log(2)
    draw = jax.jit(learner.sample, static_argnums=2)
    draws = np.asarray(draw(jax.random.key(2), state, 4000))
    distances = np.linalg.norm(draws[:, None] - CENTRES, axis=2)
    near = np.min(distances, axis=1) < 4 * STD
    assert near.mean() > 0.98
    shares = np.mean(distances.argmin(axis=1)), np.mean(points().store[:, 0] > 0)
    assert abs(shares[0] - shares[1]) < 0.05
    # One alone is chosen among as many rows of noise as hundreds.
    one, many = (draw(jax.random.key(3), state, num) for num in (1, 256))
    np.testing.assert_array_equal(one, many[:1])


def test_before_the_finish_and_after_a_further_step_all_is_the_games(finished):
    learner, ended, _ = finished
    state = learner.init(jax.random.key(0), jnp.zeros((4, 2)))
    key, x = jax.random.key(3), jnp.asarray(points().store[:8])

    @jax.jit
    def seen(state):
        return learner.energy(state, x), learner.sample(key, state, 5)

    @jax.jit
    def of_game(state):
        return game().energy(state.inner, x), game().sample(key, state.inner, 5)

    for a, b in zip(seen(state), of_game(state)):
        np.testing.assert_array_equal(a, b)
    assert np.isnan(learner.log_partition(state))
    for a, b in zip(seen(ended), of_game(state)):
        assert not np.any(a == b)
    assert np.isfinite(learner.log_partition(ended))
    # One at a time, as chains take them.
    single = jax.vmap(jax.grad(lambda row: learner.energy(ended, row[None])[0]))(x)
    whole = jax.grad(lambda x: jnp.sum(learner.energy(ended, x)))(x)
    np.testing.assert_allclose(single, whole, rtol=1e-5, atol=1e-5)
    further, metrics = learner.step(key, ended, x[None])
    assert further.inner == 1 and set(metrics) == {"mean"}
    for a, b in zip(seen(further), of_game(further)):
        np.testing.assert_array_equal(a, b)
    assert np.isnan(learner.log_partition(further))
    # The generator is the same throughout.
    assert learner.generate(ended, jnp.zeros((3, 1))).tolist() == [[0, 0]] * 3


def test_the_noise_is_of_the_generator_and_of_the_moments_of_the_data(finished):
    """No row of the data is kept, whose mean and covariance are."""
    data, state = points(), finished[1]
    broad, kernels = state.density.noise
    around = state.density.whitening.mean + kernels @ state.density.whitening.factor.T
    np.testing.assert_allclose(np.std(around, axis=0), [1.1, 0.5], rtol=0.15)
    distances = np.abs(np.asarray(around)[:, None] - data.store).max(axis=2)
    assert np.min(distances) > 0
    np.testing.assert_allclose(broad.factor, 1.5 * np.eye(2), atol=0.01)


def run(workdir, num_steps=16):
    config = test_loop.config_of(num_steps)
    spec = specified({"num_importance": 200}, num_steps=3)
    learner = density_finish.with_density(game(), spec)
    state = test_loop.train(workdir, config, learner, data=points())
    return checkpoint.state_digest(state)


def test_a_run_gone_on_with_and_killed_in_the_finish_ends_in_the_same_bits(
    tmp_path, monkeypatch
):
    expected = run(tmp_path / "whole")
    # Finished once, and trained further.
    assert run(tmp_path / "parts", 8) != expected

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(noise_contrastive, "settled", killed)
        run(tmp_path / "parts")
    assert run(tmp_path / "parts") == expected
    # Read back it is finished.
    with monkeypatch.context() as patch:
        patch.setattr(noise_contrastive, "settled", killed)
        assert run(tmp_path / "parts") == expected


@pytest.mark.slow
def test_eight_devices_finish_as_one():
    data, spec = points(), specified({"num_importance": 2000}, num_steps=5)
    learner, state = begun(spec)
    one, _ = learner.finish(jax.random.key(1), state, data)
    with jax.set_mesh(distributed.data_mesh(jax.devices())):
        placed = distributed.replicate(state, jax.sharding.get_mesh())
        eight, _ = learner.finish(jax.random.key(1), placed, data)
    for a, b in zip(*map(jax.tree.leaves, (one, eight))):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_steps": 0}, "finish.num_steps=0: give a whole number from 1 up"),
        ({"num_draws": 0}, "finish.num_draws=0: give a whole number from 1 up"),
        ({"share": 1.0}, "finish.share=1.0: give a number between 0 and 1"),
        (
            {"contrast": {"tilt": True}},
            "finish.density.tilt=True: the energy starts from the .*; give False",
        ),
        (
            {"contrast": {"num_validation": 9}},
            "finish.density.num_validation=9: the energy .*; give 0",
        ),
        ({"contrast": {"num_noise": 0}}, "density.num_noise=0: give a whole number"),
    ],
)
def test_specifications_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        begun(specified(**changes))
