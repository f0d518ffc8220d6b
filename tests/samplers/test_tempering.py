"""Swaps by hand and by enumeration, wrong ones rejected, ladders, modes and log Z."""

import functools
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.data import toy
from megjax.densities import targets
from megjax.samplers import hmc, mala, tempering
from megjax.sampling import methods
from megjax.sampling.density import sample

BETAS = np.array([1.0, 0.6, 0.2])


def quiet(log_density_fn, init, spec, *, seed=0, **settings):
    """`sample`, to which its own warnings are errors, those of R-hat and ESS apart."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", ".*(effective sample size|R-hat)")
        settings = {"key": jax.random.key(seed), "kernel": spec} | settings
        return sample(log_density_fn, init, progress=False, **settings)


def deviations(x, expected):
    """(mean of [chains, ...] - expected) in standard errors of the chains' means."""
    means = np.mean(x.reshape(len(x), -1), axis=1)
    return (np.mean(means) - expected) / (np.std(means, ddof=1) / np.sqrt(len(x)))


def test_swap_ratio_by_hand():
    """log p = -1, -3, log r = -2, -5: (1 - 0.25) ((-3 + 5) - (-1 + 2)) = 0.75."""
    p, r = np.array([-1.0, -3.0]), np.array([-2.0, -5.0])
    found = tempering.swap_log_ratios(jnp.array([1.0, 0.25]), jnp.asarray(p - r))
    assert float(found[0]) == 0.75
    first, second = p, 0.25 * p + 0.75 * r
    assert first[1] + second[0] - first[0] - second[1] == 0.75
    nowhere = tempering.swap_log_ratios(jnp.array([1.0, 0.5]), jnp.full(2, -jnp.inf))
    assert float(nowhere[0]) == -np.inf


def test_swaps_exchange_neighbours():
    x = jnp.arange(10).reshape(5, 2)
    found = tempering.swapped({"x": x}, jnp.array([True, False, False, True]))
    np.testing.assert_array_equal(found["x"], x[jnp.array([1, 0, 2, 4, 3])])


def right(betas, weights):
    return np.asarray(tempering.swap_log_ratios(betas, weights))


def without_temperatures(betas, weights):
    return np.diff(weights)


def of_the_wrong_sign(betas, weights):
    return -right(betas, weights)


def always(betas, weights):
    return np.zeros(len(weights) - 1)


@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize(
    "ratio_fn", [right, without_temperatures, of_the_wrong_sign, always]
)
def test_swaps_keep_the_product_of_all_temperatures(float64, ratio_fn, parity):
    """All 27 states of three replicas of a die of three unequal sides."""
    log_p, log_r = np.log([0.7, 0.1, 0.2]), np.log([0.2, 0.5, 0.3])
    rungs = BETAS[:, None] * log_p + (1 - BETAS[:, None]) * log_r
    states = list(itertools.product(range(3), repeat=3))
    before = np.exp([sum(rungs[i, s] for i, s in enumerate(x)) for x in states])
    before /= np.sum(before)
    after = dict.fromkeys(states, 0.0)
    for x, mass in zip(states, before, strict=True):
        ratio = ratio_fn(BETAS, (log_p - log_r)[list(x)])[parity]
        rate = min(1.0, np.exp(ratio))
        swaps = jnp.arange(2) == parity
        moved = tuple(np.asarray(tempering.swapped(jnp.array(x), swaps)).tolist())
        after[moved] += mass * rate
        after[x] += mass * (1 - rate)
    error = np.max(np.abs(np.array([after[x] for x in states]) - before))
    assert error < 1e-12 if ratio_fn is right else error > 1e-3


