import numpy as np
import pytest
from scipy import signal

from megjax.evaluation import chains


def autoregressive(r, num_chains=4, num_draws=20_000, seed=0):
    """Stationary AR(1) traces of unit variance [chains, draws]."""
    rng = np.random.default_rng(seed)
    noise = np.sqrt(1 - r**2) * rng.normal(size=(num_chains, num_draws))
    noise[:, 0] /= np.sqrt(1 - r**2)
    return signal.lfilter([1], [1, -r], noise, axis=1)


@pytest.mark.parametrize("r", [0.0, 0.5, 0.9, -0.4])
def test_effective_sample_size_of_an_autoregression(r):
    traces = autoregressive(r)
    expected = traces.size * (1 - r) / (1 + r)
    found = chains.effective_sample_size(traces)
    np.testing.assert_allclose(found, expected, rtol=0.15)
    # The variance of the mean over replicates is the definition.
    if r >= 0:
        means = autoregressive(r, 400, 1000, seed=1).mean(axis=1)
        share = 1 / (1000 * means.var())
        np.testing.assert_allclose(found / traces.size, share, rtol=0.25)


def test_r_hat_tells_mixed_from_unmixed():
    traces = autoregressive(0.3, num_draws=1000)
    assert abs(chains.r_hat(traces) - 1) < 0.01
    apart = traces + 3 * np.arange(4)[:, None]
    assert chains.r_hat(apart) > 1.5
    wider = traces * np.array([1, 1, 1, 4])[:, None]
    assert chains.r_hat(wider) > 1.05
    assert chains.effective_sample_size(apart) < 50


def test_drifting_chains_are_seen_within_each_chain():
    assert chains.r_hat(np.linspace(0, 1, 200) + np.zeros((4, 1))) > 1.5


@pytest.mark.parametrize(
    "traces",
    [np.zeros((4, 100)), np.full((4, 100), np.nan), np.ones((4, 3)), np.ones((0, 9))],
    ids=["constant", "nan", "short", "no chains"],
)
def test_undefined_is_nan(traces):
    assert np.isnan(chains.effective_sample_size(traces))
    assert np.isnan(chains.r_hat(traces))


def test_one_chain_has_a_sample_size_and_no_r_hat():
    traces = autoregressive(0.5, num_chains=1)
    assert chains.effective_sample_size(traces) > 1000
    assert np.isnan(chains.r_hat(traces))


def test_chains_that_never_move_have_infinite_r_hat():
    assert chains.r_hat(np.arange(4.0)[:, None] + np.zeros((4, 50))) == np.inf


def test_one_trace_is_refused():
    with pytest.raises(ValueError, match=r"shape \(9,\): want \[chains, draws\]"):
        chains.r_hat(np.zeros(9))


def test_acceptance_by_hand():
    probability = np.array([[1.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    accepted = np.array([[1, 1, 0, 1], [1, 0, 0, 0]], np.float32)
    finite = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.float32)
    found = chains.acceptance(probability, accepted, finite)
    assert found == {
        "acceptance": 0.25,
        "acceptance_lowest": 0.0,
        "stuck": 0.5,
        "non_finite": 0.125,
    }
    empty = np.zeros((4, 0))
    assert np.isnan(chains.acceptance(empty, empty, empty)["acceptance"])
