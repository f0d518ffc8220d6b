"""Leapfrog by hand and backwards, HMC against exact moments and blackjax."""

import functools

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.densities import targets
from megjax.samplers import adaptation, hmc, kernel, mala, preconditioner

FACTOR = jnp.array([[0.7, 0.0], [-0.3, 0.5]])


def normal(x):
    return -0.5 * jnp.sum(x**2)


def init_fn(log_density):
    return functools.partial(mala.init, log_density_fn=log_density, has_aux=False)


@functools.partial(jax.jit, static_argnames=("log_density", "num_steps"))
def pathed(log_density, x, momentum, *, step_size, num_steps, factor=None):
    init = init_fn(log_density)
    path = hmc.Path(step_size, num_steps, factor)
    return hmc.leapfrog(init(x), momentum, init_fn=init, path=path)


@functools.partial(jax.jit, static_argnums=0)
def stepped(sampler, keys, x):
    return jax.vmap(sampler.step)(keys, jax.vmap(sampler.init)(x))


def test_one_step_by_hand():
    # x = 1, v = 2, e = .1: v' = 2 - .05, x = 1 + .195, v = 1.95 - .05 * 1.195.
    state, momentum = pathed(
        normal, jnp.ones(1), jnp.full(1, 2.0), step_size=0.1, num_steps=1
    )
    np.testing.assert_allclose(state.position, [1.195], rtol=1e-6)
    np.testing.assert_allclose(momentum, [1.89025], rtol=1e-6)
    # The kinetic and potential energies at both ends.
    start = init_fn(normal)(jnp.ones(1))
    ratio = hmc.log_ratio(start, jnp.full(1, 2.0), state, momentum)
    error = 0.5 * (1 + 4 - 1.195**2 - 1.89025**2)
    np.testing.assert_allclose(ratio, error, rtol=1e-3)


def test_the_end_is_the_sum_of_kicks():
    """x_n = x_0 + n e v_0 - n e^2 dU(x_0) / 2 - e^2 sum_i (n - i) dU(x_i).

    Li et al. 2021 print n with the wrong sign and without its square.
    """
    target, e, num = targets.moon(), 0.1, 5
    with jax.enable_x64(True):
        x, v = jnp.array([0.3, -3.0]), jnp.array([1.0, -0.5])
        path = [pathed(target.log_density, x, v, step_size=e, num_steps=n)[0].position
                for n in range(1, num + 1)]  # fmt: skip
        gradient = jax.grad(lambda x: -target.log_density(x))
        end = x + num * e * v - num * e**2 / 2 * gradient(x)
        for i in range(1, num):
            end -= e**2 * (num - i) * gradient(path[i - 1])
        np.testing.assert_allclose(end, path[-1], rtol=1e-12)


@pytest.mark.parametrize("factor", [None, [0.5, 2.0], FACTOR])
def test_leapfrog_is_its_own_inverse(factor):
    log_density = targets.moon().log_density
    with jax.enable_x64(True):
        factor = None if factor is None else jnp.asarray(factor, jnp.float64)
        path = {"step_size": 0.2, "num_steps": 20, "factor": factor}
        x, v = jnp.array([0.3, -3.0]), jnp.array([1.0, -0.5])
        state, end = pathed(log_density, x, v, **path)
        back, minus_v = pathed(log_density, state.position, -end, **path)
        np.testing.assert_allclose(back.position, x, atol=1e-10)
        np.testing.assert_allclose(-minus_v, v, atol=1e-10)
        assert np.linalg.norm(state.position - x) > 0.5
        start = init_fn(log_density)(x)
        there = hmc.log_ratio(start, v, state, end)
        again = hmc.log_ratio(state, -end, back, minus_v)
        np.testing.assert_allclose(there, -again, atol=1e-10)


