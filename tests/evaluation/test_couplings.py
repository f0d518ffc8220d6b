"""Inverse Ising on models whose couplings are known."""

import numpy as np
import pytest

from megjax.evaluation import couplings

METHODS = [
    couplings.maximum_likelihood,
    couplings.pseudo_likelihood,
    couplings.mean_field,
    couplings.tap,
]


def model(n, scale, seed=0):
    """(states [2^n, n], probabilities, fields, couplings) of random numbers."""
    rng = np.random.RandomState(seed)
    upper = np.triu(rng.normal(size=(n, n)) * scale, 1)
    j, h = upper + upper.T, 0.3 * rng.normal(size=n)
    states = 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1) - 1
    logits = states @ h + 0.5 * np.sum(states @ j * states, 1)
    probs = np.exp(logits - logits.max())
    return states, probs / probs.sum(), h, j


def draws(num, *args, seed=1):
    states, probs, h, j = model(*args)
    rows = np.random.RandomState(seed).choice(len(states), num, p=probs)
    return states[rows], h, j


@pytest.mark.parametrize(
    "method", [couplings.maximum_likelihood, couplings.pseudo_likelihood]
)
def test_exact_proportions_give_the_couplings_back(method):
    """Both estimates are consistent: on a table in proportion they are the truth."""
    states, probs, _, _ = model(3, 0.5)
    counts = np.round(probs * 1_000_000).astype(int)
    found = method(np.repeat(states, counts, axis=0))
    _, _, h, j = model(3, 0.5)
    np.testing.assert_allclose(found.couplings, j, atol=2e-5)
    np.testing.assert_allclose(found.fields, h, atol=2e-5)


def test_two_spins_by_hand():
    # Without fields <s1 s2> = tanh J.
    agree = np.array([[1.0, 1], [-1, -1]])
    x = np.concatenate([np.repeat(agree, 3, axis=0), agree * [1, -1]])
    for method in METHODS[:2]:
        found = method(x)
        assert found.couplings[0, 1] == pytest.approx(np.arctanh(0.5))
        np.testing.assert_allclose(found.fields, 0, atol=1e-12)
    # Fisher information of J: N (1 - <s1 s2>^2).
    error = couplings.maximum_likelihood(x).coupling_errors[0, 1]
    assert error == pytest.approx(1 / np.sqrt(8 * 0.75))


@pytest.mark.parametrize("method", METHODS)
def test_errors_are_the_scatter_over_repetitions(method):
    found = [method(draws(2000, 5, 0.15, seed=seed)[0]) for seed in range(40)]
    pairs = np.triu_indices(5, 1)
    scatter = np.std([one.couplings[pairs] for one in found], axis=0)
    claimed = np.mean([one.coupling_errors[pairs] for one in found], axis=0)
    # 40 repetitions know a deviation to 11 %, ten pairs together better.
    assert np.mean(claimed / scatter) == pytest.approx(1, abs=0.15)
    scatter = np.std([one.fields for one in found], axis=0)
    claimed = np.mean([one.field_errors for one in found], axis=0)
    assert np.mean(claimed / scatter) == pytest.approx(1, abs=0.2)


def test_tap_is_one_order_better_than_mean_field():
    """Without sampling noise, at two strengths: errors fall as J^3 against J^2."""
    deviations = []
    for scale in (0.1, 0.05):
        states, probs, _, j = model(3, scale)
        counts = np.round(probs * 1_000_000).astype(int)
        x = np.random.RandomState(0).permutation(np.repeat(states, counts, axis=0))
        for method in (couplings.mean_field, couplings.tap):
            found = method(x, num_groups=2)
            deviations.append(couplings.recovery(found, j)["rms_error"])
    naive, better, weak_naive, weak_better = deviations
    assert better < naive / 2 and weak_better < weak_naive / 2
    assert 3 < naive / weak_naive < 5 and better / weak_better > 6


def test_likelihoods_beat_mean_fields_at_strong_coupling():
    x, _, j = draws(20_000, 8, 0.4)
    found = [couplings.recovery(method(x), j) for method in METHODS]
    assert all(one["rms_error"] < 0.03 for one in found[:2])
    assert all(one["rms_error"] > 0.06 for one in found[2:])
    assert all(one["within_two_errors"] > 0.8 for one in found[:2])
    assert all(one["within_two_errors"] < 0.6 for one in found[2:])


def test_tap_is_mean_field_without_magnetisation():
    x, _, _ = draws(500, 5, 0.2)
    x = np.concatenate([x, -x])
    first, second = couplings.mean_field(x), couplings.tap(x)
    np.testing.assert_allclose(first.couplings, second.couplings, atol=1e-12)
    np.testing.assert_allclose(second.fields, 0, atol=1e-12)


