"""The RBM transformer: scikit-learn's contract, known machines, recovered densities."""

import pickle

import jax
import numpy as np
import pytest
from scipy import special
from sklearn import neural_network, pipeline, preprocessing
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.utils import estimator_checks

import megjax
from megjax.energies import exact, rbm, units
from megjax.estimators import base
from megjax.estimators.rbm import RBM

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def digits():
    return (load_digits().data > 7).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(digits):
    return RBM(16, n_iter=5, batch_size=50, random_state=0).fit(digits)


def small(**changes):
    return RBM(**{"n_components": 4, "n_iter": 2, "random_state": 0} | changes)


@pytest.fixture
def untrained(monkeypatch):
    """The contract does not depend on training, of which each shape would compile."""

    def start(learner, state, rows, steps, **settings):
        return jax.device_get(state)

    monkeypatch.setattr(base, "trained", start)


class OfAnyRows(RBM):
    """Takes the rows of scikit-learn's checks, which no tag brings into [0, 1]."""

    def _table(self, X, *, reset=False):
        return special.expit(super()._table(X, reset=reset))


# BernoulliRBM is excused from two checks of invariance, which hold here.
@estimator_checks.parametrize_with_checks(
    [OfAnyRows(4, n_iter=2, random_state=0), small(visible="gaussian")]
)
def test_it_is_a_scikit_learn_estimator(estimator, check, untrained):
    check(estimator)


def test_it_computes_what_scikit_learns_machine_does(digits, fitted):
    theirs = neural_network.BernoulliRBM(16, n_iter=1, random_state=0).fit(digits)
    ours = pickle.loads(pickle.dumps(fitted))
    for name in ("components_", "intercept_hidden_", "intercept_visible_"):
        setattr(ours, name, getattr(theirs, name))
    theirs.random_state = np.random.RandomState(0)
    x = digits[:50]
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), atol=1e-5)
    np.testing.assert_allclose(
        ours.score_samples(x), -theirs._free_energy(x), rtol=1e-5, atol=1e-3
    )
    # Their score is an unbiased draw of our sum over bits.
    draws = np.array([np.mean(theirs.score_samples(x)) for _ in range(400)])
    exactly = np.mean(ours.pseudo_likelihood(x))
    assert abs(np.mean(draws) - exactly) < 4 * np.std(draws) / 20


def test_pseudo_likelihood_is_the_sum_of_conditionals(fitted, digits):
    x = digits[:4]
    score = fitted.score_samples(x)
    total = np.zeros(4)
    for i in range(64):
        flipped = x.copy()
        flipped[:, i] = 1 - flipped[:, i]
        total += -np.logaddexp(0, fitted.score_samples(flipped) - score)
    np.testing.assert_allclose(fitted.pseudo_likelihood(x), total, rtol=1e-4)


@pytest.mark.parametrize("annealed", [False, True])
def test_likelihoods_are_those_of_all_states(annealed, monkeypatch):
    machine = small(n_iter=1).fit(np.eye(6).repeat(3, axis=0))
    machine.components_ = 2 * np.random.default_rng(0).normal(size=(4, 6))
    states = np.asarray(exact.states(units.BERNOULLI, 6))
    expected = special.logsumexp(machine.score_samples(states))
    if annealed:
        monkeypatch.setattr("megjax.estimators.rbm._ENUMERATED", 0)
    found = machine.log_partition(num_steps=1000)
    assert found == machine.log_partition(num_steps=1000)
    if annealed:
        assert 0 < found.high - found.low < 0.3
        assert abs(found.log_z - expected) < found.high - found.low
        assert 10 < found.effective_sample_size <= 100
    else:
        assert abs(found.log_z - expected) < 1e-4 and found.low == found.high
        total = np.exp(machine.log_likelihood(states)).sum()
        np.testing.assert_allclose(total, 1, rtol=1e-4)


