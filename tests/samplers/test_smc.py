"""Particles that keep weights of modes and the evidence."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.samplers import smc, tempering
from megjax.sampling.density import sample


def modes(x):
    """0.25 and 0.75 of N(+-5, 0.25) in the plane, times 3."""
    scale = jnp.array([0.5, 0.5])
    parts = [
        jnp.log(w) + jnp.sum(jax.scipy.stats.norm.logpdf(x, jnp.array([at, 0]), scale))
        for w, at in ((0.25, 5.0), (0.75, -5.0))
    ]
    return jnp.logaddexp(*parts) + jnp.log(3.0)


WIDE = smc.Spec(tempering.normal(0.0, 6.0))


@pytest.mark.parametrize("spec", ["smc", pytest.param(WIDE, marks=pytest.mark.slow)])
def test_weights_of_modes_and_the_evidence(spec):
    init = jnp.tile(jnp.array([5.0, 0.0]), (2000, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "More chains")
        draws = sample(
            modes,
            init,
            key=jax.random.key(0),
            kernel=spec,
            num_warmup=500,
            num_samples=5,
            progress=False,
        )
    x = draws.posterior["x"].to_numpy()
    assert x.shape == (2000, 5, 2)
    error = draws.attrs["log_z_error"]
    assert 0 < error < 0.2
    assert abs(draws.attrs["log_z"] - np.log(3)) < 3 * error
    right = x[..., 0] > 0
    spread = np.sqrt(0.25 * 0.75 / draws.attrs["num_lines"])
    assert spread < 0.06 and abs(np.mean(right) - 0.25) < 3 * spread
    away = np.where(right, x[..., 0] - 5, x[..., 0] + 5)
    assert abs(np.var(away) / 0.25 - 1) < 0.1
    assert abs(np.var(x[..., 1]) / 0.25 - 1) < 0.1


def test_too_few_steps_are_warned_of():
    settings = {"num_warmup": 20, "num_samples": 2, "progress": False}
    init = jnp.zeros((50, 2))
    with pytest.warns(UserWarning, match="inverse temperature .* of 1 only"):
        draws = sample(modes, init, key=jax.random.key(0), kernel="smc", **settings)
    assert np.isnan(draws.attrs["log_z"])


def test_effective_numbers_by_hand():
    """Of four particles three descend from one: 16 / (9 + 1)."""
    num, error = smc.ancestry(jnp.array([2, 2, 2, 0]))
    assert float(num) == pytest.approx(1.6)
    assert float(error) == pytest.approx(np.sqrt(10 / 16 - 1 / 4))


def test_factors_are_those_of_weighted_particles():
    x = jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    weights = jnp.array([0.5, 0.25, 0.25])
    covariance = np.cov(x, rowvar=False, aweights=weights, ddof=0)
    found = smc.factor_of(x, weights, dense=False)
    np.testing.assert_allclose(found**2, np.diag(covariance), rtol=1e-5)
    found = smc.factor_of(x, weights, dense=True)
    np.testing.assert_allclose(found @ found.T, covariance, rtol=1e-2)
