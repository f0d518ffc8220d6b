"""Estimates of log Z and what follows from it, against enumeration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.energies import dbm, exact, ising, rbm, units
from megjax.evaluation import ising as physics
from megjax.evaluation import likelihood
from megjax.learners import contrastive, proximal

pytestmark = pytest.mark.usefixtures("quick_compilation")

FAMILY = rbm.family(6, 4)


def machine(family, seed=0, scale=1.0):
    """Random parameters of a family, biases included."""
    rng = np.random.RandomState(seed)
    shapes = jax.eval_shape(family.init, jax.random.key(0))
    return jax.tree.map(lambda p: jnp.asarray(scale * rng.normal(size=p.shape)), shapes)


def test_schedule_has_the_knots_of_the_paper():
    betas = likelihood.schedule(14_500)
    np.testing.assert_allclose(betas[[0, 500, 4500, 14_500]], [0, 0.5, 0.9, 1])
    assert np.all(np.diff(betas) > 0)


@pytest.mark.slow
@pytest.mark.parametrize("values", [likelihood.BITS, likelihood.SPINS])
def test_independent_units_have_a_closed_form(values):
    kind = {0.0: units.BERNOULLI, -1.0: units.SPIN}[values[0]]
    family = rbm.family(6, 4, visible=kind, hidden=kind)
    base = proximal.without_weights(machine(family))
    a, b = base["visible_bias"], base["hidden_bias"]
    biases = np.concatenate([a, b])
    expected = np.sum(np.logaddexp(*(value * biases for value in values)))
    chain = (jnp.zeros((1, 6)), jnp.zeros((1, 4)))
    for made in (family, family._replace(energy=None)):
        found = likelihood.independent_log_z(made, base, chain, values)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def annealed(family, params, n, **options):
    v = jnp.zeros((200, n))
    return likelihood.log_partition(
        jax.random.key(7), family, params, v, **{"num_steps": 500} | options
    )


def test_annealing_is_within_a_tenth_of_enumeration():
    """There over free energies; back over the joint ones of a deep machine."""
    family, deep = rbm.family(12, 8), dbm.family((6, 5, 4), num_updates=2)
    params, deep_params = machine(family, scale=0.8), machine(deep)
    log_z = float(jax.jit(rbm.log_partition)(params))
    kinds = dbm.layer_kinds(2)
    deep_log_z = float(dbm.log_partition(deep_params, kinds=kinds))
    base = proximal.without_weights(params) | {"visible_bias": jnp.ones(12)}
    for truth, found in (
        (log_z, annealed(family, params, 12, base=base)),
        (deep_log_z, annealed(deep, deep_params, 6, num_steps=1000, num_sweeps=200)),
    ):
        assert abs(found.log_z - truth) < 0.1
        assert found.low - 0.02 < truth < found.high + 0.02
        assert found.low < found.log_z < found.high
        assert found.effective_sample_size > 20


@pytest.mark.slow
@pytest.mark.parametrize("beta", [1 / 2.75, 1 / 2.25, 1 / 1.75])
def test_annealing_finds_the_partition_function_of_a_lattice(beta):
    """Of 4 x 4 spins, by all 2^16 states and by Kaufman's formula; there and back."""
    family = ising.family(16, edges=ising.square_lattice(4))
    params = {"bias": jnp.zeros(16), "couplings": jnp.full((32, 1, 1), beta)}
    base = {"bias": jnp.linspace(-0.3, 0.3, 16), "couplings": jnp.zeros((32, 1, 1))}
    energy_fn = functools.partial(family.energy, params)
    truth = float(exact.distribution(energy_fn, units.SPIN, 16).log_partition)
    with jax.enable_x64(True):
        kaufman = physics.kaufman_log_partition(jnp.float64(beta), 4)
    np.testing.assert_allclose(truth, float(kaufman), rtol=1e-6)
    up = jnp.ones((200, 16))
    for num_sweeps in (0, 100):
        found = likelihood.log_partition(
            jax.random.key(1),
            family,
            params,
            up,
            base=base,
            values=likelihood.SPINS,
            num_steps=500,
            num_sweeps=num_sweeps,
        )
        assert abs(found.log_z - truth) < 0.1
        assert found.low - 0.02 < truth < found.high + 0.02


def test_annealing_refuses_units_of_more_than_two_values():
    family = dbm.family((3, 2, 2), hidden=(units.GAUSSIAN, units.BERNOULLI))
    params = machine(family)
    with pytest.raises(ValueError, match="beside 0 and 1"):
        likelihood.log_partition(
            jax.random.key(0), family, params, jnp.zeros((2, 3)), num_steps=2
        )


