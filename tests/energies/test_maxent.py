import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted

from megjax.energies import exact, ising, maxent, units

NET = ising.graph(4)


def features(v):
    """Every spin, then every pair."""
    i, j = NET.edges.T
    return jnp.concatenate([v, v[:, i] * v[:, j]], -1)


def multipliers(num=10, seed=0):
    return jnp.asarray(0.5 * np.random.RandomState(seed).randn(num))


def test_spins_and_pairs_are_the_ising_model():
    made, v = maxent.family(features, 10), exact.states(units.SPIN, 4)
    params = {"multipliers": multipliers()}
    same = {
        "bias": params["multipliers"][:4],
        "couplings": params["multipliers"][4:, None, None],
    }
    expected = ising.energy(same, v, net=NET)
    np.testing.assert_allclose(made.energy(params, v), expected, atol=1e-12)
    np.testing.assert_array_equal(made.joint(params, (v,)), made.energy(params, v))
    assert not made.init(jax.random.key(0))["multipliers"].any()


def test_dual_gradient_is_the_mismatch_of_expectations():
    listed = features(exact.states(units.SPIN, 4))
    target = 0.3 * multipliers(seed=1)
    gradient = jax.grad(maxent.dual)(multipliers(), listed, target)
    closed = maxent.dual_gradient(multipliers(), listed, target)
    np.testing.assert_allclose(closed, gradient, atol=1e-12)
    step = 1e-5 * jnp.eye(10)[3]
    up = maxent.dual(multipliers() + step, listed, target)
    down = maxent.dual(multipliers() - step, listed, target)
    np.testing.assert_allclose((up - down) / 2e-5, gradient[3], atol=1e-9)


def test_the_dual_ends_at_the_entropy_of_what_matches():
    # One spin with the mean 1/2: lambda = atanh(1/2).
    listed, target = jnp.array([[-1.0], [1.0]]), jnp.array([0.5])
    best = jnp.arctanh(target)
    np.testing.assert_allclose(
        maxent.dual_gradient(best, listed, target), [0], atol=1e-15
    )
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(maxent.dual(best, listed, target), entropy, rtol=1e-12)


def test_the_gradient_of_an_expectation_is_centred():
    # Finite differences of <s_0 s_1 s_2> over four spins, as in T2.
    v = exact.states(units.SPIN, 4)
    values, listed = v[:, 0] * v[:, 1] * v[:, 2], features(v)

    def expectation(theta):
        return jax.nn.softmax(listed @ theta) @ values

    theta = multipliers()
    probs = jax.nn.softmax(listed @ theta)
    found = maxent.expectation_gradient(-listed, values, probs)
    steps = 1e-5 * jnp.eye(10)
    slopes = [(expectation(theta + s) - expectation(theta - s)) / 2e-5 for s in steps]
    np.testing.assert_allclose(found, jnp.array(slopes), atol=1e-9)
    # What is printed, <O f>, is another number, and so is its negative.
    printed = probs @ (-listed * values[:, None])
    assert np.all(np.abs(printed - found) > 1e-3)
    assert np.max(np.abs(-printed - found)) > 0.1


def test_samples_give_that_gradient_without_bias():
    listed = features(exact.states(units.SPIN, 4))
    values = listed[:, 0] * listed[:, 9]
    probs = jax.nn.softmax(listed @ multipliers())
    exactly = maxent.expectation_gradient(-listed, values, probs)
    # The mean over all ordered pairs of draws, each estimating from two samples.
    i, j = jnp.divmod(jnp.arange(256), 16)
    weights = probs[i] * probs[j]
    pairs = jnp.stack([i, j], -1)
    found = jax.vmap(
        lambda pair: maxent.expectation_gradient(-listed[pair], values[pair])
    )(pairs)
    np.testing.assert_allclose(weights @ found, exactly, atol=1e-12)


@pytest.mark.parametrize("kind", [units.SPIN, units.potts(3)])
def test_sweeps_leave_the_distribution_invariant(kind):
    num_units = 3

    def energy(v):
        first, last = v[:, 0], v[:, -1]
        return 0.7 * first * last - 0.4 * jnp.sum(v * jnp.arange(v.shape[1]), -1)

    v = exact.states(kind, num_units)
    log_probs = []
    before, after = np.repeat(v, len(v), 0), np.tile(v, (len(v), 1))
    sites = iter(range(num_units))

    def scripted_choice(key, logits):
        site = next(sites) * kind.width
        wanted = after[:, site : site + kind.width]
        index = np.argmax((wanted[:, None] == kind.states[None]).all(-1), axis=1)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), index[:, None], 1)
        log_probs.append(chosen[:, 0])
        return jnp.asarray(index)

    beta = jnp.full(len(before), 0.8)
    with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
        patch.setattr(jax.random, "categorical", scripted_choice)
        found = maxent.single_site_sweep(
            jax.random.key(0), energy, jnp.asarray(before), beta, kind=kind
        )
    np.testing.assert_array_equal(found, after)
    matrix = np.exp(np.sum(log_probs, 0)).reshape(len(v), len(v))
    scripted.check_invariance(matrix, energy(v), 0.8)


def test_drawn_sweeps_converge_to_the_distribution():
    made, num = maxent.family(features, 10), 40_000
    params = {"multipliers": multipliers()}
    found = exact.distribution(lambda v: made.energy(params, v), units.SPIN, 4)
    v = exact.sample(jax.random.key(0), found, num)
    (swept,) = jax.jit(made.sweep)(jax.random.key(1), params, (v,), 1.0)
    assert np.mean(swept != v) > 0.1
    scripted.check_frequencies(swept, found.states, np.exp(found.log_probs))


def test_real_units_have_no_sweep():
    assert maxent.family(lambda x: -(x**2), 3, kind=units.GAUSSIAN).sweep is None
