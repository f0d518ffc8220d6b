"""Mode coverage on points laid out by hand."""

import numpy as np

from megjax.metrics import coverage

CENTRES = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def test_coverage_by_hand():
    # Two near the first mode, one near the second, one astray; limit 4 x .01.
    x = np.array([[0.0, 0.039], [0.01, 0.0], [1.0, 0.0], [0.5, 0.0]])
    found = coverage.coverage(x, CENTRES, 0.01)
    assert found["modes"] == 2
    assert found["near_share"] == 0.75
    expected = 2 / 3 * np.log(2) + 1 / 3 * np.log(1)
    np.testing.assert_allclose(found["kl_uniform"], expected)


def test_even_coverage_has_no_divergence():
    found = coverage.coverage(np.repeat(CENTRES, 5, axis=0), CENTRES, 0.01)
    assert found["modes"] == 3
    np.testing.assert_allclose(found["kl_uniform"], 0, atol=1e-12)


def test_limit_is_four_standard_deviations():
    x = np.array([[0.0399, 0.0], [0.0401, 0.0]])
    assert coverage.coverage(x, CENTRES, 0.01)["near_share"] == 0.5


def test_no_sample_near_a_mode():
    found = coverage.coverage(np.full((4, 2), 9.0), CENTRES, 0.01)
    assert found["modes"] == 0
    assert np.isnan(found["kl_uniform"])
