"""Reference densities against SciPy's, against their own draws, and by their integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from megjax.densities import reference

pytestmark = pytest.mark.usefixtures("quick_compilation", "float64")

DATA = np.random.RandomState(0).normal(size=(60, 2)) @ np.array(
    [[1.0, 0.6], [0.0, 0.5]]
)
DENSITIES = {
    "gaussian": reference.gaussian(1.3),
    "box": reference.box(0.1),
    "kernels": reference.kernel_density((0.2, 0.5), num_points=20),
    "mixture": reference.mixture([reference.box(), reference.gaussian()], [0.3, 0.7]),
}


def fitted(density):
    params = density.fit(jnp.asarray(DATA))
    return params, lambda x: np.asarray(density.log_prob(params, jnp.asarray(x)))


def test_a_gaussian_is_that_of_scipy():
    params, log_prob = fitted(reference.gaussian(1.3))
    covariance = np.asarray(params.factor @ params.factor.T)
    expected = stats.multivariate_normal(params.mean, covariance).logpdf(DATA)
    np.testing.assert_allclose(log_prob(DATA), expected, rtol=1e-9)
    np.testing.assert_allclose(params.mean, DATA.mean(0), rtol=1e-9)
    np.testing.assert_allclose(covariance, 1.69 * np.cov(DATA.T), rtol=0.15)


@pytest.mark.parametrize("dim", [2, 9])
def test_kernels_are_a_mean_of_gaussians(dim):
    """Both ways to find the distances: coordinate by coordinate, and by a product."""
    x = np.random.RandomState(1).normal(size=(12, dim)) * np.linspace(1, 2, dim)
    density = reference.kernel_density((0.2, 0.5), num_points=5)
    params = density.fit(jnp.asarray(x))
    terms = [
        stats.multivariate_normal(centre, w**2).logpdf(x)
        for centre in x[:5]
        for w in (0.2, 0.5)
    ]
    expected = special.logsumexp(terms, axis=0) - np.log(10)
    found = density.log_prob(params, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_mixture_by_hand():
    _, log_prob = fitted(DENSITIES["mixture"])
    parts = reference.box(), reference.gaussian()
    one, two = (np.exp(fitted(part)[1](DATA)) for part in parts)
    np.testing.assert_allclose(np.exp(log_prob(DATA)), 0.3 * one + 0.7 * two, rtol=1e-6)


@pytest.mark.parametrize("name", DENSITIES)
def test_the_integral_is_1_and_draws_follow_the_density(name):
    params, log_prob = fitted(DENSITIES[name])
    axis = np.linspace(-9, 9, 401)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    masses = np.exp(log_prob(grid)) * (axis[1] - axis[0]) ** 2
    np.testing.assert_allclose(masses.sum(), 1, rtol=0.03)
    draws = np.asarray(DENSITIES[name].sample(params, jax.random.key(1), 4000))
    mean = masses @ grid / masses.sum()
    covariance = (masses[:, None] * (grid - mean)).T @ (grid - mean) / masses.sum()
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(np.cov(draws.T), covariance, rtol=0.15, atol=0.05)


@pytest.mark.parametrize("name", DENSITIES)
def test_the_form_of_parameters_knows_nothing_of_the_number_of_rows(name):
    forms = [
        jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype),
            jax.eval_shape(DENSITIES[name].fit, jnp.zeros((num, 2))),
        )
        for num in (2, 100)
    ]
    assert forms[0] == forms[1]


def test_blocks_of_rows_change_nothing(monkeypatch):
    _, log_prob = fitted(DENSITIES["kernels"])
    whole = log_prob(DATA)
    monkeypatch.setattr(reference, "ROWS_PER_BLOCK", 7)
    np.testing.assert_allclose(log_prob(DATA), whole, rtol=1e-12)


def test_rows_without_a_spread_have_moments():
    """Fewer rows than columns, a constant column, and rows that are all the same."""
    for x in (DATA[:3].repeat(4, 1), np.zeros((5, 3)), np.c_[DATA, np.ones(60)]):
        mean, factor = reference.moments(jnp.asarray(x))
        assert np.isfinite(factor).all() and np.all(np.diag(factor) > 0)
        u = reference.whitened(reference.Moments(mean, factor), jnp.asarray(x))
        constant = np.all(x == x[0], axis=0)
        variances = np.asarray(jnp.sum(factor**2, axis=1))
        np.testing.assert_allclose(variances[constant], 1, rtol=1e-4)
        back = np.asarray(u @ factor.T + mean)
        np.testing.assert_allclose(back, x, atol=1e-6)


@pytest.mark.parametrize("value", [0.1, 0.3, 123.456, -1e6])
def test_a_constant_of_any_value_has_variance_1(value):
    x = jnp.c_[DATA, np.full(len(DATA), value)].astype(jnp.float32)
    mean, factor = reference.moments(x)
    np.testing.assert_allclose(factor[-1, -1], 1, rtol=1e-4)
    assert mean[-1] == np.float32(value)


def test_a_plane_that_rows_lie_near_is_kept():
    """Where rows are many, shrunk correlations would make the rows far less likely."""
    x = np.random.RandomState(0).normal(size=(500, 3))
    x[:, 2] = x[:, 0] - x[:, 1] + 0.02 * x[:, 2]
    density = reference.gaussian()
    found = density.log_prob(density.fit(jnp.asarray(x)), jnp.asarray(x)).mean()
    best = stats.multivariate_normal(x.mean(0), np.cov(x.T)).logpdf(x).mean()
    assert best - 0.05 < found < best + 0.01


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: reference.gaussian(0.0), "spread=0.0: give a finite number above 0"),
        (lambda: reference.box(-1.0), "margin=-1.0: give at least 0"),
        (lambda: reference.kernel_density(()), "widths is empty: give at least one"),
        (lambda: reference.kernel_density((1.0, -1.0)), "widths=-1.0: give a finite"),
        (
            lambda: reference.mixture([reference.box()], [0.5]),
            r"weights=\[0.5\] of 1 densities: give each",
        ),
    ],
)
def test_what_cannot_be(make, words):
    with pytest.raises(ValueError, match=words):
        make()
