import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import ranks

from megjax.densities import targets
from megjax.samplers import gradient_adaptive, kernel, mala

SCG = targets.strongly_correlated_gaussian()


@functools.partial(jax.jit, static_argnames=("log_density", "num", "dense"))
def learned(key, x, *, log_density, num, dense=True):
    init = mala.mala(log_density, step_size=1.0).init
    return gradient_adaptive.warm_up(
        jax.random.split(key, len(x)),
        log_density,
        jax.vmap(init)(x),
        gradient_adaptive.adaptation(x.shape[1], dense=dense),
        num,
    )


def test_factor_by_hand():
    shape = gradient_adaptive.Shape(
        jnp.log(jnp.array([2.0, 3.0])), jnp.array([[9.0, 9.0], [0.5, 9.0]])
    )
    factor = gradient_adaptive.factor(shape)
    np.testing.assert_allclose(factor, [[2, 0], [1, 3]], rtol=1e-6)
    diagonal = gradient_adaptive.factor(shape._replace(off_diagonal=None))
    np.testing.assert_allclose(diagonal, [2, 3], rtol=1e-6)
    start = gradient_adaptive.adaptation(4)
    np.testing.assert_allclose(
        gradient_adaptive.factor(start.shape), 0.05 * np.eye(4), rtol=1e-6
    )


@pytest.mark.slow
def test_the_shape_of_a_narrow_normal_is_learned():
    x = SCG.sample(jax.random.key(0), 32)
    states, adaptation = learned(
        jax.random.key(1), x, log_density=SCG.log_density, num=1200
    )
    factor = np.asarray(gradient_adaptive.factor(adaptation.shape), np.float64)
    covariance = factor @ factor.T
    exact = np.array([[50.05, -49.95], [-49.95, 50.05]])
    # A multiple of the target's covariance.
    ratio = np.linalg.eigvals(np.linalg.solve(exact, covariance))
    assert np.max(ratio) / np.min(ratio) < 1.5
    fixed = gradient_adaptive.adapted(SCG.log_density, adaptation)
    run = jax.jit(jax.vmap(lambda k, s: kernel.chain(k, fixed, s, 100)[1].infos))
    infos = run(jax.random.split(jax.random.key(2), 32), states)
    assert abs(np.mean(infos.acceptance_rate) - 0.55) < 0.1
    assert ranks.p_value(jax.random.key(3), fixed, SCG) > 1e-4


def test_a_diagonal_shape_learns_scales():
    target = targets.ill_conditioned_gaussian(8)
    x = target.sample(jax.random.key(0), 32)
    _, adaptation = learned(
        jax.random.key(1), x, log_density=target.log_density, num=800, dense=False
    )
    scales = gradient_adaptive.factor(adaptation.shape) / np.sqrt(
        target.moments.variance
    )
    assert np.max(scales) / np.min(scales) < 1.5


def test_the_gradient_is_that_of_the_objective_with_constant_density_gradients():
    """By differences of log r, for the moves of one noise, and beta log det L."""
    init = mala.mala(SCG.log_density, step_size=1.0).init
    x, keys = SCG.sample(jax.random.key(0), 1), jax.random.split(jax.random.key(1), 1)
    with jax.enable_x64(True):
        x = jnp.asarray(x, jnp.float64)
        states = jax.vmap(init)(x)
        shape = gradient_adaptive.Shape(
            jnp.array([1.0, 0.2]), jnp.array([[0.0, 0.0], [-0.7, 0.0]])
        )
        gradient_fn = jax.grad(gradient_adaptive._objective, has_aux=True)
        gradient, _ = jax.jit(functools.partial(gradient_fn, init_fn=init))(
            shape, 0.3, keys, states
        )
        state = jax.tree.map(lambda leaf: leaf[0], states)
        normal, _ = kernel.noise(keys[0], state.position)

        @jax.jit
        def objective(log_scales, off, at):
            factor = gradient_adaptive.factor(gradient_adaptive.Shape(log_scales, off))
            step = 0.5 * factor @ factor.T @ state.gradient + factor @ normal
            end = init(state.position + step)
            # Log p moves, its gradient stays that of the unchanged L.
            end = end._replace(gradient=at)
            ratio = mala.log_ratio(state, end, step_size=0.5, factor=factor)
            return -jnp.minimum(ratio, 0) - 0.3 * jnp.sum(log_scales)

        factor = gradient_adaptive.factor(shape)
        step = 0.5 * factor @ factor.T @ state.gradient + factor @ normal
        at = init(state.position + step).gradient
        e = jnp.array([1e-6, 0.0])
        difference = (
            objective(shape.log_scales + e, shape.off_diagonal, at)
            - objective(shape.log_scales - e, shape.off_diagonal, at)
        ) / 2e-6
        np.testing.assert_allclose(gradient.log_scales[0], difference, rtol=1e-5)
        e = jnp.array([[0.0, 0.0], [1e-6, 0.0]])
        difference = (
            objective(shape.log_scales, shape.off_diagonal + e, at)
            - objective(shape.log_scales, shape.off_diagonal - e, at)
        ) / 2e-6
        np.testing.assert_allclose(gradient.off_diagonal[1, 0], difference, rtol=1e-5)
        assert abs(difference) > 0.1


def test_proposals_out_of_bounds_do_not_spoil_the_shape():
    def half(x):
        return jnp.where(x[0] > 0, -0.5 * jnp.sum(x**2) + jnp.log(x[0]), jnp.nan)

    x = jnp.abs(jax.random.normal(jax.random.key(0), (16, 2)))
    states, adaptation = learned(jax.random.key(1), x, log_density=half, num=300)
    assert np.all(np.isfinite(gradient_adaptive.factor(adaptation.shape)))
    assert np.all(states.position[:, 0] > 0)


@pytest.mark.parametrize("setting", [{"scale": 0.0}, {"entropy_weight": -1.0}])
def test_impossible_starts_are_refused(setting):
    with pytest.raises(ValueError, match="both must be positive"):
        gradient_adaptive.adaptation(2, **setting)
