import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from megjax.samplers import hmc, kernel, mala, rwm


def normal(x):
    return -0.5 * jnp.sum(x**2)


def accept(log_ratio, proposal, state=0.0, num=20_000):
    """Acceptances of one proposal under many keys."""
    keys = jax.random.split(jax.random.key(0), num)
    run = jax.vmap(kernel.metropolis, (0, None, None, None))
    return run(keys, jnp.float32(log_ratio), jnp.float32(state), jnp.float32(proposal))


def test_metropolis_accepts_with_the_given_probability():
    moved, info = accept(np.log(0.3), proposal=1.0)
    np.testing.assert_allclose(info.acceptance_rate, 0.3, rtol=1e-6)
    error = np.sqrt(0.3 * 0.7 / 20_000)
    assert abs(np.mean(info.is_accepted) - 0.3) < 4 * error
    np.testing.assert_array_equal(moved, np.asarray(info.is_accepted, np.float32))


def test_metropolis_always_accepts_an_uphill_move():
    _, info = accept(0.5, proposal=1.0)
    assert np.all(info.is_accepted) and np.all(info.acceptance_rate == 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_metropolis_rejects_what_is_not_finite(value):
    for log_ratio in (0.0, np.inf, np.nan):
        moved, info = accept(log_ratio, proposal=value, num=10)
        assert not np.any(info.is_accepted) and np.all(info.is_divergent)
        assert np.all(moved == 0) and np.all(info.acceptance_rate == 0)


def test_metropolis_rejects_a_nan_ratio_and_leaves_a_state_of_zero_density():
    assert not np.any(accept(np.nan, proposal=1.0, num=10)[1].is_accepted)
    moved, info = accept(np.inf, proposal=1.0, state=-np.inf, num=10)
    assert np.all(info.is_accepted) and np.all(moved == 1)


FACTORS = {
    "identity": None,
    "diagonal": jnp.array([2.0, 0.5]),
    "dense": jnp.array([[1.0, 0.0], [-0.5, 1.0]]),
}


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("sampler", ["mala", "hmc"])
def test_no_gradient_kernel_moves_to_what_is_not_finite(sampler, factor):
    """These look at fewer numbers than the proposal has."""
    own = {"factor": FACTORS[factor]} if sampler == "mala" else {}
    if sampler == "hmc":
        own["path"] = hmc.Path(0.5, 1, FACTORS[factor], unroll=False)
    else:
        own["step_size"] = 0.5
    module = {"mala": mala, "hmc": hmc}[sampler]
    plain = mala.State(jnp.ones(2), jnp.float32(-1), -jnp.ones(2), jnp.float32(0))

    def step(key, log_density, bad):
        """With one of `bad` [4], the others 0, in a field of the proposal."""

        def planted(position):
            leaves = position, jnp.float32(0), -position, jnp.float32(0)
            fields = [jnp.ravel(leaf).at[0].add(b) for leaf, b in zip(leaves, bad)]
            return mala.State(*map(jnp.reshape, fields, map(jnp.shape, leaves)))

        state = plain._replace(log_density=log_density)
        return module.step(key, state, init_fn=planted, **own)

    values = np.repeat([np.nan, np.inf, -np.inf], 4)
    bad = np.where(np.tile(np.eye(4, dtype=bool), (3, 1)), values[:, None], 0)
    keys = jax.random.split(jax.random.key(0), 100)
    over_keys = jax.vmap(step, (0, None, None))
    over_values = jax.vmap(over_keys, (None, None, 0))
    run = jax.jit(jax.vmap(over_values, (None, 0, None)))
    moved, info = run(keys, jnp.array([-1.0, -jnp.inf]), jnp.asarray(bad))
    assert info.is_divergent.shape == (2, 12, 100) and np.all(info.is_divergent)
    assert not np.any(info.is_accepted) and not np.any(info.acceptance_rate)
    assert np.all(moved.position == 1)
    _, info = run(keys, jnp.array([-1.0]), jnp.zeros((1, 4)))
    assert not np.any(info.is_divergent) and np.any(info.is_accepted)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_noise_is_normal_uniform_and_independent(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        keys = jax.random.split(jax.random.key(0), 5000)
        draw = jax.jit(jax.vmap(lambda key: kernel.noise(key, jnp.zeros((3,), dtype))))
        normal, log_uniform = draw(keys)
    assert normal.dtype == dtype and normal.shape == (5000, 3)
    normal, uniform = np.float64(normal), np.exp(np.float64(log_uniform))
    assert np.all(np.isfinite(normal)) and np.all(np.isfinite(log_uniform))
    if dtype != jnp.bfloat16:
        for column in normal.T:
            assert stats.kstest(column, "norm").pvalue > 1e-3
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    together = np.corrcoef(np.column_stack([normal, normal**2, uniform]).T)
    assert np.all(np.abs(together - np.eye(7)) < 5 / np.sqrt(5000))


def test_noise_fills_any_shape():
    normal, log_uniform = kernel.noise(jax.random.key(0), jnp.zeros((2, 3, 1)))
    assert normal.shape == (2, 3, 1) and log_uniform.shape == ()
    assert kernel.noise(jax.random.key(0), jnp.float32(0))[0].shape == ()


def test_a_chain_never_enters_a_region_where_the_density_is_nan():
    # Square roots of negative numbers left of zero.
    half_normal = rwm.rwm(lambda x: -0.5 * x**2 + 0 * jnp.sqrt(x), step_size=1.0)
    state = half_normal.init(jnp.float32(1.0))
    _, record = kernel.chain(jax.random.key(1), half_normal, state, 400)
    assert np.all(record.observations.position > 0)
    rejected = np.asarray(record.infos.is_divergent)
    assert 0.1 < rejected.mean() < 0.5
    assert np.all(np.asarray(record.infos.is_accepted)[rejected == 1] == 0)


def test_a_chain_in_pieces_equals_the_chain_in_one():
    langevin, key = mala.mala(normal, step_size=0.3), jax.random.key(2)
    start = langevin.init(jnp.ones(3))
    whole, record = kernel.chain(key, langevin, start, 12)
    state, first = kernel.chain(key, langevin, start, 5)
    state, second = kernel.chain(key, langevin, state, 7, start=5)
    np.testing.assert_array_equal(state.position, whole.position)
    pieces = np.concatenate([first.observations.position, second.observations.position])
    np.testing.assert_array_equal(pieces, record.observations.position)


def test_thinning_keeps_window_ends_and_window_means():
    langevin, key = mala.mala(normal, step_size=1.5), jax.random.key(3)
    start = langevin.init(jnp.ones(3))
    full_end, full = kernel.chain(key, langevin, start, 12)
    end, thinned = kernel.chain(
        key, langevin, start, 12, thin=4, observe=lambda state: state.position
    )
    np.testing.assert_array_equal(end.position, full_end.position)
    np.testing.assert_array_equal(
        thinned.observations, full.observations.position[3::4]
    )
    np.testing.assert_allclose(
        thinned.infos.is_accepted,
        full.infos.is_accepted.reshape(3, 4).mean(1),
        rtol=1e-6,
    )


def test_unrolling_changes_nothing_and_leaves_no_loop():
    langevin, key = mala.mala(normal, step_size=0.3), jax.random.key(4)

    def end(start, num, unroll):
        return kernel.chain(key, langevin, start, num, unroll=unroll)[0].position

    def loops(num, unroll):
        run = jax.jit(end, static_argnums=(1, 2)).lower(start, num, unroll)
        return run.as_text().count("stablehlo.while")

    start = langevin.init(jnp.ones(3))
    np.testing.assert_allclose(end(start, 3, True), end(start, 3, False), rtol=1e-6)
    assert loops(1, True) < loops(1, False)
    assert loops(3, True) < loops(3, False)


def test_thin_must_divide_the_steps():
    langevin = mala.mala(normal, step_size=0.3)
    with pytest.raises(ValueError, match="thin=5 must divide num_steps=12"):
        kernel.chain(
            jax.random.key(0), langevin, langevin.init(jnp.ones(2)), 12, thin=5
        )
