import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from megjax.energies import dbm, exact, ising, maxent, rbm, units
from megjax.samplers import gibbs, kernel


def random_like(params, seed=0):
    rng = np.random.RandomState(seed)
    return {name: jnp.float32(0.6 * rng.randn(*p.shape)) for name, p in params.items()}


def run(family, params, num_units, *, num_chains=1000, num_steps=30, **kwargs):
    """Final states and records of many chains that start at zero."""
    sampler = gibbs.gibbs(family, params, **kwargs)
    v = jnp.zeros((num_chains, num_units))
    state = jax.vmap(sampler.init)(family.start(jax.random.key(0), params, v))
    keys = jax.random.split(jax.random.key(1), num_chains)

    def one(key, state):
        return kernel.chain(
            key, sampler, state, num_steps, observe=lambda state: state.position
        )

    return jax.jit(jax.vmap(one))(keys, state)


def test_chains_of_a_machine_reach_its_distribution():
    family, inverse_temperature = rbm.family(3, 2), 0.5
    params = random_like(family.init(jax.random.key(0)))
    state, record = run(family, params, 3, inverse_temperature=inverse_temperature)
    v, h = exact.joint_states([(units.BERNOULLI, 3), (units.BERNOULLI, 2)])
    joint = np.asarray(jax.jit(family.joint)(params, (v, h)))
    probs = special.softmax(-inverse_temperature * joint)
    # Means of the second half of every chain, and their spread over chains.
    means = np.asarray(record.observations)[:, 15:].mean(1)
    error = means.std(0) / np.sqrt(len(means))
    assert np.all(np.abs(means.mean(0) - probs @ v) < 4 * error)
    hidden = np.asarray(state.hidden[0])
    spread = np.sqrt(0.25 / len(hidden))
    assert np.all(np.abs(hidden.mean(0) - probs @ h) < 4 * spread)
    assert np.all(record.infos.is_accepted == 1) and not np.any(
        record.infos.is_divergent
    )
    assert np.all(record.infos.acceptance_rate == 1)


def test_a_step_is_a_sweep_of_the_family():
    family = dbm.family((3, 2, 2))
    params = random_like(family.init(jax.random.key(0)))
    chain = np.ones((1, 3)), np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    sampler, key = gibbs.gibbs(family, params), jax.random.key(4)
    start = sampler.init(tuple(layer[0] for layer in chain))
    state, _ = jax.jit(sampler.step)(key, start)
    swept = jax.jit(family.sweep)(key, params, chain, 1.0)
    for got, wanted in zip((state.position, *state.hidden), swept, strict=True):
        np.testing.assert_array_equal(got, wanted[0])


@pytest.mark.slow
def test_models_without_hidden_units():
    family = ising.family(3, edges=np.array([[0, 1], [1, 2]]))
    params = family.init(jax.random.key(0))
    sampler = gibbs.gibbs(family, params | {"bias": jnp.full(3, 100.0)})
    state, _ = sampler.step(jax.random.key(0), sampler.init((-jnp.ones(3),)))
    assert state.hidden == ()
    np.testing.assert_array_equal(state.position, np.ones(3))


def test_an_energy_without_sweep_is_refused():
    family = maxent.family(lambda x: -(x**2), 2, kind=units.GAUSSIAN)
    with pytest.raises(ValueError, match="no Gibbs sweep"):
        gibbs.gibbs(family, {})