def normal_density(x):
    return -0.5 * jnp.sum(x**2)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def squares_from_exact_draws(ratio_fn, reference, num_steps):
    """x^2 [chains, 3] of replicas that begin with exact draws; of N(0, 1 / variance)."""
    del ratio_fn
    own = {"inverse_temperatures": [1.0, 0.5, 0.0 if reference else 0.2]}
    own |= {"step_sizes": [0.5, 1.0][: 2 if reference else 3] + [2.0] * (not reference)}
    kernel = tempering.tempering(normal_density, reference=reference, **own)
    betas = jnp.array(own["inverse_temperatures"])
    precision = betas + (1 - betas) / 9 if reference else betas
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (20_000, 3, 1)) / jnp.sqrt(precision)[:, None]

    def one(key, x):
        state = kernel.init(x[0])
        replicas = jax.vmap(lambda x: kernel.init(x).replicas)(x)
        replicas = jax.tree.map(lambda leaf: leaf[:, 0], replicas)
        state = state._replace(replicas=replicas)

        def step(index, carry):
            state, trips = carry
            state, info = kernel.step(jax.random.fold_in(key, index), state)
            return state, trips + info.round_trips

        return jax.lax.fori_loop(0, num_steps, step, (state, 0))

    state, trips = jax.vmap(one)(jax.random.split(keys[1], len(x)), x)
    return state.replicas.position[..., 0] ** 2 * precision, trips


@pytest.mark.parametrize("reference", [None, tempering.normal(0.0, 3.0)])
@pytest.mark.parametrize(
    "ratio_fn", ["right", "without", pytest.param("sign", marks=pytest.mark.slow)]
)
def test_the_kernel_keeps_the_densities_of_all_replicas(
    monkeypatch, ratio_fn, reference
):
    """Exact draws stay exact, with and without a reference; wrong swaps are found."""
    if ratio_fn == "without":
        wrong = lambda betas, weights: weights[1:] - weights[:-1]
        monkeypatch.setattr(tempering, "swap_log_ratios", wrong)
    if ratio_fn == "sign":
        kept = tempering.swap_log_ratios
        monkeypatch.setattr(tempering, "swap_log_ratios", lambda *args: -kept(*args))
    squares, trips = squares_from_exact_draws(ratio_fn, reference, 6)
    errors = np.sqrt(2 / len(squares))
    z = np.abs(np.mean(np.asarray(squares, np.float64), axis=0) - 1) / errors
    assert np.max(z) < 4 if ratio_fn == "right" else np.max(z) > 8
    assert np.sum(trips) > 0


@pytest.mark.parametrize(
    "kernel_fn", [mala.mala, pytest.param(hmc.hmc, marks=pytest.mark.slow)]
)
def test_what_replicas_keep_is_of_their_positions(float64, kernel_fn):
    reference = tempering.normal(1.0, 2.0)
    target = targets.banana()
    kernel = tempering.tempering(
        target.log_density,
        inverse_temperatures=BETAS * [1, 1, 0],
        step_sizes=[0.1, 0.2],
        reference=reference,
        kernel_fn=kernel_fn,
        num_steps=2,
    )
    state = kernel.init(jnp.array([0.3, -0.2]))
    step = jax.jit(kernel.step)
    for i in range(10):
        state, _ = step(jax.random.key(i), state)
    spread = 0
    for k in range(3):
        x = state.replicas.position[k]
        parts = jax.tree.map(lambda leaf, k=k: leaf[k], state.replicas.aux)
        for beta in (1.0, 0.3):

            def density(x, beta=beta):
                p, r = target.log_density(x), reference.log_density(x)
                return beta * p + (1 - beta) * r

            found = tempering.mixed(parts, beta)
            np.testing.assert_allclose(found[0], density(x), rtol=1e-12)
            np.testing.assert_allclose(found[1], jax.grad(density)(x), rtol=1e-9)
            tempered = tempering.tempered(target.log_density, reference, beta)
            value, gradient = jax.value_and_grad(tempered, has_aux=True)(x)
            np.testing.assert_allclose(value[0], density(x), rtol=1e-12)
            np.testing.assert_allclose(gradient, found[1], rtol=1e-12)
        spread += float(jnp.sum(jnp.abs(x - state.position)))
    np.testing.assert_array_equal(state.position, state.replicas.position[0])
    assert state.log_density == state.replicas.aux.log_density[0] and spread > 0