def test_unusable_data():
    x, _, _ = draws(100, 4, 0.1)
    for method in METHODS:
        with pytest.raises(ValueError, match="give spins -1 and 1"):
            method(x + 1)
        with pytest.raises(ValueError, match="never changes, or two always agree"):
            method(np.concatenate([x, x[:, :1]], axis=1))
    with pytest.raises(ValueError, match="give at most 16"):
        couplings.maximum_likelihood(np.random.RandomState(0).choice([-1, 1], (99, 17)))


def ring(num):
    return np.stack([np.arange(num), (np.arange(num) + 1) % num], axis=1)


def test_on_all_bonds_it_is_the_plain_pseudo_likelihood():
    """Fields, couplings and, with every row a group of its own, errors."""
    x, _, _ = draws(500, 4, 0.3)
    plain, pairs = couplings.pseudo_likelihood(x), np.triu_indices(4, 1)
    edges = np.stack(pairs, axis=1)[[3, 0, 5, 1, 4, 2]]
    found = couplings.bond_pseudo_likelihood(x, edges, num_groups=500)
    np.testing.assert_allclose(found.fields, plain.fields, atol=1e-12)
    first, second = edges.T
    np.testing.assert_allclose(found.couplings, plain.couplings[first, second])
    errors = plain.coupling_errors[first, second]
    np.testing.assert_allclose(found.coupling_errors, errors)
    assert found.mean.value == pytest.approx(plain.couplings[pairs].mean())
    assert found.mean.error < errors.mean()


@pytest.mark.parametrize(
    "method", [couplings.shared_coupling, couplings.mean_field_coupling]
)
def test_dependent_draws_count_once(method):
    """Rows three times over say no more where the parts keep them together."""
    x, _, _ = draws(200, 5, 0.2)
    copies = np.repeat(x, 3, axis=0)
    edges = ring(5)
    once = method(x, edges, num_groups=50)
    thrice = method(copies, edges, num_groups=50)
    assert thrice.error == pytest.approx(once.error, rel=0.02)
    parted = method(
        copies[np.random.RandomState(0).permutation(600)], edges, num_groups=50
    )
    assert parted.error < 0.8 * once.error


def test_the_error_of_the_mean_is_its_scatter():
    edges, means, errors = ring(6), [], []
    for seed in range(60):
        x, _, _ = draws(1000, 6, 0.15, seed=seed)
        found = couplings.bond_pseudo_likelihood(x, edges, num_groups=100).mean
        shared = couplings.shared_coupling(x, edges, num_groups=100)
        means.append((found.value, shared.value))
        errors.append((found.error, shared.error))
    # 60 repetitions know a deviation to 9 %.
    ratios = np.mean(errors, axis=0) / np.std(means, axis=0, ddof=1)
    np.testing.assert_allclose(ratios, 1, atol=0.3)


def test_one_coupling_of_a_ring():
    """On a table in proportion both give the common coupling back, without fields."""
    states = 2.0 * (np.arange(32)[:, None] >> np.arange(5) & 1) - 1
    weights = np.exp(0.4 * np.sum(states * np.roll(states, -1, 1), 1))
    counts = np.round(weights / weights.sum() * 200_000).astype(int) // 2 * 2
    x = np.tile(np.repeat(states, counts // 2, axis=0), (2, 1))
    shared = couplings.shared_coupling(x, ring(5), num_groups=2)
    assert shared.value == pytest.approx(0.4, abs=1e-3)
    found = couplings.bond_pseudo_likelihood(x, ring(5), num_groups=2)
    np.testing.assert_allclose(found.couplings, 0.4, atol=2e-3)
    # Three of four pairs agree: <s1 s2> = tanh J.
    pair = np.array([[1, 1], [1, 1], [-1, -1], [1, -1]])
    by_hand = couplings.shared_coupling(pair, np.array([[0, 1]]), num_groups=2)
    assert by_hand.value == pytest.approx(np.arctanh(0.5))


def test_the_mean_field_of_bonds_is_that_of_all_pairs():
    x, _, _ = draws(400, 5, 0.2)
    plain = couplings.mean_field(x, num_groups=20)
    found = couplings.mean_field_coupling(x, ring(5), num_groups=20)
    assert found.value == pytest.approx(plain.couplings[tuple(ring(5).T)].mean())


def test_parts_must_come_out_even():
    x, _, _ = draws(100, 4, 0.1)
    for method in (
        couplings.bond_pseudo_likelihood,
        couplings.shared_coupling,
        couplings.mean_field_coupling,
    ):
        for num in (1, 30):
            with pytest.raises(ValueError, match=f"num_groups={num} of 100 rows"):
                method(x, ring(4), num_groups=num)
