import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from megjax.data import toy

FRESH = [toy.gaussians_8, toy.swiss_roll]
FIXED = [toy.gaussians_25, toy.two_spirals, toy.four_spin]


def nearest(x, centres):
    squares = ((x[:, None] - centres) ** 2).sum(-1)
    return squares.argmin(1), np.sqrt(squares.min(1))


def test_grid_has_the_reference_scale():
    centres, std = toy.grid_25()
    assert centres.shape == (25, 2) and std == pytest.approx(0.01768, abs=1e-5)
    assert np.unique(centres[:, 0]) == pytest.approx(
        [-1.41443, -0.70721, 0, 0.70721, 1.41443], abs=1e-5
    )


def test_ring_has_the_reference_scale():
    centres, std = toy.ring_8()
    assert std == pytest.approx(0.01414, abs=1e-5)
    assert np.hypot(*centres.T) == pytest.approx(np.full(8, 1.41443), abs=1e-5)
    assert centres[1] == pytest.approx([1.00015, 1.00015], abs=1e-4)


def test_log_density_of_one_far_mode_by_hand():
    mixture = toy.Mixture(np.float32([[0, 0], [100, 0]]), 2.0)
    log_density = toy.mixture_log_density(mixture, jnp.array([[0.0, 2.0]]))
    # -(2 / 2)^2 / 2, two components, and 2 pi 2^2 in two dimensions.
    expected = -0.5 - np.log(2) - np.log(2 * np.pi * 4)
    assert log_density == pytest.approx([expected], abs=1e-5)


def test_log_density_integrates_to_one():
    axis = np.linspace(-2, 2, 801)
    grid = np.stack(np.meshgrid(axis, axis), -1)
    for mixture in (toy.grid_25(), toy.ring_8()):
        density = np.exp(np.asarray(toy.mixture_log_density(mixture, grid), float))
        assert density.shape == (801, 801)
        assert density.sum() * 0.005**2 == pytest.approx(1, abs=1e-4)


def test_gaussians_25_are_balanced_and_normal_around_the_centres():
    data = toy.gaussians_25()
    assert data.num_examples == 100_000 and data.store.shape == (100_000, 2)
    centres, std = toy.grid_25()
    component, _ = nearest(data.store[:25_000], centres)
    assert set(np.bincount(component)) == {1000}
    noise = (data.store[:25_000] - centres[component]).ravel() / std
    assert stats.kstest(noise, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(noise[::2], noise[1::2])[0, 1]) < 4 / np.sqrt(25_000)


def test_gaussians_8_are_uniform_over_modes_and_normal():
    data = toy.gaussians_8()
    x = np.asarray(jax.jit(data.take)(data.store, jnp.arange(20_000)))
    centres, std = toy.ring_8()
    component, _ = nearest(x, centres)
    assert stats.chisquare(np.bincount(component, minlength=8)).pvalue > 1e-4
    noise = (x - centres[component]).ravel() / std
    assert stats.kstest(noise, "norm").pvalue > 1e-4