def test_ladders_are_laid_where_rejections_are_equal():
    """Constant barrier in log b: a geometric ladder stays, any other becomes it."""
    geometric = np.geomspace(1, 0.01, 5)
    even = tempering.spread(jnp.asarray(geometric), jnp.full(4, 0.3))
    np.testing.assert_allclose(even, geometric, rtol=1e-4)
    uneven = np.array([1.0, 0.9, 0.5, 0.02, 0.01])
    found = tempering.spread(jnp.asarray(uneven), jnp.asarray(-np.diff(np.log(uneven))))
    np.testing.assert_allclose(found, geometric, rtol=1e-2)
    to_zero = tempering.spread(jnp.array([1.0, 0.1, 0.01, 0.0]), jnp.full(3, 0.3))
    np.testing.assert_allclose(to_zero, [1.0, 0.1, 0.01, 0.0], rtol=1e-4)


def test_log_z_and_its_error_from_exact_draws():
    """p = 5 exp(-x^2 / 2 s^2), so Z = 5 s sqrt(2 pi); 200 times, errors as stated."""
    betas, std = np.array([1.0, 0.5, 0.1, 0.0]), 0.2
    precision = betas / std**2 + (1 - betas)
    generator, exact = np.random.default_rng(0), np.log(5 * std * np.sqrt(2 * np.pi))
    found = []
    for _ in range(200):
        x = generator.normal(size=(2, 200, 4)) / np.sqrt(precision)
        log_p = np.log(5) - 0.5 * (x / std) ** 2
        log_r = -0.5 * x**2 - 0.5 * np.log(2 * np.pi)
        log_z, added = tempering.log_normaliser(betas, log_p - log_r)
        assert abs(np.mean(added)) < 1e-12
        found.append((log_z - exact) / (np.std(added) / np.sqrt(added.size)))
    assert abs(np.mean(found)) < 4 / np.sqrt(200)
    assert 0.85 < np.std(found) < 1.15


def grid_shares(draws):
    """Whether draws are of each of 25 Gaussians: [25, chains, draws]."""
    x, centres = draws.posterior["x"].to_numpy(), toy.grid_25().centres
    nearest = np.argmin(np.sum((x[..., None, :] - centres) ** 2, -1), -1)
    return np.float64(nearest == np.arange(25)[:, None, None])


def test_25_modes_from_one():
    """Shares as their standard errors say, in fewer than a million gradients.

    The largest of 25 is beyond 3 in one run of fifteen; the sum of squares is beyond
    2.1 times its mean, of chi-squared with 25 degrees, in one of a thousand.
    """
    grid = toy.grid_25()
    target = targets.mixture("25 Gaussians", grid)
    init = jnp.tile(jnp.asarray(grid.centres[0]), (32, 1))
    settings = {"num_warmup": 600, "num_samples": 1500, "seed": 1}
    draws = quiet(target.log_density, init, "tempering", **settings)
    assert draws.sample_stats["n_steps"].sum() * 2100 / 1500 < 1e6
    z = [deviations(each, 0.04) for each in grid_shares(draws)]
    assert np.max(np.abs(z)) < 4 and np.mean(np.square(z)) < 2.1
    rates = np.array(draws.attrs["swap_rates"])
    assert np.ptp(rates) < 0.05 and 2.5 < draws.attrs["barrier"] < 3.2
    assert draws.sample_stats["round_trips"].sum() > 1000
    assert set(draws.sample_stats) > {"lp", "swap_rate", "round_trips", "step_size"}


def two_modes(x):
    """0.3 and 0.7 of N(+-5 e_1, I) in ten dimensions, times 3."""
    first = jax.nn.one_hot(0, 10, dtype=x.dtype)
    modes = [
        jnp.log(w) - 0.5 * jnp.sum((x - at * first) ** 2)
        for w, at in ((0.3, 5), (0.7, -5))
    ]
    return jnp.logaddexp(*modes) - 5 * jnp.log(2 * jnp.pi) + jnp.log(3.0)


