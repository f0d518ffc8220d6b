"""MALA against exact moments, explicit proposals, blackjax, and its known mistakes."""

import functools

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import stats

from megjax.samplers import kernel, mala, preconditioner
from megjax.samplers.kernel import Kernel


def normal(x):
    return -0.5 * jnp.sum(x**2)


def skewed(x):
    """A correlated, non-Gaussian density with fourth-order tails."""
    turned = x[1] - 0.3 * x[0] ** 2
    return -0.5 * x[0] ** 2 - turned**2 - 0.05 * x[1] ** 4


def pairs(num, dim=2, step_size=0.4):
    """States and proposals drawn far from and near to each other."""
    langevin = mala.mala(skewed, step_size=step_size)
    a, b = jax.random.normal(jax.random.key(0), (2, num, dim))
    return jax.vmap(langevin.init)(a), jax.vmap(langevin.init)(b)


def test_log_ratio_by_hand():
    # p = exp(-x^2 / 2), x = 0 -> x' = 1, a = 1/2: q(1|0) ~ exp(-1/2),
    # q(0|1) ~ exp(-(0 - 1 + 1/2)^2 / 2) = exp(-1/8), so r = exp(-1/2 - 1/8 + 1/2).
    langevin = mala.mala(normal, step_size=0.5)
    state, proposal = langevin.init(jnp.zeros(1)), langevin.init(jnp.ones(1))
    ratio = mala.log_ratio(state, proposal, step_size=0.5)
    np.testing.assert_allclose(ratio, -0.125, rtol=1e-6)


def test_log_ratio_is_that_of_the_gaussian_proposals():
    a = 0.4

    def log_q(to, state):
        mean = state.position + a * jax.grad(skewed)(state.position)
        return jnp.sum(stats.norm.logpdf(to, mean, jnp.sqrt(2 * a)))

    def explicit(x, y):
        forward, backward = log_q(y.position, x), log_q(x.position, y)
        return skewed(y.position) + backward - skewed(x.position) - forward

    x, y = pairs(100, step_size=a)
    ours = jax.vmap(functools.partial(mala.log_ratio, step_size=a))(x, y)
    np.testing.assert_allclose(ours, jax.vmap(explicit)(x, y), rtol=2e-4, atol=2e-4)


def test_detailed_balance_the_log_ratio_is_antisymmetric():
    x, y = pairs(100)
    ratio = jax.vmap(functools.partial(mala.log_ratio, step_size=0.4))
    assert np.std(ratio(x, y)) > 1
    np.testing.assert_allclose(ratio(x, y), -ratio(y, x), rtol=1e-5, atol=1e-5)


def test_the_cached_gradient_is_that_of_finite_differences():
    langevin, key = mala.mala(skewed, step_size=0.4), jax.random.key(1)
    state = langevin.init(jnp.array([0.5, -0.5]))
    for _ in range(5):
        key, step_key = jax.random.split(key)
        state, _ = langevin.step(step_key, state)
        x, h = np.asarray(state.position), 1e-2
        differences = [
            (skewed(x + h * e) - skewed(x - h * e)) / (2 * h) for e in np.eye(2)
        ]
        np.testing.assert_allclose(state.gradient, differences, rtol=5e-3, atol=5e-3)
        np.testing.assert_allclose(state.log_density, skewed(x), rtol=1e-5)


def caches_agree(langevin, steps=60):
    """Accepted moves, and whether the cached gradient is the position's throughout."""
    start = langevin.init(jnp.array([0.5, -0.5]))
    _, record = kernel.chain(jax.random.key(1), langevin, start, steps)
    states = record.observations
    gradient = jax.vmap(jax.grad(skewed))(states.position)
    agree = np.allclose(states.gradient, gradient, rtol=1e-4, atol=1e-5)
    return int(np.sum(record.infos.is_accepted)), agree


def test_the_cache_follows_accepted_and_rejected_moves():
    accepted, agree = caches_agree(mala.mala(skewed, step_size=0.8))
    # Both branches of the accept step must have been taken for this to say anything.
    assert 5 < accepted < 55
    assert agree


def test_a_rejected_proposals_gradient_is_noticed():
    """Too weak a bias for moments to show at this size, so the cache itself is read."""
    right = mala.mala(skewed, step_size=0.8)

    def step(key, state):
        moved, info = right.step(key, state)
        # The proposal as the right kernel made it, from the same key.
        noise, _ = kernel.noise(key, state.position)
        drift = 0.8 * state.gradient + jnp.sqrt(1.6) * noise
        proposal = right.init(state.position + drift)
        return moved._replace(gradient=proposal.gradient), info

    accepted, agree = caches_agree(Kernel(right.init, step))
    assert accepted < 60
    assert not agree


