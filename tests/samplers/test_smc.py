"""Particles that keep weights of modes and the evidence."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.samplers import mala, smc, tempering
from megjax.sampling import methods
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


def normal(x):
    """N(3, I), times (2 pi)^(dim / 2)."""
    return -0.5 * jnp.sum((x - 3.0) ** 2)


def told(log_density_fn, init, kernel="smc", **settings):
    """(draws, what was warned of)."""
    settings = {"key": jax.random.key(0), "num_samples": 10} | settings
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        draws = sample(log_density_fn, init, kernel=kernel, progress=False, **settings)
    words = [str(one.message) for one in found if one.category is UserWarning]
    return draws, [line for line in words if not line.startswith("More chains")]


def test_an_evidence_of_few_lines_has_no_error():
    draws, words = told(normal, jnp.zeros((10, 2)))
    (line,) = words
    assert "10 particles descend from 2.4 of the first" in line and "\n" not in line
    assert draws.attrs["num_lines"] < smc.FEW_LINES
    assert np.isnan(draws.attrs["log_z_error"]) and np.isfinite(draws.attrs["log_z"])


@pytest.mark.parametrize(
    ("num", "mass_matrix", "says"),
    [
        (9, "diagonal", "9 particles: give 10 or more"),
        (1, "diagonal", "1 particles: give 10 or more"),
        (11, "dense", "11 particles: give 12 or more"),
    ],
)
def test_too_few_particles_are_refused(num, mass_matrix, says):
    with pytest.raises(ValueError, match=f"init has {says}"):
        told(normal, jnp.zeros((num, 6)), mass_matrix=mass_matrix)


def still(log_density_fn, *, step_size, factor=1.0):
    """A kernel that accepts where it is."""
    factor = jnp.zeros_like(factor)
    return mala.mala(log_density_fn, step_size=step_size, factor=factor)


def test_particles_that_stand_still_are_told():
    _, words = told(normal, jnp.zeros((200, 1)), smc.Spec(kernel_fn=still))
    assert any("particles moved in 0% of" in line for line in words)


def test_a_density_that_is_not_defined_outside_of_its_support():
    """Of x exp(-x), Gamma(2, 1), whose log of a negative number is NaN; log Z = 0."""
    draws, words = told(
        lambda x: jnp.sum(jnp.log(x) - x), jnp.ones((400, 1)), num_samples=20
    )
    assert all("left the support" in line for line in words)
    error = draws.attrs["log_z_error"]
    assert 0 < error < 0.3 and abs(draws.attrs["log_z"]) < 3 * error
    x = draws.posterior["x"].to_numpy()
    spread = np.sqrt(2 / draws.attrs["num_lines"])
    assert np.min(x) > 0 and abs(np.mean(x) - 2) < 3 * spread


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"log_z": np.nan}, "log Z of smc is nan: look for NaN"),
        ({"log_z": -np.inf}, "log Z of smc is -inf"),
        ({"inverse_temperature": np.nan}, "came to inverse temperature nan of 1"),
    ],
)
def test_numbers_that_are_not_finite_are_told(wrong, says):
    fine = dict(zip(smc.Parameters._fields, (1.0, np.ones(2), 0.0, 0.1, 1.0, 5, 50.0)))
    method, _ = methods.find("smc")
    draws = {"posterior.x": np.random.default_rng(0).normal(size=(50, 4, 2))}
    assert not method.report(smc.Parameters(**fine), draws)[1]
    attributes, (line,) = method.report(smc.Parameters(**fine | wrong), draws)
    assert says in line and np.isnan(attributes["log_z_error"])


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"share": 2.0}, "share=2.0: give a number between 0 and 1, as 0.5"),
        ({"share": 0.0}, "share=0.0: give a number between"),
        ({"share": np.nan}, "share=nan: give a number between"),
        ({"share": "half"}, "share='half': give a number"),
        ({"num_steps": 0}, "num_steps=0: give a whole number from 1 up"),
        ({"num_steps": 2.5}, "num_steps=2.5: give a whole number from 1 up"),
    ],
)
def test_specs_that_do_not_fit(own, says):
    with pytest.raises(ValueError, match=says):
        methods.find(smc.Spec(**own))


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
