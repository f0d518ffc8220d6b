"""Restored units against conditionals by enumeration; every picture drawn once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.energies import dbm, exact, rbm, units
from megjax.evaluation import likelihood, reconstruction
from megjax.learners import base, contrastive

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (2, 3, 1)
FAMILY = rbm.family(6, 4)


def machine(family, seed=0):
    rng = np.random.RandomState(seed)
    shapes = jax.eval_shape(family.init, jax.random.key(0))
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), shapes)


def model():
    return likelihood.Model(FAMILY, contrastive.bits(SHAPE), params=lambda state: state)


def test_holes_are_filled_with_conditional_means():
    """One hidden layer and two, against p(unknown | known) of the enumerated machine."""
    known = np.array([True, False, True, True, False, False])
    deep = dbm.family((6, 4, 3))
    for family, free_energy in (
        (FAMILY, FAMILY.energy),
        (deep, lambda p, v: dbm.free_energy(p, v, kinds=dbm.layer_kinds(2))),
    ):
        params = jax.tree.map(lambda p: 2 * p, machine(family))
        states = exact.states(units.BERNOULLI, 6)
        weights = np.exp(-np.asarray(free_energy(params, states), np.float64))
        # What is known surprises the machine, so that clamping matters.
        row = np.where(weights @ np.asarray(states) < weights.sum() / 2, 1.0, 0.0)
        weights *= np.all((states == row) | ~known, axis=1)
        expected = weights @ np.asarray(states) / weights.sum()
        num = 4000
        # What unknown units are must not matter.
        v = jnp.where(known, jnp.asarray(row), 1.0)
        found = jax.jit(
            lambda params, v, family=family: reconstruction.inpainted(
                jax.random.key(0), family, params, v, jnp.asarray(known), num_sweeps=40
            )
        )(params, jnp.tile(v, (num, 1)))
        assert jnp.all(found[:, known] == row[known])
        error = 4 * 0.5 / np.sqrt(num)
        np.testing.assert_allclose(found.mean(0)[~known], expected[~known], atol=error)


def test_flips_at_their_share():
    v = jnp.tile(jnp.array([0.0, 1.0]), (20_000, 1))
    found = reconstruction.flipped(jax.random.key(0), v, 0.15, likelihood.BITS)
    np.testing.assert_allclose(np.mean(found != v, axis=0), 0.15, atol=0.015)
    assert set(np.unique(found)) == {0.0, 1.0}


def test_the_envelope_knows_biases_only():
    params = machine(FAMILY)
    v = jnp.zeros((3, 6))
    found = reconstruction.envelope(jax.random.key(0), FAMILY, params, v, 20_000)
    expected = jax.nn.sigmoid(params["visible_bias"])
    np.testing.assert_allclose(found[0].mean(0), expected, atol=0.015)


def test_reports():
    x = 2.0 * np.random.RandomState(0).randint(0, 2, (24, *SHAPE)) - 1
    params = machine(FAMILY)
    # A machine whose hidden units copy the upper three visible ones.
    big = 30.0
    copier = {
        "weights": big * jnp.eye(6, 4),
        "visible_bias": jnp.full(6, -big / 2),
        "hidden_bias": jnp.full(4, -big / 2),
    }
    made = base.Learner(
        init=None, step=None, energy=None, sample=lambda key, state, num: x[:num]
    )
    report = reconstruction.reconstructions(model(), x)(jax.random.key(0), copier)
    v = (x.reshape(24, 6) + 1) / 2
    # Four of six units come back, two are guessed as 0.
    wrong = np.mean(v[:, 4:]) * 2 / 6
    expected = np.sqrt(wrong / v.var(axis=0).mean())
    found = report.metrics
    np.testing.assert_allclose(
        found["rounded_reconstruction_error"], expected, rtol=1e-4
    )
    assert 0.08 < found["wrong_pixels_noisy"] < 0.22
    assert set(report.pictures) == {"reconstructions", "denoising", "inpainting"}
    evaluate = reconstruction.fantasies(model(), made, x, x[:9], num_sweeps=(2, 5))
    found = evaluate(jax.random.key(0), params)
    assert set(found.metrics) == {
        "energy_coefficient_2",
        "energy_coefficient_5",
        "energy_coefficient_of_samples",
        "energy_coefficient_of_data",
    }
    # The sampler gives the data back.
    np.testing.assert_allclose(
        found.metrics["energy_coefficient_of_samples"],
        found.metrics["energy_coefficient_of_data"],
        rtol=1e-5,
    )
    assert found.pictures["fantasies"].dtype == np.uint8
    evaluate = reconstruction.weight_pictures(model(), SHAPE, num=3)
    assert "weights" in evaluate(jax.random.key(0), params).pictures


def test_labels_are_given_by_free_energy():
    # Three pixels and two labels; hidden unit k joins pixel k with label k.
    weights = jnp.array([[9.0, 0], [0, 9], [0, 0], [9, 0], [0, 9]])
    params = {
        "weights": weights,
        "visible_bias": jnp.zeros(5),
        "hidden_bias": jnp.full(2, -13.0),
    }
    family = rbm.family(5, 2)
    made = likelihood.Model(family, contrastive.bits((5,)), lambda state: state)
    x = -np.ones((4, 5))
    x[[0, 2], 0] = x[[1, 3], 1] = 1
    for labels, accuracy in (([0, 1, 0, 1], 1.0), ([1, 1, 0, 0], 0.5)):
        evaluate = reconstruction.classification(made, x, np.array(labels), 2)
        assert evaluate(jax.random.key(0), params).metrics["accuracy"] == accuracy
