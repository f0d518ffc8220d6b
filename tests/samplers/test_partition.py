"""log Z by three ways, against closed forms; mutants of annealing are seen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.densities import reference, targets
from megjax.energies import rbm, units
from megjax.samplers import hmc, kernel, partition

pytestmark = pytest.mark.usefixtures("quick_compilation")


def normal(dim, std=1.0):
    """N(0, std^2) as a base."""
    return partition.Base(
        lambda key, num: std * jax.random.normal(key, (num, dim)),
        lambda x: reference.standard_log_prob(x / std) - dim * np.log(std),
    )


def turned_gaussian(dim):
    """A Gaussian with correlations, its energy, and log Z of that."""
    variances = np.logspace(-0.5, 0.3, dim)
    turn = np.linalg.qr(np.random.RandomState(0).normal(size=(dim, dim)))[0]
    target = targets.gaussian("turned", turn @ np.diag(variances) @ turn.T)
    return target, 0.5 * (dim * np.log(2 * np.pi) + np.log(variances).sum())


def energy_of(target):
    return lambda x: -jax.vmap(target.log_density)(x)


def test_estimate_by_hand():
    # Weights 1 and 3: their mean is 2.
    found = partition.estimate(5.0, np.log([1.0, 3.0]))
    np.testing.assert_allclose(found.log_z, 5 + np.log(2))
    np.testing.assert_allclose([found.low, found.high], 5 + np.log([1.0, 3.0]))
    np.testing.assert_allclose(found.effective_sample_size, 16 / 10)
    same = partition.estimate(0.0, np.full(7, -2000.0))
    np.testing.assert_allclose(same[:3], -2000.0)
    np.testing.assert_allclose(same.effective_sample_size, 7)
    # One weight says nothing of how weights differ.
    found = partition.estimate(5.0, np.log([3.0]))
    assert found == pytest.approx((5 + np.log(3), -np.inf, np.inf, 1.0))


@pytest.mark.parametrize("num", [200, 3000])
def test_interval_covers_the_truth_as_often_as_it_says(num):
    """The bootstrap's, and that of many weights."""
    rng, covered = np.random.RandomState(0), []
    for _ in range(200):
        # E exp(N(-1/2, 1)) = 1.
        found = partition.estimate(0.0, rng.normal(-0.5, 1.0, num))
        covered.append(found.low < 0 < found.high)
    assert 0.86 < np.mean(covered) < 0.99


def test_quadrature_of_a_gaussian_and_of_cells_too_large():
    energy_fn = lambda x: jnp.sum((x / 0.1) ** 2, -1) / 2
    found = partition.quadrature(energy_fn, [-1, -2], [1.5, 2], num_cells=200)
    np.testing.assert_allclose(found.log_z, np.log(2 * np.pi * 0.01), atol=1e-4)
    assert found.low <= found.log_z <= found.high < found.low + 1e-2
    with pytest.raises(ValueError, match="num_cells=8: log Z differs by .* give more"):
        partition.quadrature(energy_fn, [-1, -2], [1.5, 2], num_cells=8)


def test_importance_sampling_of_a_gaussian_and_no_figure_from_afar():
    target, log_z = turned_gaussian(2)
    estimate = functools.partial(partition.importance, jax.random.key(0), num=20_000)
    found = estimate(energy_of(target), normal(2, 2.0))
    assert abs(found.log_z - log_z) < 0.05 and found.low < log_z < found.high
    share = found.effective_sample_size / 20_000
    # Of N(0, s^2) for N(0, 1) by N(0, t^2): the product of (2 t^2 / s^2 - 1)^1/2 s^2 / t^2.
    ratios = 4.0 / np.logspace(-0.5, 0.3, 2)
    np.testing.assert_allclose(
        share, np.prod(np.sqrt(2 * ratios - 1) / ratios), rtol=0.1
    )
    with pytest.raises(ValueError, match="effective sample size of 0.*anneal"):
        estimate(lambda x: 1e6 * jnp.sum(x**2, -1), normal(2))


