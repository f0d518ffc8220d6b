"""Mixtures of Gaussians against scikit-learn's and SciPy's, and how they are weighted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from sklearn import mixture

from megjax.densities import gaussian_mixtures as gm

pytestmark = pytest.mark.usefixtures("quick_compilation", "float64")

CENTRES = np.array([[-2.0, 0.0], [2.0, 1.0], [0.0, -3.0]])
FORM = np.array([[0.5, 0.2], [0.2, 0.3]])


def clusters(num, seed=0):
    rng = np.random.RandomState(seed)
    noise = rng.normal(size=(num, 2)) @ np.linalg.cholesky(FORM).T
    return CENTRES[rng.randint(3, size=num)] + noise


def test_an_update_is_the_posterior_mode_by_hand():
    """Of two rows in one cluster and one in another, with a prior of 0.5 x 2 rows."""
    x = np.array([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0]])
    members = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = gm.maximised(x, members, 0.5)
    np.testing.assert_allclose(found.means, [[1.0, 0.0], [5.0, 1.0]])
    # The scatter is 2 along the first axis, its mean over all rows 2/3.
    covariances = found.factors @ np.swapaxes(found.factors, 1, 2)
    np.testing.assert_allclose(covariances[0], [[8 / 9, 0], [0, 0]], atol=3e-5)
    np.testing.assert_allclose(covariances[1], [[1 / 3, 0], [0, 0]], atol=3e-5)
    np.testing.assert_allclose(np.exp(found.log_shares), [2 / 3, 1 / 3])


def test_without_a_prior_a_mixture_is_as_likely_as_that_of_scikit_learn():
    x, new = clusters(600), clusters(600, seed=1)
    density = gm.gaussian_mixtures((3,), strengths=(1e-6,), spreads=(1.0,))
    found = density.log_prob(density.fit(jnp.asarray(x)), jnp.asarray(new)).mean()
    theirs = mixture.GaussianMixture(3, random_state=0).fit(x).score(new)
    np.testing.assert_allclose(found, theirs, atol=0.01)


def test_log_prob_is_that_of_scipy_and_draws_follow_it():
    density = gm.gaussian_mixtures((2, 3))
    params = density.fit(jnp.asarray(clusters(200)))
    assert params.means.shape == (3 + 2 * (2 + 3), 2)
    np.testing.assert_allclose(np.exp(params.log_shares).sum(), 1)
    x = clusters(5, seed=2)
    terms = [
        np.log(share) + stats.multivariate_normal(mean, factor @ factor.T).logpdf(x)
        for mean, factor, share in zip(*params[:2], np.exp(params.log_shares))
    ]
    found = density.log_prob(params, jnp.asarray(x))
    np.testing.assert_allclose(found, special.logsumexp(terms, axis=0), rtol=1e-9)
    draws = np.asarray(density.sample(params, jax.random.key(0), 3000))
    shares = np.exp(params.log_shares)
    mean = shares @ params.means
    away = params.means - mean
    second = params.factors @ np.swapaxes(params.factors, 1, 2)
    covariance = np.einsum(
        "k,kij->ij", shares, second + away[:, :, None] * away[:, None]
    )
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.15)
    np.testing.assert_allclose(np.cov(draws.T), covariance, rtol=0.1, atol=0.1)


def test_shares_go_to_what_predicts_rows_that_were_not_seen():
    """In the sample 16 components are the likeliest; of other rows they are not."""
    x = np.random.RandomState(3).normal(size=(60, 2))
    settings = [(1, 0.2), (16, 0.01)]
    one, many = gm.stacked(x, settings[:1], (), 4), gm.stacked(x, settings[1:], (), 4)
    ends = [
        gm.log_prob(gm.Gaussians(*map(jnp.asarray, p)), x).mean() for p in (one, many)
    ]
    assert ends[1] > ends[0]
    both = gm.stacked(x, settings, (), 4)
    assert np.exp(both.log_shares[0]) > 0.9


def test_fitted_shares_are_those_of_the_most_likely_mixture():
    """By expectation maximisation against the best of a fine grid."""
    terms = np.random.RandomState(3).normal(size=(40, 2)) + [0.2, 0.0]
    found = np.exp(gm.likely_shares(terms, 500))
    grid = np.linspace(0.001, 0.999, 999)
    log_shares = np.log(np.stack([grid, 1 - grid], 1))
    total = special.logsumexp(terms[None] + log_shares[:, None], axis=2).sum(1)
    np.testing.assert_allclose(found[0], grid[np.argmax(total)], atol=2e-3)
    np.testing.assert_allclose(found.sum(), 1)


@pytest.mark.slow
def test_the_form_of_parameters_depends_on_columns_alone():
    density = gm.gaussian_mixtures((2, 400))
    found = density.fit(jnp.asarray(clusters(3)))
    form = jax.eval_shape(density.fit, jnp.zeros((2, 2)))
    shaped = lambda leaf: (leaf.shape, leaf.dtype)
    assert jax.tree.map(shaped, found) == jax.tree.map(shaped, form)
    assert found.means.shape[0] == 3 + 2 * 402
    # Of 30 columns, 400 covariances would have 360,000 entries.
    wide = jax.eval_shape(density.fit, jnp.zeros((2, 30)))
    assert wide.means.shape == (3 + 2 * 2, 30)


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(np.zeros((7, 3)), marks=pytest.mark.slow),
        pytest.param(np.c_[clusters(40), np.ones(40)], marks=pytest.mark.slow),
        np.repeat(clusters(2), 9, 0),
        clusters(1),
        pytest.param(np.r_[clusters(50), [[1e4, -1e4]]], marks=pytest.mark.slow),
    ],
    ids=["equal rows", "constant column", "two rows", "one row", "far out"],
)
def test_rows_without_a_spread_have_a_density(x):
    density = gm.gaussian_mixtures()
    params = density.fit(jnp.asarray(x))
    assert all(np.isfinite(leaf).all() for leaf in params)
    assert np.isfinite(density.log_prob(params, jnp.asarray(x))).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_components": (0,)}, "num_components=0: give at least 1"),
        ({"strengths": (0.0,)}, "strengths=0.0: give a finite number above 0"),
        ({"spreads": (-1.0,)}, "spreads=-1.0: give a finite number above 0"),
        ({"num_folds": 1}, "num_folds=1: give at least 2"),
    ],
)
def test_what_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        gm.gaussian_mixtures(**options)