def test_likelihood_with_gaussian_units(digits):
    machine = small(visible="gaussian", n_components=2, n_iter=1).fit(digits[:, 18:20])
    machine.components_ = np.array([[1.0, -0.5], [0.3, 0.8]])
    grid = np.linspace(-8, 9, 200)
    points = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    mass = np.exp(machine.log_likelihood(points)).sum() * (grid[1] - grid[0]) ** 2
    np.testing.assert_allclose(mass, 1, rtol=1e-3)
    large = small(visible="gaussian", n_components=17, n_iter=1).fit(digits[:9])
    with pytest.raises(ValueError, match="n_components=17: .* at most 16 hidden"):
        large.log_likelihood(digits[:9])


def test_training_raises_the_pseudo_likelihood(digits, fitted):
    independent = RBM(1, learning_rate=0, n_iter=1, random_state=0).fit(digits)
    before = independent.pseudo_likelihood(digits).mean()
    assert fitted.pseudo_likelihood(digits).mean() > before + 4
    error = np.mean((fitted.reconstruct(digits) - digits) ** 2)
    assert error < 0.8 * np.mean(np.var(digits, axis=0))


@pytest.mark.slow
def test_a_known_machine_is_learned_back():
    """Data of an enumerated machine: the fit gives them nearly the same distribution."""
    layers = rbm.layer_kinds()
    weights = 4 * jax.random.normal(jax.random.key(0), (4, 2))
    params = {
        "weights": weights,
        "visible_bias": -weights.sum(1) / 2,
        "hidden_bias": -weights.sum(0) / 2,
    }
    truth = exact.distribution(
        lambda v: rbm.energy(params, v, layers=layers), units.BERNOULLI, 4
    )
    x = np.asarray(exact.sample(jax.random.key(1), truth, 5000))
    machine = RBM(3, batch_size=100, n_iter=60, random_state=0).fit(x)
    score = machine.score_samples(np.asarray(truth.states))
    log_probs = score - np.logaddexp.reduce(score)
    probs = np.exp(np.asarray(truth.log_probs))
    divergence = np.sum(probs * (np.asarray(truth.log_probs) - log_probs))
    independent = np.asarray(x.mean(0))
    bits = np.asarray(truth.states)
    product = np.prod(np.where(bits == 1, independent, 1 - independent), axis=1)
    assert np.sum(probs * np.log(probs / product)) > 0.3
    assert divergence < 0.06
    drawn = machine.sample(4000, num_sweeps=200, start=x)
    np.testing.assert_allclose(drawn.mean(0), np.exp(log_probs) @ bits, atol=0.05)


@pytest.mark.slow
def test_gaussian_units_take_real_rows():
    rng = np.random.RandomState(0)
    x = rng.normal(size=(2000, 3)) * 0.5 + np.where(rng.rand(2000, 1) < 0.5, -2, 2)
    machine = RBM(
        4,
        visible="gaussian",
        learning_rate=0.02,
        batch_size=50,
        n_iter=30,
        learned_precision=True,
        random_state=0,
    ).fit(x)
    drawn = machine.sample(500, num_sweeps=100, start=x)
    np.testing.assert_allclose(np.abs(drawn).mean(), 2, rtol=0.2)
    assert (
        machine.score_samples([[2.0, 2, 2]]) > machine.score_samples([[0.0, 0, 0]]) + 1
    )
    assert np.all(machine.precision_ > 1)
    error = np.mean((machine.reconstruct(x) - x) ** 2)
    assert error < 0.3 * np.mean(np.var(x, axis=0))


