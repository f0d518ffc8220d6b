import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from megjax.samplers import kernel, rwm


def normal(x):
    return -0.5 * jnp.sum(x**2)


def ends(walk, x, steps):
    @jax.jit
    @jax.vmap
    def run(key, x):
        return kernel.chain(key, walk, walk.init(x), steps)

    return run(jax.random.split(jax.random.key(1), len(x)), x)


def test_the_normal_is_invariant_and_acceptance_is_exact():
    """In one dimension E min(1, r) = (2 / pi) arctan(2 / step size)."""
    size = 1.7
    x = jax.random.normal(jax.random.key(0), (4000, 1))
    state, record = ends(rwm.rwm(normal, step_size=size), x, 30)
    assert stats.kstest(np.ravel(state.position), "norm").pvalue > 1e-3
    rate = np.mean(np.asarray(record.infos.acceptance_rate), axis=1)
    error = rate.std() / np.sqrt(len(rate))
    assert abs(rate.mean() - 2 / np.pi * np.arctan(2 / size)) < 4 * error < 0.01


def test_a_flat_density_accepts_all_and_diffuses():
    x = jnp.zeros((2000, 2))
    walk = rwm.rwm(lambda x: jnp.float32(0), step_size=0.5)
    state, record = ends(walk, x, 16)
    assert np.all(record.infos.is_accepted)
    np.testing.assert_allclose(np.var(state.position), 16 * 0.25, rtol=0.1)


def test_accepting_everything_is_rejected():
    def step(key, state):
        state = init(state.position + jax.random.normal(key, state.position.shape))
        return state, kernel.Info(jnp.ones(()), jnp.ones(()), jnp.ones(()))

    init = rwm.rwm(normal, step_size=1.0).init
    x = jax.random.normal(jax.random.key(0), (4000, 1))
    state, _ = ends(kernel.Kernel(init, step), x, 30)
    assert stats.kstest(np.ravel(state.position), "norm").pvalue < 1e-6


def test_aux_follows_the_position():
    walk = rwm.rwm(lambda x: (normal(x), 3 * x), step_size=2.0, has_aux=True)
    _, record = ends(walk, jnp.ones((1, 2)), 50)
    states = record.observations
    assert 0 < np.mean(record.infos.is_accepted) < 1
    np.testing.assert_array_equal(states.aux, 3 * states.position)
