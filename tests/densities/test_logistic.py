"""Regressions by hand, by scikit-learn, and against the published posteriors."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import linear_model

from megjax.densities import logistic
from megjax.samplers import hmc, kernel

REAL = pathlib.Path(__file__).parents[3] / "shared/data"
needs_data = pytest.mark.skipif(
    not (REAL / "uci").is_dir(), reason="needs the Statlog sets"
)

# Li et al.'s posterior (prior N(0, 100)), recomputed independently: science N6.
PUBLISHED = {
    "heart": (
        "-.265 -.179 .785 .737 .494 .415 -.310 .332 -.533 .419 .436 .289 1.205 .720",
        ".209 .241 .267 .217 .215 .225 .213 .209 .258 .213 .273 .253 .269 .217",
    ),
    "australian": (
        "-.196 0 .006 -.186 .383 .757 .082 .268 1.745 .163 .683 -.151 .154 -.35 2.658",
        ".183 .134 .142 .139 .132 .153 .149 .170 .156 .174 .286 .132 .128 .148 .843",
    ),
    "german": (
        """-1.219 -.744 .424 -.419 .127 -.370 -.181 -.154 .014 .182 -.112 -.227 .125
        .030 -.138 -.299 .282 -.304 .313 .278 .125 -.061 -.095 -.027 -.024""",
        """.096 .090 .107 .097 .111 .096 .092 .082 .094 .105 .098 .078 .096 .087 .096
        .118 .083 .106 .121 .112 .140 .144 .093 .130 .129""",
    ),
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A set of five rows and two columns in a folder `uci`."""
    monkeypatch.setitem(logistic.FILES, "small", ("small.dat", (5, 3)))
    folder = tmp_path / "uci"
    folder.mkdir()
    (folder / "small.csv").write_text("1,0,1\n2,1,2\n3,0,2\n4,1,1\n5,3,2\n")
    return tmp_path


def test_the_table_by_hand(small):
    found = logistic.table("small", str(small))
    np.testing.assert_allclose(found.labels, [-1, 1, 1, -1, 1])
    np.testing.assert_allclose(found.x[:, 0], 1)
    # 1 to 5: mean 3, population variance 2.
    np.testing.assert_allclose(found.x[:, 1], np.array([-2, -1, 0, 1, 2]) / np.sqrt(2))


def test_the_file_as_uci_has_it_is_read_too(small):
    commas = logistic.table("small", str(small))
    file = small / "uci" / "small.csv"
    blanks = "1 0 1 \n2  1 2\n3 0 2\n4 1 1\n5 3 2\n"
    file.rename(file.with_suffix(".dat")).write_text(blanks)
    found = logistic.table("small", str(small))
    assert np.array_equal(found.x, commas.x)
    assert np.array_equal(found.labels, commas.labels)


def test_the_posterior_by_hand(small):
    target = logistic.regression("small", data_dir=str(small), prior_variance=4.0)
    assert target.dim == 3 and target.sample is None and target.moments is None
    at_zero = target.log_density(jnp.zeros(3))
    np.testing.assert_allclose(at_zero, -5 * np.log(2), rtol=1e-6)
    # With an intercept of 2 alone: three labels of 1, two of -1.
    value = target.log_density(jnp.array([2.0, 0.0, 0.0]))
    expected = -3 * np.log1p(np.exp(-2)) - 2 * np.log1p(np.exp(2)) - 4 / 8
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_the_mode_is_that_of_scikit_learn(small):
    target = logistic.regression("small", data_dir=str(small), prior_variance=4.0)
    data = logistic.table("small", str(small))
    # No penalty of its own for the intercept: ours is a column like the others.
    peer = linear_model.LogisticRegression(C=4.0, fit_intercept=False, tol=1e-10)
    peer.fit(data.x, data.labels)
    gradient = jax.grad(target.log_density)(jnp.float32(peer.coef_[0]))
    np.testing.assert_allclose(gradient, np.zeros(3), atol=1e-4)


def test_no_margin_is_too_large(small):
    target = logistic.regression("small", data_dir=str(small))
    value, gradient = jax.value_and_grad(target.log_density)(jnp.full(3, 1e4))
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    "name, content, setting, error, message",
    [
        ("other", None, {}, ValueError, "name='other': choose one of german"),
        ("small", None, {"prior_variance": 0.0}, ValueError, "must be positive"),
        ("small", "1,a,2\n", {}, ValueError, "not a table of numbers"),
        ("small", "1,2,1\n3,4,2\n", {}, ValueError, "has 2 rows, 3 columns and 2 labels"),
        ("small", "", {}, ValueError, "has 0 rows"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_what_is_wrong_is_said(small, name, content, setting, error, message):
    if content is not None:
        (small / "uci" / "small.csv").write_text(content)
    with pytest.raises(error, match=message):
        logistic.regression(name, data_dir=str(small), **setting)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No heart.dat or heart.csv in .*uci"):
        logistic.regression("heart", data_dir=str(tmp_path))


@pytest.mark.parametrize("name", PUBLISHED)
def test_reference_moments_are_the_published_ones(name):
    mean, deviation = (np.float64(text.split()) for text in PUBLISHED[name])
    reference = logistic.REFERENCE[name]
    # Rounded to three digits, from 48,000 correlated draws.
    error = 0.0006 + 5 * deviation / np.sqrt(20_000)
    assert np.all(np.abs(reference.mean - mean) < error)
    np.testing.assert_allclose(np.sqrt(reference.variance), deviation, rtol=0.04)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_real_sets_have_the_published_moments(name):
    """By HMC in the reference's own scales, from the reference mean."""
    target = logistic.regression(name, data_dir=str(REAL))
    std = jnp.float32(np.sqrt(target.moments.variance))
    sampler = hmc.hmc(
        target.log_density, step_size=0.35, num_integration_steps=4, factor=std
    )
    num_chains, num_steps, burn_in = 32, 400, 100

    @jax.jit
    @jax.vmap
    def run(key, noise):
        start = sampler.init(jnp.float32(target.moments.mean) + std * noise)
        return kernel.chain(
            key, sampler, start, num_steps, observe=lambda state: state.position
        )[1].observations

    keys = jax.random.split(jax.random.key(0), num_chains)
    noise = jax.random.normal(jax.random.key(1), (num_chains, target.dim))
    x = np.asarray(run(keys, noise), np.float64)[:, burn_in:]
    away = (x - target.moments.mean) / np.sqrt(target.moments.variance)
    for moment, exact in ((away, 0), (away**2, 1)):
        by_chain = moment.mean(axis=1)
        error = by_chain.std(axis=0, ddof=1) / np.sqrt(num_chains)
        assert np.max(error) < 0.1
        assert np.all(np.abs(by_chain.mean(axis=0) - exact) < 5 * error)