def test_leapfrog_preserves_volume():
    log_density = targets.moon().log_density

    def flow(point):
        state, end = pathed(
            log_density, *jnp.split(point, 2), step_size=0.2, num_steps=4, factor=FACTOR
        )
        return jnp.concatenate([state.position, end])

    jacobian = jax.jit(jax.jacfwd(flow))(jnp.array([0.3, -3.0, 1.0, -0.5]))
    np.testing.assert_allclose(np.linalg.det(jacobian), 1, rtol=1e-4)


def test_one_leapfrog_step_is_mala():
    """Of step size e^2 / 2: same move from the same noise, same ratio."""
    e, log_density = 0.7, targets.moon().log_density
    keys = jax.random.split(jax.random.key(0), 50)
    x = targets.moon().sample(jax.random.key(1), 50)
    one = hmc.hmc(log_density, step_size=e, num_integration_steps=1, factor=FACTOR)
    langevin = mala.mala(log_density, step_size=e**2 / 2, factor=FACTOR)
    ours, ours_info = stepped(one, keys, x)
    theirs, info = stepped(langevin, keys, x)
    np.testing.assert_allclose(ours.position, theirs.position, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        ours_info.acceptance_rate, info.acceptance_rate, rtol=1e-3
    )


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def walked(sampler, keys, x, num_steps, observe):
    def run(key, x):
        return kernel.chain(key, sampler, sampler.init(x), num_steps, observe=observe)

    return jax.vmap(run)(keys, x)


def position(state):
    return state.position


@pytest.mark.parametrize("unroll", [False, True])
def test_moments_of_a_correlated_normal(unroll):
    target = targets.gaussian("", np.array([[2.0, -1.6], [-1.6, 2.0]]))
    sampler = hmc.hmc(
        target.log_density, step_size=0.5, num_integration_steps=3, unroll=unroll
    )
    keys = jax.random.split(jax.random.key(0), 500)
    x = jnp.zeros((500, 2))
    record = walked(sampler, keys, x, 80, position)[1]
    late = np.asarray(record.observations, np.float64)[:, 30:]
    products = np.stack([late[..., 0] ** 2, late[..., 0] * late[..., 1]], -1).mean(1)
    for found, exact in zip(products.T, (2.0, -1.6)):
        error = found.std() / np.sqrt(len(found))
        assert abs(found.mean() - exact) < 4 * error < 0.3
    assert 0.6 < np.mean(record.infos.is_accepted) < 1


@pytest.mark.parametrize("mass", ["identity", "diagonal", "dense"])
def test_agrees_with_blackjax(mass):
    """The same path from the same momentum; theirs is drawn, then handed to ours."""
    log_density = targets.moon().log_density
    factor = {"identity": None, "diagonal": jnp.array([0.5, 2.0]), "dense": FACTOR}
    factor = factor[mass]
    inverse_mass = jnp.ones(2) if factor is None else factor**2
    if mass == "dense":
        inverse_mass = factor @ factor.T
    theirs = blackjax.hmc(log_density, 0.3, inverse_mass, 5)
    x = targets.moon().sample(jax.random.key(1), 50)
    keys = jax.random.split(jax.random.key(2), 50)
    _, info = stepped(theirs, keys, x)

    def ours(x, velocity_momentum):
        # Their momentum has covariance M; ours is L^T times it, a standard normal.
        momentum = preconditioner.transposed(factor, velocity_momentum)
        state, end = pathed(
            log_density, x, momentum, step_size=0.3, num_steps=5, factor=factor
        )
        return state.position, hmc.log_ratio(
            init_fn(log_density)(x), momentum, state, end
        )

    ends, ratios = jax.jit(jax.vmap(ours))(x, info.momentum)
    np.testing.assert_allclose(ends, info.proposal.position, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        jnp.exp(jnp.minimum(ratios, 0)), info.acceptance_rate, rtol=2e-3, atol=1e-5
    )