@pytest.mark.parametrize(
    ("dim", "name"),
    [
        (2, "mala"),
        pytest.param(16, "hmc", marks=pytest.mark.slow),
        pytest.param(64, "hmc", marks=pytest.mark.slow),
    ],
)
def test_annealing_there_and_back_of_gaussians(dim, name):
    target, log_z = turned_gaussian(dim)
    found = partition.bracket(
        jax.random.key(0),
        energy_of(target),
        normal(dim, 1.5),
        target.sample(jax.random.key(1), 512),
        num_chains=512,
        num_steps=100 if dim == 2 else 1000,
        kernel=name,
    )
    for end in found:
        assert abs(end.log_z - log_z) < 0.05
        assert end.low - 0.02 < log_z < end.high + 0.02
        assert end.effective_sample_size > 200
    np.testing.assert_allclose(found.gap, found.backward.log_z - found.forward.log_z)


def test_annealing_from_a_mixture_of_kernels():
    """The base of a trained energy: a kernel density of data."""
    target, log_z = turned_gaussian(2)
    x = target.sample(jax.random.key(1), 100)
    density = reference.mixture(
        [reference.gaussian(1.5), reference.kernel_density((0.3,), num_points=50)],
        [0.5, 0.5],
    )
    params = density.fit(x)
    base = partition.Base(
        functools.partial(density.sample, params),
        functools.partial(density.log_prob, params),
    )
    found = partition.annealed(jax.random.key(0), energy_of(target), base, num_steps=50)
    assert abs(found.log_z - log_z) < 0.05


@pytest.mark.slow
def test_annealing_of_a_funnel_of_20_dimensions():
    target = targets.funnel(dim=20, std=1.0)
    found = partition.bracket(
        jax.random.key(0),
        energy_of(target),
        normal(20),
        target.sample(jax.random.key(1), 256),
        num_chains=256,
        num_steps=1000,
    )
    log_z = 0.5 * 20 * np.log(2 * np.pi)
    assert all(abs(end.log_z - log_z) < 0.1 for end in found)


def test_annealing_of_a_machine_with_gaussian_units_against_enumeration():
    """Its free energy is continuous; log Z is a sum over the 16 states of hidden units."""
    family = rbm.family(3, 4, visible=units.GAUSSIAN)
    rng = np.random.RandomState(0)
    shapes = jax.eval_shape(family.init, jax.random.key(0))
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), shapes)
    layers = rbm.Layers(units.GAUSSIAN, units.BERNOULLI)
    log_z = float(rbm.log_partition(params, layers=layers))
    found = partition.annealed(
        jax.random.key(0),
        functools.partial(family.energy, params),
        normal(3, 3.0),
        num_steps=400,
    )
    assert abs(found.log_z - log_z) < 0.1
    assert found.low - 0.05 < log_z < found.high + 0.05


def test_a_move_without_its_accept_step_is_seen(monkeypatch):
    def always(*args, **options):
        # The rate is the true one, so that the tuning ends at the same step size.
        return args[3], kernel.accepted_move(*args, **options)[1]

    monkeypatch.setattr(hmc, "accepted_move", always)
    target, log_z = turned_gaussian(2)
    found = partition.annealed(
        jax.random.key(0),
        energy_of(target),
        normal(2, 1.5),
        num_chains=512,
        num_steps=100,
    )
    assert not abs(found.log_z - log_z) < 0.05


def test_a_base_that_is_not_what_is_drawn_is_seen():
    """Without its constant, and with draws that are too narrow for what it says."""
    target, log_z = turned_gaussian(2)
    good = normal(2, 2.0)
    for wrong, num_steps in (
        (good._replace(log_prob=lambda x: good.log_prob(x) + np.log(2 * np.pi)), 20),
        (good._replace(sample=normal(2, 1.0).sample), 1),
    ):
        found = partition.annealed(
            jax.random.key(0), energy_of(target), wrong, num_steps=num_steps
        )
        assert abs(found.log_z - log_z) > 0.3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kernel": "rwm"}, "kernel='rwm': choose one of hmc, mala"),
        ({"num_steps": 0}, "num_steps=0: give a whole number from 1 up"),
        ({"num_steps": 2.5}, "num_steps=2.5: give a whole number from 1 up"),
        ({"num_moves": 1.5}, "num_moves=1.5: give a whole number from 1 up"),
        ({"num_chains": 1}, "num_chains=1: give a whole number from 2 up"),
    ],
)
def test_what_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        partition.annealed(
            jax.random.key(0), lambda x: jnp.sum(x**2, -1), normal(2), **options
        )
