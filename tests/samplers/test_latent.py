import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from megjax.samplers import kernel, latent, mala


def energy(z):
    """E(G(z)) for G(z) = tanh(2 z), E(x) = |x - 1|^2: bounded, as for images."""
    return jnp.sum((jnp.tanh(2 * z) - 1) ** 2, axis=1)


def walked(log_density, z, steps, a):
    langevin = mala.mala(log_density, step_size=a, has_aux=True)

    @jax.jit
    @jax.vmap
    def run(key, z):
        return kernel.chain(key, langevin, langevin.init(z), steps)

    return run(jax.random.split(jax.random.key(1), len(z)), z)


@pytest.mark.parametrize("prior, log_prior", [("none", 0.0), ("gaussian", -0.625)])
def test_value_and_energy_by_hand(prior, log_prior):
    z = jnp.array([1.0, 0.5])
    value, e = latent.log_density(energy, inverse_temperature=0.5, prior=prior)(z)
    by_hand = (np.tanh(2) - 1) ** 2 + (np.tanh(1) - 1) ** 2
    np.testing.assert_allclose(e, by_hand, rtol=1e-5)
    np.testing.assert_allclose(value, log_prior - 0.5 * by_hand, rtol=1e-5)


def test_without_energy_the_prior_comes_back():
    z = jax.random.normal(jax.random.key(0), (2000, 2))
    log_density = latent.log_density(energy, inverse_temperature=0.0)
    state, record = walked(log_density, z, 60, 0.5)
    assert stats.kstest(np.ravel(state.position), "norm").pvalue > 1e-3
    assert 0 < np.mean(record.infos.is_accepted) < 1
    np.testing.assert_allclose(state.aux, energy(state.position), rtol=1e-5)


def test_without_prior_a_constant_energy_gives_the_free_walk():
    """Variance 1 + 2 a t, every proposal accepted."""
    z = jax.random.normal(jax.random.key(0), (2000, 4))
    flat = latent.log_density(lambda z: jnp.full(len(z), 3.0), prior="none")
    states = walked(flat, z, 100, 0.02)
    positions = np.asarray(states[1].observations.position)
    assert np.all(states[1].infos.is_accepted)
    for t in (1, 10, 100):
        variance = np.var(positions[:, t - 1])
        expected = 1 + 2 * 0.02 * t
        assert abs(variance / expected - 1) < 4 * np.sqrt(2 / positions[:, 0].size)


def test_the_tilted_prior_has_the_moments_of_quadrature():
    beta = 1.5
    z = jax.random.normal(jax.random.key(0), (1000, 1))
    log_density = latent.log_density(energy, inverse_temperature=beta)
    _, record = walked(log_density, z, 120, 0.3)
    late = np.asarray(record.observations.position)[:, 40:, 0]
    grid = np.linspace(-8, 8, 4001)
    weight = stats.norm.pdf(grid) * np.exp(-beta * (np.tanh(2 * grid) - 1) ** 2)
    weight /= weight.sum()
    for power in (1, 2):
        moments = np.mean(late**power, axis=1)
        error = moments.std() / np.sqrt(len(moments))
        exact = np.sum(grid**power * weight)
        assert abs(moments.mean() - exact) < 4 * error < 0.1


def test_tempering_crosses_a_barrier_and_keeps_the_shares_of_quadrature():
    """From one side of a barrier of 12 nats; MALA's chains all stay there."""

    def barrier(z):
        return 12 * jnp.exp(-2 * z[:, 0] ** 2) + 0.7 * jnp.tanh(z[:, 0])

    def log_density(z):
        return latent.log_density(barrier)(z)[0]

    tempered = latent.tempered(log_density, step_size=0.3, num_replicas=6)

    @jax.jit
    @jax.vmap
    def run(key):
        states = tempered.init(jnp.array([1.5])), mala_kernel.init(jnp.array([1.5]))
        return [
            kernel.chain(key, one, state, 300, observe=lambda state: state.position)
            for one, state in zip((tempered, mala_kernel), states)
        ]

    mala_kernel = mala.mala(log_density, step_size=0.1)
    (_, record), (_, stuck) = run(jax.random.split(jax.random.key(0), 300))
    assert np.mean(stuck.observations < 0) < 0.01
    shares = np.mean(np.asarray(record.observations)[:, 50:, 0] < 0, axis=1)
    grid = np.linspace(-8, 8, 4001)
    weight = stats.norm.pdf(grid) * np.exp(-np.asarray(barrier(grid[:, None])))
    exact = weight[grid < 0].sum() / weight.sum()
    error = shares.std() / np.sqrt(len(shares))
    assert abs(shares.mean() - exact) < 3 * error < 0.06
    assert abs(exact - 0.5) > 0.1


def test_tempering_wants_two_replicas():
    with pytest.raises(ValueError, match="num_replicas=1: give at least 2"):
        latent.tempered(lambda z: -jnp.sum(z**2), step_size=0.1, num_replicas=1)


def test_an_unknown_prior_is_refused():
    with pytest.raises(ValueError, match="prior='flat': choose one of none, gaussian"):
        latent.log_density(energy, prior="flat")
