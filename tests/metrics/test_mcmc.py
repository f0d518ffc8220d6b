import numpy as np
import pytest
from scipy import signal

from megjax.metrics import mcmc
from megjax.samplers import kernel


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
    found = mcmc.effective_sample_size(traces)
    np.testing.assert_allclose(found, expected, rtol=0.15)
    # The variance of the mean over replicates is the definition.
    if r >= 0:
        means = autoregressive(r, 400, 1000, seed=1).mean(axis=1)
        share = 1 / (1000 * means.var())
        np.testing.assert_allclose(found / traces.size, share, rtol=0.25)


def test_r_hat_tells_mixed_from_unmixed():
    traces = autoregressive(0.3, num_draws=1000)
    assert abs(mcmc.r_hat(traces) - 1) < 0.01
    apart = traces + 3 * np.arange(4)[:, None]
    assert mcmc.r_hat(apart) > 1.5
    wider = traces * np.array([1, 1, 1, 4])[:, None]
    assert mcmc.r_hat(wider) > 1.05
    assert mcmc.effective_sample_size(apart) < 50


def test_drifting_chains_are_seen_within_each_chain():
    assert mcmc.r_hat(np.linspace(0, 1, 200) + np.zeros((4, 1))) > 1.5


@pytest.mark.parametrize(
    "traces",
    [np.zeros((4, 100)), np.full((4, 100), np.nan), np.ones((4, 3)), np.ones((0, 9))],
    ids=["constant", "nan", "short", "no chains"],
)
def test_undefined_is_nan(traces):
    assert np.isnan(mcmc.effective_sample_size(traces))
    assert np.isnan(mcmc.r_hat(traces))


def test_indicators_are_numbers():
    traces = autoregressive(0.3) > 0
    for statistic in (mcmc.effective_sample_size, mcmc.r_hat):
        assert statistic(traces) == statistic(traces.astype(float))


def test_one_chain_has_a_sample_size_and_no_r_hat():
    traces = autoregressive(0.5, num_chains=1)
    assert mcmc.effective_sample_size(traces) > 1000
    assert np.isnan(mcmc.r_hat(traces))


def test_chains_that_never_move_have_infinite_r_hat():
    assert mcmc.r_hat(np.arange(4.0)[:, None] + np.zeros((4, 50))) == np.inf


def test_one_trace_is_refused():
    with pytest.raises(ValueError, match=r"shape \(9,\): want \[chains, draws\]"):
        mcmc.r_hat(np.zeros(9))