def test_partial_fit_goes_on_where_training_stands(digits):
    whole = small(n_iter=3).fit(digits)
    parts = small()
    for _ in range(3):
        parts.partial_fit(digits)
    np.testing.assert_array_equal(whole.components_, parts.components_)
    # Every pass has an order and chains of its own.
    assert parts.n_steps_ == 3 * (len(digits) // 10)
    moved = parts.partial_fit(digits[:20])
    assert np.any(moved.components_ != whole.components_)
    again = small(n_iter=3).fit(digits)
    np.testing.assert_array_equal(again.components_, whole.components_)


def test_partial_fit_passes_over_every_row_of_sets_of_other_lengths():
    # Without its bias every row pulls at weights of its own column.
    rows = np.eye(30)
    machine = small(batch_size=5, learning_rate=0.01).partial_fit(rows[:15])
    before = machine.components_
    machine.partial_fit(rows)
    moved = np.abs(machine.components_ - before).sum(axis=0)
    assert machine.n_steps_ == 12
    assert np.all(moved > 0)


def test_parameters_set_after_the_fit_are_refused_where_they_cannot_hold(digits):
    machine = small(persistent=False).fit(digits)
    with pytest.raises(ValueError, match=r"batch_size=20 was set after training start"):
        machine.set_params(batch_size=20).partial_fit(digits)
    rows = np.random.default_rng(0).normal(size=(200, 4)) * [1, 1, 3, 0.5]
    machine = small(visible="gaussian", learned_precision=True, n_iter=20).fit(rows)
    with pytest.raises(ValueError, match="learned_precision=False was set after the f"):
        machine.set_params(learned_precision=False).score_samples(rows)


def test_l1_makes_zeros(digits):
    machine = small(l1=0.05, n_iter=3).fit(digits)
    assert np.mean(machine.components_ == 0) > 0.2


def test_contrastive_divergence_restarts_at_the_rows(digits):
    machine = small(persistent=False, num_sweeps=2).fit(digits)
    assert np.isfinite(machine.components_).all()
    assert np.any(machine.components_ != small().fit(digits).components_)


def test_gibbs_moves_to_likely_bits(fitted, digits):
    moved = fitted.gibbs(digits)
    assert moved.shape == digits.shape and set(np.unique(moved)) == {0.0, 1.0}
    assert 0.02 < np.mean(moved != digits) < 0.3
    assert np.any(fitted.gibbs(digits) != moved)


def test_it_works_in_pipelines_and_survives_pickle(digits, fitted):
    steps = pipeline.make_pipeline(preprocessing.MinMaxScaler(), small())
    assert steps.fit_transform(digits[:100]).shape == (100, 4)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(digits), fitted.transform(digits))
    np.testing.assert_array_equal(
        again.sample(3, num_sweeps=2), fitted.sample(3, num_sweeps=2)
    )
    assert clone(fitted).n_components == 16
    assert list(fitted.get_feature_names_out()[:2]) == ["rbm0", "rbm1"]
    assert megjax.RBM is RBM


@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_a_loaded_machine_goes_on_as_the_saved_one_would(digits, tmp_path, visible):
    changes = {"l1": 0.01, "learning_rate": 0.01, "visible": visible}
    saved = small(learned_precision=visible == "gaussian", **changes).fit(digits)
    saved.save(tmp_path / "one.npz")
    loaded = RBM.load(tmp_path / "one.npz")
    assert loaded.get_params() == saved.get_params()
    for again in (saved, loaded):
        again.drawn = again.sample(3, num_sweeps=2)
        again.partial_fit(digits[:100])
    np.testing.assert_array_equal(loaded.drawn, saved.drawn)
    np.testing.assert_array_equal(loaded.components_, saved.components_)
    np.testing.assert_array_equal(
        loaded.score_samples(digits), saved.score_samples(digits)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"visible": "potts"},
            "visible='potts': choose one of 'bernoulli', 'gaussian'",
        ),
        ({"n_components": 0}, "n_components=0: give a whole number from 1 up"),
        ({"batch_size": 2.5}, "batch_size=2.5: give a whole number"),
        ({"learning_rate": -1}, "learning_rate=-1: give a number in"),
        ({"l2": True}, "l2=True: give a number in"),
        ({"l1": float("nan")}, "l1=nan: give a number in"),
        ({"learned_precision": True}, "only visible='gaussian' has a precision"),
    ],
)
def test_unusable_parameters(digits, change, message):
    with pytest.raises(ValueError, match=message):
        small(**change).fit(digits)


def test_unusable_calls(fitted, digits):
    with pytest.raises(ValueError, match="zeros and ones"):
        fitted.pseudo_likelihood(digits / 2)
    with pytest.raises(ValueError, match="n_samples=0: give a whole number"):
        fitted.sample(0)
    with pytest.raises(FloatingPointError, match="training diverged"):
        small(visible="gaussian", learning_rate=1e6, n_iter=5).fit(100 * digits)