def test_divergences_are_rejected_and_counted():
    steep = hmc.hmc(lambda x: -jnp.sum(x**4), step_size=1.0, num_integration_steps=3)
    keys = jax.random.split(jax.random.key(0), 20)
    x = jnp.full((20, 2), 3.0)
    states, infos = stepped(steep, keys, x)
    assert np.all(infos.is_divergent) and not np.any(infos.is_accepted)
    np.testing.assert_array_equal(states.position, x)
    # A finite path can diverge as well.
    barely = hmc.hmc(normal, step_size=2.5, num_integration_steps=6)
    _, infos = stepped(barely, keys, x)
    assert np.any(infos.is_divergent)
    assert np.all(jnp.where(infos.is_divergent, infos.acceptance_rate, 0) == 0)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_step_evaluates_one_gradient_per_leapfrog_step(num_steps):
    evaluations = []

    def counted(x):
        jax.debug.callback(evaluations.append, 1)
        return normal(x)

    sampler = hmc.hmc(counted, step_size=0.1, num_integration_steps=num_steps)
    state = sampler.init(jnp.ones(2))
    jax.effects_barrier()
    evaluations.clear()
    jax.jit(sampler.step)(jax.random.key(0), state)
    jax.effects_barrier()
    assert len(evaluations) == num_steps


def test_the_step_size_adapts():
    keys = jax.random.split(jax.random.key(0), 32)
    x = jax.random.normal(jax.random.key(1), (32, 32))
    make = functools.partial(hmc.hmc, normal, num_integration_steps=5)

    @jax.jit
    def tuned(keys, x):
        return adaptation.warm_up(
            keys,
            lambda e: make(step_size=e),
            jax.vmap(make(step_size=1.0).init)(x),
            adaptation.tuner(0.1),
            100,
            target_acceptance=hmc.TARGET_ACCEPTANCE,
        )

    states, tuner = tuned(keys, x)
    fixed = make(step_size=adaptation.step_size(tuner))
    keys = jax.random.split(jax.random.key(2), 32)
    infos = jax.jit(jax.vmap(fixed.step))(keys, states)[1]
    assert abs(np.mean(infos.acceptance_rate) - hmc.TARGET_ACCEPTANCE) < 0.2


def test_aux_follows_the_position():
    sampler = hmc.hmc(
        lambda x: (normal(x), 3 * x),
        step_size=1.3,
        num_integration_steps=2,
        has_aux=True,
    )
    states = walked(sampler, jax.random.split(jax.random.key(0), 1), jnp.ones((1, 2)),
                    50, lambda s: s)[1]  # fmt: skip
    assert 0 < np.mean(states.infos.is_accepted) < 1
    found = states.observations
    np.testing.assert_array_equal(found.aux, 3 * found.position)


@pytest.mark.parametrize(
    ("jitter", "lowest", "highest"), [(0, 0.95, 1), (1, -0.2, 0.2)]
)
def test_a_jitter_ends_a_period(jitter, lowest, highest):
    """Of a normal the period is 2 pi; over sizes that are uniform cos t has mean 0."""
    sampler = hmc.hmc(
        normal, step_size=2 * np.pi / 63, num_integration_steps=63, jitter=jitter
    )
    keys = jax.random.split(jax.random.key(0), 500)
    x = jax.random.normal(jax.random.key(1), (500, 1))
    state, _ = stepped(sampler, keys, x)
    assert lowest < np.corrcoef(x[:, 0], state.position[:, 0])[0, 1] <= highest


@pytest.mark.parametrize("jitter", [-0.1, 1.5, np.nan])
def test_a_jitter_is_a_share(jitter):
    with pytest.raises(ValueError, match=f"jitter={jitter}: give a number"):
        hmc.hmc(normal, step_size=0.1, jitter=jitter)


def test_a_path_has_steps():
    with pytest.raises(
        ValueError, match="num_integration_steps=0: give a whole number fr"
    ):
        hmc.hmc(normal, step_size=0.1, num_integration_steps=0)