def test_acceptance_by_hand():
    probability = np.array([[1.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    accepted = np.array([[1, 1, 0, 1], [1, 0, 0, 0]], np.float32)
    divergent = np.array([[0, 0, 0, 0], [0, 0, 0, 1]], np.float32)
    found = mcmc.acceptance(probability, accepted, divergent)
    assert found == {
        "acceptance": 0.25,
        "acceptance_lowest": 0.0,
        "stuck": 0.5,
        "divergent": 0.125,
    }
    empty = np.zeros((4, 0))
    assert np.isnan(mcmc.acceptance(empty, empty, empty)["acceptance"])


def draws(r, num_chains=8, num_draws=20_000):
    """AR(1) coordinates of several coefficients [chains, draws, len(r)]."""
    columns = [
        autoregressive(one, num_chains, num_draws, seed=i) for i, one in enumerate(r)
    ]
    return np.stack(columns, axis=2)


def test_autocorrelations_by_hand():
    # About 0: (1 + 4 + 9) / 3, (1 2 + 2 3) / 3 and 1 3 / 3, divided by a variance of 2.
    known = mcmc.Estimator(mean=np.zeros(1), variance=np.full(1, 2.0))
    x = np.array([1.0, 2.0, 3.0])[None, :, None]
    found = mcmc.autocorrelations(x, known)[:, 0]
    np.testing.assert_allclose(found, [14 / 6, 8 / 6, 3 / 6], rtol=1e-12)
    # About their mean, 2: (1 + 0 + 1) / 3, 0 and -1 / 3.
    found = mcmc.autocorrelations(x, mcmc.Estimator())[:, 0]
    np.testing.assert_allclose(found, [1, 0, -0.5], atol=1e-12)


@pytest.mark.parametrize("truncation", mcmc.TRUNCATIONS)
@pytest.mark.parametrize("known", [True, False], ids=["known", "empirical"])
def test_efficiency_of_an_autoregression(truncation, known):
    """(1 - r) / (1 + r); less what lags with a correlation below .05 would add."""
    r = np.array([0.0, 0.5, 0.9])
    moments = {"mean": np.zeros(3), "variance": np.ones(3)} if known else {}
    estimator = mcmc.Estimator(truncation, **moments)
    total = r / (1 - r)
    if truncation != "geyer":
        kept = np.floor(np.log(0.05) / np.log(np.maximum(r, 1e-9)))
        total -= r ** (kept + 1) / (1 - r)
    found = mcmc.efficiencies(draws(r), estimator)
    np.testing.assert_allclose(found, 1 / (1 + 2 * total), rtol=0.08)
    if truncation != "geyer":
        assert np.all(found[1:] > (1 - r[1:]) / (1 + r[1:]))


def test_antithetic_draws_earn_credit_from_geyer_only():
    x = draws([-0.4])
    geyer = mcmc.efficiencies(x)
    np.testing.assert_allclose(geyer, 1.4 / 0.6, rtol=0.1)
    # -.4 + .16 - .064, and .0256 ends it.
    first = mcmc.efficiencies(x, mcmc.Estimator("first"))
    np.testing.assert_allclose(first, 1 / (1 - 0.608), rtol=0.1)
    above = mcmc.efficiencies(x, mcmc.Estimator("above"))
    # Even lags are positive: .16, and .0256 is cut.
    np.testing.assert_allclose(above, 1 / 1.32, rtol=0.08)


def test_geyer_agrees_with_arviz():
    x = draws([0.3, 0.8, -0.3], num_draws=5000)
    expected = [mcmc.effective_sample_size(x[..., i]) for i in range(3)]
    np.testing.assert_allclose(mcmc.efficiencies(x) * 40_000, expected, rtol=0.05)


def test_trace_weighting_follows_the_widest_direction():
    x = draws([0.9, 0.0]) * np.array([0.1, 10.0])
    estimator = mcmc.Estimator("above", trace_weighted=True)
    weighted = mcmc.efficiencies(x, estimator)
    assert weighted.shape == (1,) and weighted[0] > 0.97
    assert np.min(mcmc.efficiencies(x)) < 0.07


def test_stuck_chains_are_seen_around_the_pooled_and_the_known_mean():
    apart = draws([0.0]) + np.where(np.arange(8) % 2, 3.0, -3.0)[:, None, None]
    assert mcmc.efficiencies(apart) < 1e-3
    same = draws([0.0]) + 3
    assert mcmc.efficiencies(same) > 0.9
    assert mcmc.efficiencies(same, mcmc.Estimator(mean=np.zeros(1))) < 1e-3


def test_too_large_a_variance_inflates():
    """Why reference moments have to be right."""
    r = [0.9]
    right = mcmc.Estimator("above", mean=np.zeros(1), variance=np.ones(1))
    wrong = right._replace(variance=np.full(1, 4.0))
    x = draws(r)
    assert mcmc.efficiencies(x, wrong) > 2.5 * mcmc.efficiencies(x, right)


def test_efficiency_of_what_does_not_vary_is_nan():
    x = draws([0.5, 0.5], num_draws=100)
    x[..., 1] = 2.0
    found = mcmc.efficiencies(x)
    assert np.isfinite(found[0]) and np.isnan(found[1])
    x[0, 0, 1] = np.inf
    with np.errstate(invalid="ignore"):
        assert np.isnan(mcmc.efficiencies(x)[1])


def test_squared_jumps_by_hand_and_of_an_autoregression():
    x = np.array([[0.0, 1.0, 3.0], [0.0, 0.0, 1.0]])[..., None]
    np.testing.assert_allclose(mcmc.squared_jumps(x), [(1 + 4 + 0 + 1) / 4])
    r = np.array([0.0, 0.5, 0.9])
    np.testing.assert_allclose(mcmc.squared_jumps(draws(r)), 2 * (1 - r), rtol=0.03)


def test_report_of_an_autoregression():
    r = np.array([0.5, 0.9])
    x = draws(r) * np.array([1.0, 2.0]) + 1
    found = mcmc.report(
        x,
        gradients_per_draw=4,
        seconds=2.0,
        mean=np.ones(2),
        variance=np.array([1.0, 4.0]),
    )
    worst = 0.1 / 1.9
    np.testing.assert_allclose(found["ess_geyer"], worst, rtol=0.08)
    np.testing.assert_allclose(found["ess_per_gradient"], worst / 4, rtol=0.08)
    np.testing.assert_allclose(found["ess_per_second"], worst * 80_000, rtol=0.08)
    np.testing.assert_allclose(found["ess_geyer_x0"], 1 / 3, rtol=0.08)
    assert found["ess_above"] < found["ess_geyer_x0"] < found["ess_above_x0"] < 0.4
    assert found["ess_above_others"] == found["ess_above"]
    assert found["ess_geyer_others"] == found["ess_geyer"]
    turned = mcmc.report(
        x[..., ::-1], gradients_per_draw=4, mean=np.ones(2), variance=np.array([4.0, 1])
    )
    np.testing.assert_allclose(turned["ess_above_others"], found["ess_above_x0"])
    assert worst < found["ess_above"] < found["ess_first"] * 1.1
    assert found["ess_above"] < found["ess_trace"] < found["ess_geyer_x0"]
    np.testing.assert_allclose(found["squared_jump"], 1 + 4 * 0.2, rtol=0.05)
    np.testing.assert_allclose(found["relative_jump"], 0.1, rtol=0.05)
    assert found["mean_error"] < 0.05 and found["r_hat"] < 1.01
    assert 0.9 < found["variance_ratio_lowest"] <= found["variance_ratio_highest"] < 1.1
    x[..., 1] = 0.0
    assert np.isnan(mcmc.report(x, gradients_per_draw=4)["r_hat"])


@pytest.mark.parametrize(
    "x, estimator, message",
    [
        (np.zeros((2, 9)), mcmc.Estimator(), r"shape \(2, 9\): want \[chains, draws"),
        (np.zeros((2, 9, 1)), mcmc.Estimator("none"), "truncation='none': choose"),
        (np.zeros((2, 9, 1)), mcmc.Estimator(mean=np.zeros(2)), r"want \[1\]"),
    ],
)
def test_malformed_requests_are_refused(x, estimator, message):
    with pytest.raises(ValueError, match=message):
        mcmc.efficiencies(x, estimator)


def test_exported_chains_are_what_arviz_reads():
    x = draws([0.5, 0.9], num_draws=50)
    ones = np.ones((8, 50))
    found = mcmc.exported(x, kernel.Info(0.5 * ones, ones, ones == 0), name="z")
    assert found["posterior"]["z"].shape == (8, 50, 2)
    np.testing.assert_array_equal(found["posterior"]["z"].values, x)
    assert float(found["sample_stats"]["acceptance_rate"].mean()) == 0.5
    assert "sample_stats" not in mcmc.exported(x)