def test_a_step_evaluates_one_gradient():
    evaluations = []

    def counted(x):
        evaluations.append(1)
        return normal(x)

    langevin = mala.mala(counted, step_size=0.1)
    state = langevin.init(jnp.ones(2))
    evaluations.clear()
    jax.jit(functools.partial(kernel.chain, jax.random.key(0), langevin, num_steps=10))(
        state
    )
    assert len(evaluations) == 1


def test_aux_follows_the_position():
    langevin = mala.mala(lambda x: (normal(x), 3 * x), step_size=1.0, has_aux=True)
    start = langevin.init(jnp.ones(2))
    _, record = kernel.chain(jax.random.key(0), langevin, start, 50)
    states = record.observations
    assert 0 < np.mean(record.infos.is_accepted) < 1
    np.testing.assert_array_equal(states.aux, 3 * states.position)


@pytest.mark.parametrize("a, acceptance", [(0.01, 0.997), (0.1, 0.899), (0.3, 0.512)])
def test_variance_and_acceptance_in_128_dimensions(a, acceptance):
    """Stationary N(0, I): variance 1, acceptance .997, .899, .512."""
    dim, chains, steps = 128, 64, 300
    x = jax.random.normal(jax.random.key(2), (chains, dim))
    positions, infos = trajectories(mala.mala(normal, step_size=a), x, steps)
    # Chains are independent, so their spread gives the standard errors.
    variance = np.mean(np.asarray(positions) ** 2, axis=(1, 2))
    error = variance.std(ddof=1) / np.sqrt(chains)
    assert abs(variance.mean() - 1) < 4 * error < 0.05
    rate = np.asarray(infos.is_accepted).mean(axis=1)
    error = rate.std(ddof=1) / np.sqrt(chains)
    assert abs(rate.mean() - acceptance) < 4 * error + 0.0005 < 0.05
    assert not np.any(infos.is_divergent)


def trajectories(langevin, x, steps):
    @jax.jit
    def run(key, x):
        state = langevin.init(x)
        _, record = kernel.chain(
            key, langevin, state, steps, observe=lambda state: state.position
        )
        return record

    return jax.vmap(run)(jax.random.split(jax.random.key(3), len(x)), x)


def test_agrees_with_blackjax():
    """Same convention of the step size, same ratio on the same pair of points."""
    a = 0.4
    x, y = pairs(50, step_size=a)
    theirs = jax.vmap(functools.partial(blackjax_log_ratio, a))(x, y)
    ours = jax.vmap(functools.partial(mala.log_ratio, step_size=a))(x, y)
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)

    other = blackjax.mala(skewed, a)
    starts = jax.random.normal(jax.random.key(4), (128, 2))
    ours = summaries(*trajectories(mala.mala(skewed, step_size=a), starts, 300))
    theirs = summaries(*trajectories(adapted(other), starts, 300))
    difference = ours.mean(0) - theirs.mean(0)
    error = np.sqrt((ours.var(0) + theirs.var(0)) / len(starts))
    assert np.all(np.abs(difference) < 4 * error), difference / error
    assert np.all(error < 0.05)


@pytest.mark.parametrize("factor", [[0.5, 2.0], [[0.5, 0.0], [-1.0, 2.0]]])
def test_preconditioning_is_mala_in_other_coordinates(factor):
    """With x = L y, the density of y is p(L y): same moves, same ratios."""
    factor = jnp.array(factor)

    def unstretched(y):
        return skewed(preconditioner.scaled(factor, y))

    right = mala.mala(skewed, step_size=0.1, factor=factor)
    plain = mala.mala(unstretched, step_size=0.1)
    y = 0.5 * jax.random.normal(jax.random.key(0), (100, 2))
    x = jax.vmap(functools.partial(preconditioner.scaled, factor))(y)
    keys = jax.random.split(jax.random.key(1), 100)
    step = jax.jit(lambda one, keys, x: jax.vmap(one.step)(keys, jax.vmap(one.init)(x)),
                   static_argnums=0)  # fmt: skip
    (x_end, x_info), (y_end, y_info) = step(right, keys, x), step(plain, keys, y)
    np.testing.assert_allclose(
        x_info.acceptance_rate, y_info.acceptance_rate, rtol=2e-3, atol=1e-5
    )
    assert 10 < np.sum(x_info.is_accepted) < 90
    mapped = jax.vmap(functools.partial(preconditioner.scaled, factor))(y_end.position)
    np.testing.assert_allclose(x_end.position, mapped, rtol=1e-4, atol=1e-4)


def blackjax_log_ratio(step_size, state, proposal):
    from blackjax.mcmc import proposal as proposals

    def energy(x, y):
        back = x.position - y.position - step_size * y.gradient
        return -y.log_density + jnp.sum(back**2) / (4 * step_size)

    return proposals.compute_asymmetric_acceptance_ratio(energy)(state, proposal)


def adapted(other):
    """A blackjax sampler behind our contract."""

    def step(key, state):
        state, info = other.step(key, state)
        return state, kernel.Info(info.acceptance_rate, info.is_accepted, False)

    return Kernel(other.init, step)