@pytest.mark.slow
def test_float32_suffices_at_the_size_of_mnist():
    """Thousands of nats, thousands of terms: 784 visible units, 10 summed exactly."""
    family = rbm.family(784, 10)
    params = machine(family, scale=0.25)
    params["visible_bias"] -= 1.5
    found = likelihood.log_partition(
        jax.random.key(0), family, params, jnp.zeros((100, 784)), num_steps=1000
    )
    assert abs(found.log_z - float(rbm.log_partition(params))) < 0.2
    assert found.high - found.low < 0.4


def test_a_chain_that_never_moves_is_noticed():
    """The mutant without sweeps: its weights vary, and its estimate misses."""
    family, params = rbm.family(12, 8), machine(rbm.family(12, 8), scale=1.5)
    stuck = family._replace(sweep=lambda key, params, chain, beta: chain)
    found = annealed(stuck, params, 12)
    assert abs(found.log_z - float(rbm.log_partition(params))) > 1


@pytest.mark.slow
def test_free_energy_is_exact_for_one_layer_and_a_bound_for_two():
    params = machine(FAMILY)
    v = exact.states(units.BERNOULLI, 6)
    by_entropy = likelihood.free_energy(FAMILY._replace(energy=None), params, v)
    np.testing.assert_allclose(by_entropy, FAMILY.energy(params, v), atol=1e-4)
    deep = dbm.family((6, 5, 4))
    params = machine(deep)
    kinds = dbm.layer_kinds(2)
    bound = likelihood.free_energy(deep, params, v)
    truth = dbm.free_energy(params, v, kinds=kinds)
    assert jnp.all(bound > truth - 1e-4) and jnp.mean(bound - truth) < 1.0
    by_kind = dbm.variational_energy(params, deep.posterior(params, v), kinds=kinds)
    np.testing.assert_allclose(bound, by_kind, atol=1e-3)


def test_pseudo_likelihood_is_the_product_of_conditionals():
    params = machine(FAMILY)
    energy_fn = functools.partial(FAMILY.energy, params)
    whole = exact.distribution(energy_fn, units.BERNOULLI, 6)
    probs = np.exp(np.asarray(whole.log_probs, np.float64)).reshape((2,) * 6)
    expected = sum(np.log(probs / probs.sum(axis=i, keepdims=True)) for i in range(6))
    found = likelihood.pseudo_log_likelihood(energy_fn, whole.states, jnp.arange(6))
    np.testing.assert_allclose(found, expected.ravel(), atol=1e-4)
    one = likelihood.pseudo_log_likelihood(energy_fn, whole.states, jnp.array([2]))
    first = np.log(probs / probs.sum(axis=2, keepdims=True))
    np.testing.assert_allclose(one, 6 * first.ravel(), atol=1e-4)


@pytest.mark.slow
def test_reports_against_enumeration():
    params = machine(FAMILY)
    x = 2.0 * np.random.RandomState(0).randint(0, 2, (40, 6)) - 1
    model = likelihood.Model(FAMILY, contrastive.bits((6,)), params=lambda state: state)
    free = np.asarray(FAMILY.energy(params, jnp.asarray((x + 1) / 2)))
    sets = {"few": x[:10], "all": x}
    found = {}
    for name, log_z_fn in {
        "exact": likelihood.by_enumeration(rbm.log_partition),
        "annealed": likelihood.by_annealing(
            model, {"hidden_bias": params["hidden_bias"]}, num_steps=500
        ),
    }.items():
        evaluate = likelihood.log_likelihood(model, sets, log_z_fn=log_z_fn)
        found[name] = evaluate(jax.random.key(0), params).metrics
    expected = -free[:10].mean() - float(rbm.log_partition(params))
    np.testing.assert_allclose(found["exact"]["few_log_likelihood"], expected, 1e-4)
    np.testing.assert_allclose(
        found["annealed"]["few_log_likelihood"], expected, atol=0.3
    )
    low, high = (found["annealed"][f"all_log_likelihood_{e}"] for e in ("low", "high"))
    assert low < found["annealed"]["all_log_likelihood"] < high
    report = likelihood.monitor(model, x[:10], x[10:])(jax.random.key(0), params)
    np.testing.assert_allclose(
        report.metrics["free_energy_gap"], free[10:].mean() - free[:10].mean(), 1e-4
    )