@pytest.mark.slow
@pytest.mark.parametrize("reference", [None, tempering.normal(0.0, 5.0)])
def test_two_modes_at_ten_deviations(reference):
    """The weight within 0.02, log Z = log 3 within 3 of its standard errors."""
    init = jnp.tile(5.0 * jnp.eye(10)[0], (32, 1))
    spec = tempering.Spec(num_replicas=16, reference=reference)
    settings = {"num_warmup": 1000, "num_samples": 6000}
    draws = quiet(two_modes, init, spec, **settings)
    right_side = draws.posterior["x"].to_numpy()[..., 0] > 0
    assert abs(np.mean(right_side) - 0.3) < 0.02
    assert abs(deviations(np.float64(right_side), 0.3)) < 3
    if reference:
        error = draws.attrs["log_z_error"]
        assert error < 0.1 and abs(draws.attrs["log_z"] - np.log(3)) < 3 * error


def test_log_z_of_a_pytree():
    """exp(-a^2 / 2 - sum b^2 / 8) has the integral (2 pi)^(3 / 2) 4."""

    def log_density_fn(position):
        return -0.5 * position["a"] ** 2 - jnp.sum(position["b"] ** 2) / 8

    init = {"a": jnp.zeros(8), "b": jnp.zeros((8, 2))}
    spec = tempering.Spec(6, reference=tempering.normal(0.5, 4.0))
    settings = {"num_warmup": 300, "num_samples": 500, "mass_matrix": "dense"}
    draws = quiet(log_density_fn, init, spec, **settings)
    assert set(draws.posterior.data_vars) == {"a", "b"}
    exact = 1.5 * np.log(2 * np.pi) + np.log(4)
    error = draws.attrs["log_z_error"]
    assert error < 0.1 and abs(draws.attrs["log_z"] - exact) < 3 * error
    assert abs(deviations(draws.posterior["b"].to_numpy() ** 2, 4.0)) < 4


def test_chains_that_never_reach_the_hot_end_are_warned_of():
    spec, init = tempering.Spec(num_replicas=2, lowest=1e-6), jnp.zeros((2, 40))
    settings = {"num_warmup": 30, "num_samples": 8, "progress": False}
    with pytest.warns(UserWarning, match="no replica came back from the hot end"):
        sample(normal_density, init, key=jax.random.key(0), kernel=spec, **settings)


@pytest.mark.parametrize(
    ("betas", "step_sizes", "reference"),
    [
        ([1.0, 1.0], [1.0, 1.0], None),
        ([0.9, 0.1], [1.0, 1.0], None),
        ([1.0, 0.0], [1.0, 1.0], None),
        ([1.0, -0.5], [1.0, 1.0], None),
        ([1.0], [1.0], None),
        ([1.0, 0.1], [1.0], tempering.normal(0.0, 1.0)),
    ],
)
def test_ladders_that_do_not_fit(betas, step_sizes, reference):
    with pytest.raises(ValueError, match=r"inverse_temperatures=\[.*decrease from 1"):
        tempering.tempering(
            normal_density,
            inverse_temperatures=betas,
            step_sizes=step_sizes,
            reference=reference,
        )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: tempering.normal(0.0, 0.0), "std=0.0: must be positive"),
        (lambda: tempering.ladder(tempering.Spec(1)), "num_replicas=1: give a whole"),
        (lambda: methods.find(tempering.Spec(2.5)), "num_replicas=2.5: give a whole"),
        (
            lambda: methods.find(tempering.Spec([4])),
            r"num_replicas=\[4\]: give a whole",
        ),
        (
            lambda: methods.find(tempering.Spec(num_steps=2.5)),
            "num_steps=2.5: give a whole number from 1 up",
        ),
        (lambda: methods.find(tempering.Spec(lowest="cold")), "lowest='cold': give a"),
        (lambda: tempering.ladder(tempering.Spec(lowest=1.0)), "lowest=1.0: want"),
        (
            lambda: tempering.tempering(
                normal_density, inverse_temperatures=[1.0, 0.5], step_sizes=[1.0]
            ),
            r"step_sizes has shape \(1,\): want \(2,\)",
        ),
        (
            lambda: quiet(
                lambda x: jnp.log(x[0]), jnp.zeros((2, 1)), "tempering", seed=0
            ),
            "not finite at the start of 2 of 2",
        ),
    ],
)
def test_settings_that_do_not_fit(call, words):
    with pytest.raises(ValueError, match=words):
        call()