def test_swiss_roll_matches_scikit_learns():
    from sklearn import datasets

    expected = datasets.make_swiss_roll(20_000, noise=0.25, random_state=0)[0]
    expected = expected[:, [0, 2]] / 7.5
    data = toy.swiss_roll()
    x = np.asarray(jax.jit(data.take)(data.store, jnp.arange(20_000)))
    for ours, theirs in zip(x.T, expected.T, strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-4
    radius, angle = np.hypot(*x.T), np.arctan2(x[:, 1], x[:, 0])
    turns = (radius * 7.5 - angle) / (2 * np.pi)
    assert abs(turns - turns.round()).mean() < 0.05


def test_two_spirals_are_two_mirrored_arms_within_their_radius():
    x = toy.two_spirals().store
    assert x.shape == (10_000, 2)
    assert 3 < np.quantile(np.hypot(*x.T), 0.99) < 3.6
    assert x[::2].mean(0) == pytest.approx(-x[1::2].mean(0), abs=0.05)
    # Along an arm the phase is the radius: radius 3 pi sqrt(u) / 3, angle pi - radius.
    radius = 3 * np.hypot(*(x[::2] - 0.25 / 3).T)
    turns = (np.pi - radius - np.arctan2(*(x[::2, ::-1] - 0.25 / 3).T)) / (2 * np.pi)
    turns = turns[radius > 5]
    assert abs(turns - turns.round()).mean() < 0.08


def test_four_spin_has_four_arms_a_quarter_turn_apart():
    x = toy.four_spin().store
    assert x.shape == (10_000, 2)
    along, across = np.hypot(*x.T) / 2, np.arctan2(x[:, 1], x[:, 0])
    assert along.mean() == pytest.approx(1, abs=0.02)
    assert along.std() == pytest.approx(0.3, abs=0.02)
    unturned = across + 0.25 * np.exp(along)
    quarters = unturned / (np.pi / 2)
    assert abs(quarters - quarters.round()).mean() < 0.1
    assert len(np.unique(quarters[along > 1].round() % 4)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("make", FRESH)
def test_fresh_example_depends_on_its_index_alone(make):
    data = make(seed=3)
    assert data.num_examples is None and data.store == ()
    take = jax.jit(data.take)
    x = take(data.store, jnp.array([5, -7, 2**31 - 1]))
    np.testing.assert_array_equal(
        take(data.store, jnp.array([2**31 - 1, 5, 5]))[0:2], x[jnp.array([2, 0])]
    )
    assert len(np.unique(x, axis=0)) == 3
    other = make(seed=4)
    assert (other.take(other.store, jnp.array([5])) != x[:1]).all()


@pytest.mark.parametrize("make", FIXED)
def test_fixed_set_depends_on_the_seed_alone(make):
    data = make(seed=1, num_examples=100)
    assert data.num_examples == len(data.store) == 100
    assert data.store.dtype == np.float32 and data.shape == (2,)
    np.testing.assert_array_equal(data.store, make(seed=1, num_examples=100).store)
    assert (data.store != make(seed=2, num_examples=100).store).any()
    np.testing.assert_array_equal(
        data.take(data.store, np.array([3, 99])), data.store[[3, 99]]
    )


@pytest.mark.parametrize(
    ("source", "log_density"),
    [
        (toy.swiss_roll, toy.swiss_roll_log_density),
        (toy.two_spirals, toy.two_spirals_log_density),
    ],
)
def test_densities_of_curves_are_those_of_their_points(source, log_density):
    """Their integral is 1, and cells hold as many points as they say."""
    axis = np.linspace(-4, 4, 201)[:-1] + 0.02
    grid = np.float32(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1))
    masses = np.exp(np.asarray(log_density(jnp.asarray(grid)))) * 0.04**2
    np.testing.assert_allclose(masses.sum(), 1, rtol=2e-3)
    data = source(seed=1)
    points = np.asarray(data.take(data.store, jnp.arange(10_000)))
    counts, _, _ = np.histogram2d(*points.T, bins=20, range=[(-4, 4)] * 2)
    expected = 10_000 * masses.reshape(20, 10, 20, 10).sum((1, 3))
    seen = expected > 5
    scores = (counts - expected)[seen] / np.sqrt(expected[seen])
    assert 0.5 < np.mean(scores**2) < 1.7 and np.max(np.abs(scores)) < 5
    assert counts[~seen].sum() < 0.02 * 10_000


@pytest.mark.parametrize("noise", [0.05, 0.25])
def test_the_roll_of_any_noise_is_a_sum_over_enough_points(noise):
    x = np.asarray(toy.swiss_roll(noise=noise).take((), jnp.arange(500)))
    t = 1.5 * np.pi * (1 + 2 * (np.arange(20_000) + 0.5) / 20_000)
    curve = (t * np.stack([np.cos(t), np.sin(t)])).T
    squares = ((7.5 * x[:, None] - curve) ** 2).sum(2)
    expected = special.logsumexp(-squares / (2 * noise**2), axis=1) - np.log(20_000)
    expected -= np.log(2 * np.pi * noise**2) - 2 * np.log(7.5)
    found = toy.swiss_roll_log_density(jnp.asarray(x), noise)
    np.testing.assert_allclose(found, expected, atol=0.2)
    assert abs(np.mean(np.asarray(found) - expected)) < 1e-3
