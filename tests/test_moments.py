"""How `benchmarks.moments` holds draws against a reference."""

import numpy as np
import pytest

from benchmarks import moments
from megjax.densities import posteriors


def reference(mean, error, std, num_draws=10**6):
    values = ({"x": np.float64(each)} for each in (mean, error, std))
    return posteriors.Reference(*values, num_draws=num_draws)


@pytest.fixture(scope="module")
def draws():
    """Independent, of means 1 and -2 and deviations 1 and 3: [chains, draws, 2]."""
    noise = np.random.default_rng(0).normal(size=(4, 2000, 2))
    return {"x": np.array([1.0, -2.0]) + np.array([1.0, 3.0]) * noise}


def test_the_right_moments_are_a_few_standard_errors_away(draws):
    found = moments.compared(draws, reference([1, -2], [0, 0], [1, 3]))
    assert found["quantities"] == 2 and found["num_far"] == 0
    assert found["largest_mean_error"] < 3.5 and found["largest_variance_error"] < 3.5
    assert 5000 < found["ess"] < 10000
    assert found["r_hat"] < 1.01
    # P(both of two below t) = 1/2 at the 0.854 quantile of the normal.
    np.testing.assert_allclose(found["typical_largest"], 1.0518, rtol=1e-3)


@pytest.mark.parametrize(
    "mean, std, kind, errors",
    # The error of a mean is 1 / sqrt(8000), of a variance sqrt(2) times as much.
    [([1.1, -2], [1, 3], "mean", 8.9), ([1, -2], [1, 3.3], "variance", 11.9)],
)
def test_wrong_moments_are_named(draws, mean, std, kind, errors):
    found = moments.compared(draws, reference(mean, [0, 0], std))
    assert found["num_far"] == 1
    index = 0 if kind == "mean" else 1
    assert found["far"][0].startswith(f"{kind} of x[{index}]: ")
    assert abs(found[f"largest_{kind}_error"] - errors) < 3.5


def test_errors_of_the_reference_count(draws):
    """0.1 away, of a reference known to 0.1: one standard error, not nine."""
    found = moments.compared(draws, reference([1.1, -2], [0.1, 0.1], [1, 3]))
    assert found["num_far"] == 0
    assert 0.8 < found["largest_mean_error"] < 1.2


@pytest.mark.filterwarnings("ignore:invalid value")
def test_draws_that_are_not_finite_are_far():
    x = np.random.default_rng(1).normal(size=(4, 500, 1))
    x[0] = np.inf
    found = moments.compared({"x": x}, reference([0], [0], [1]))
    assert found["num_far"] == 2
