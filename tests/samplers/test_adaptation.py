import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.samplers import adaptation, kernel, mala, rwm


def test_first_updates_by_hand():
    # H_1 = .5 - .3; log a_1 = log(10 a_0) - (1 / .05) .2 / 11; the average is log a_1.
    tuner = adaptation.updated(
        adaptation.tuner(0.1), jnp.float32(0.3), target_acceptance=0.5
    )
    expected = 0 - 20 * 0.2 / 11
    np.testing.assert_allclose(tuner.log_step_size, expected, rtol=1e-5)
    np.testing.assert_allclose(tuner.log_average, expected, rtol=1e-5)
    # H_2 = .2 + .5 - .6; the average moves by 2^-.75.
    tuner = adaptation.updated(tuner, jnp.float32(0.6), target_acceptance=0.5)
    second = -(2**0.5) * 20 * 0.1 / 12
    np.testing.assert_allclose(tuner.log_step_size, second, rtol=1e-5)
    weight = 2**-0.75
    average = weight * second + (1 - weight) * expected
    np.testing.assert_allclose(adaptation.step_size(tuner), np.exp(average), rtol=1e-5)


def normal(x, scale):
    return -0.5 * jnp.sum((x / scale) ** 2)


@functools.partial(jax.jit, static_argnames=("make", "target", "steps"))
def tuned(make, keys, x, scale, tuner, *, target, steps=60):
    kernel_fn = functools.partial(make, functools.partial(normal, scale=scale))
    states = jax.vmap(kernel_fn(step_size=1.0).init)(x)
    return adaptation.warm_up(
        keys,
        lambda a: kernel_fn(step_size=a),
        states,
        tuner,
        steps,
        target_acceptance=target,
    )


@functools.partial(jax.jit, static_argnames="make")
def acceptance(make, keys, x, scale, step_size):
    fixed = make(functools.partial(normal, scale=scale), step_size=step_size)

    def run(key, x):
        return kernel.chain(key, fixed, fixed.init(x), 50)[1].infos.acceptance_rate

    return jnp.mean(jax.vmap(run)(keys, x))


@pytest.mark.parametrize("make", [mala.mala, rwm.rwm])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_reaches_the_target_over_many_orders_of_magnitude(make, scale):
    target = 0.574 if make is mala.mala else 0.234
    keys = jax.random.split(jax.random.key(0), 64)
    x = scale * jax.random.normal(jax.random.key(1), (64, 32))
    _, tuner = tuned(make, keys, x, scale, adaptation.tuner(0.1), target=target)
    rate = acceptance(make, keys, x, scale, adaptation.step_size(tuner))
    assert abs(rate - target) < 0.08


def test_known_step_size_of_a_normal_in_128_dimensions():
    """Acceptance .512 belongs to a = .3."""
    keys = jax.random.split(jax.random.key(0), 64)
    x = jax.random.normal(jax.random.key(1), (64, 128))
    _, tuner = tuned(
        mala.mala, keys, x, 1.0, adaptation.tuner(0.1), target=0.512, steps=200
    )
    np.testing.assert_allclose(adaptation.step_size(tuner), 0.3, rtol=0.05)


def test_a_warm_up_in_pieces_equals_the_warm_up_in_one():
    keys = jax.random.split(jax.random.key(0), 8)
    x = jax.random.normal(jax.random.key(1), (8, 4))

    def kernel_fn(a):
        return mala.mala(functools.partial(normal, scale=1.0), step_size=a)

    def run(states, tuner, steps):
        return adaptation.warm_up(
            keys, kernel_fn, states, tuner, steps, target_acceptance=0.5
        )

    start = jax.vmap(kernel_fn(1.0).init)(x), adaptation.tuner(0.1)
    run = jax.jit(run, static_argnums=2)
    whole = run(*start, 10)
    pieces = run(*run(*start, 4), 6)
    moved = np.any(whole[0].position != start[0].position, axis=1)
    assert moved.mean() > 0.5
    assert adaptation.step_size(whole[1]) != adaptation.step_size(start[1])
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), whole, pieces
    )