def summaries(positions, infos):
    """Per chain: means, second moments, a mixed third one, acceptance [chains, 6]."""
    x = np.asarray(positions)[:, 100:]
    third = np.mean(x[..., 0] ** 2 * x[..., 1], axis=1)
    rate = np.asarray(infos.acceptance_rate).mean(axis=1)
    columns = [x.mean(1), (x**2).mean(1), third[:, None], rate[:, None]]
    return np.concatenate(columns, axis=1)


def invariance_z(kernel_under_test, dim, num_chains=4000, num_steps=20):
    """Largest z-score of moments after steps from exact draws of N(0, I)."""
    x = jax.random.normal(jax.random.key(5), (num_chains, dim))
    keys = jax.random.split(jax.random.key(6), num_chains)

    @jax.jit
    @jax.vmap
    def run(key, x):
        return kernel.chain(
            key, kernel_under_test, kernel_under_test.init(x), num_steps
        )[0].position

    end = np.asarray(run(keys, x), np.float64)
    mean = end.mean() * np.sqrt(end.size)
    square = (np.mean(end**2) - 1) * np.sqrt(end.size / 2)
    fourth = (np.mean(end**4) - 3) * np.sqrt(end.size / 96)
    return np.nanmax(np.abs([mean, square, fourth]))


def mutant(ratio=mala.log_ratio, stale=False, reuse=False, a=0.5):
    """MALA with one mistake."""
    init = functools.partial(mala.init, log_density_fn=normal, has_aux=False)

    def step(key, state):
        noise, log_uniform = kernel.noise(key, state.position)
        move = a * state.gradient + jnp.sqrt(2 * a) * noise
        proposal = init(state.position + move)
        log_ratio = ratio(state, proposal, step_size=a)
        if reuse:
            log_uniform = jnp.log(stats.norm.cdf(noise[0]))
            accepted = log_uniform < log_ratio
            state = jax.tree.map(
                functools.partial(jnp.where, accepted), proposal, state
            )
            return state, kernel.Info(jnp.exp(log_ratio), accepted, False)
        moved, info = kernel.accepted_move(log_uniform, log_ratio, state, proposal)
        # Moves on without the gradient of where it moved to.
        return moved._replace(gradient=state.gradient) if stale else moved, info

    return Kernel(init, step)


def no_hastings(state, proposal, *, step_size):
    return proposal.log_density - state.log_density


def unsquared(state, proposal, *, step_size):
    def log_q(to, at):
        away = to.position - at.position - step_size * at.gradient
        return -jnp.linalg.norm(away) / (4 * step_size)

    target = proposal.log_density - state.log_density
    return target + log_q(state, proposal) - log_q(proposal, state)


@pytest.mark.parametrize("dim", [1, 10])
def test_leaves_the_target_invariant(dim):
    assert invariance_z(mala.mala(normal, step_size=0.5), dim) < 4
    assert invariance_z(mutant(), dim) < 4


@pytest.mark.parametrize(
    "mistake",
    [
        {"ratio": no_hastings},
        {"ratio": unsquared},
        {"ratio": lambda *_, step_size: jnp.float32(0)},
        {"stale": True},
        {"reuse": True},
    ],
    ids=["no Hastings term", "unsquared", "no rejection", "stale gradient", "one key"],
)
def test_known_mistakes_break_invariance(mistake):
    assert invariance_z(mutant(**mistake), dim=10) > 6


def test_the_unsquared_norm_has_the_published_bias():
    """Variance .538 and acceptance .106 at a = .1 in 128 dimensions."""
    x = jax.random.normal(jax.random.key(7), (32, 128))
    positions, infos = trajectories(mutant(unsquared, a=0.1), x, 1500)
    late = np.asarray(positions)[:, 500:]
    np.testing.assert_allclose(np.mean(late**2), 0.538, atol=0.02)
    rate = np.asarray(infos.is_accepted)[:, 500:].mean()
    np.testing.assert_allclose(rate, 0.106, atol=0.025)


def test_double_well_from_its_wells():
    """E x^2 = .852 for exp(-2 (x^2 - 1)^2), from starts at +-1 (tails stick)."""
    well = mala.mala(lambda x: -2 * jnp.sum((x**2 - 1) ** 2), step_size=0.1)
    x = jnp.tile(jnp.array([[1.0], [-1.0]]), (128, 1))
    positions, _ = trajectories(well, x, 500)
    square = np.mean(np.asarray(positions)[:, 100:] ** 2, axis=(1, 2))
    grid = np.linspace(-4, 4, 4001)
    density = np.exp(-2 * (grid**2 - 1) ** 2)
    exact = np.sum(grid**2 * density) / np.sum(density)
    np.testing.assert_allclose(exact, 0.852, atol=0.001)
    assert abs(square.mean() - exact) < 4 * square.std() / np.sqrt(len(square))
