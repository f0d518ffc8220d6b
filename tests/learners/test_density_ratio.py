"""The log density ratio against the ratio of Gaussians, and when its fit ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

from megjax.data.dataset import Dataset
from megjax.learners import density_ratio
from megjax.learners.base import Learner
from megjax.networks import heads, mlp

pytestmark = pytest.mark.usefixtures("quick_compilation")

MEAN, STD = 0.5, 1.2


def table(num):
    rows = np.random.RandomState(0).normal(size=(num, 1)).astype(np.float32)
    return Dataset("normal", (1,), num, rows, lambda store, indices: store[indices])


def generator():
    """N(MEAN, STD^2); its energy is the learner's state."""

    def sample(key, state, num):
        return MEAN + STD * jax.random.normal(key, (num, 1))

    return Learner(
        init=lambda key, x: heads.Energy(mlp.Trunk((16,))).init(key, x)["params"],
        step=lambda key, state, x: (state, {}),
        sample=sample,
        energy=None,
    )


def true_ratio(x):
    x = x[:, 0]
    return -(x**2) / 2 + ((x - MEAN) / STD) ** 2 / 2 + np.log(STD)


def finished(data, **changes):
    spec = density_ratio.Spec(heads.Energy(mlp.Trunk((16,))), **changes)
    learner = density_ratio.with_ratio(generator(), spec, lambda state: state)
    state = learner.init(jax.random.key(0), jnp.zeros((4, 1)))
    np.testing.assert_array_equal(learner.log_ratio(state, jnp.ones((2, 1))), [0, 0])
    assert not density_ratio.is_fitted(state)
    state, metrics = learner.finish(jax.random.key(1), state, data)
    assert density_ratio.is_fitted(state)
    # Trained further, the generator has another ratio.
    further, _ = learner.step(jax.random.key(2), state, jnp.zeros((1, 4, 1)))
    assert not density_ratio.is_fitted(further)
    return learner, state, metrics


@pytest.mark.slow
def test_the_fit_finds_the_ratio_of_gaussians():
    learner, state, metrics = finished(
        table(20_000), num_steps=1500, batch_size=256, score_weight=0.0
    )
    x = np.linspace(-2, 2, 41, dtype=np.float32)[:, None]
    error = learner.log_ratio(state, x) - true_ratio(x)
    assert np.max(np.abs(error)) < 0.25
    assert metrics["ratio/held_out_loss"] < metrics["ratio/held_out_loss_of_energy"]


def test_a_quadratic_energy_is_calibrated_to_the_ratio():
    """Equal widths: the log ratio is a line in E(x) = x."""
    key = jax.random.key(0)
    real = jax.random.normal(key, (50_000,))
    fake = MEAN + jax.random.normal(jax.random.fold_in(key, 1), (50_000,))
    scale, offset = density_ratio.calibrated(real, fake)
    np.testing.assert_allclose(scale, MEAN, atol=0.03)
    np.testing.assert_allclose(offset, -(MEAN**2) / 2, atol=0.03)


def test_the_fit_ends_where_held_out_data_say_so():
    """Forty examples are learned by heart at once."""
    _, _, metrics = finished(
        table(40), num_steps=2000, check_every=5, patience=3, score_weight=0.0
    )
    assert metrics["ratio/num_steps"] < 2000
    assert metrics["ratio/held_out_loss"] <= metrics["ratio/held_out_loss_of_energy"]


def test_an_update_has_the_gradient_of_the_penalised_logistic_loss():
    network = heads.Energy(mlp.Trunk((8,)))
    x = jax.random.normal(jax.random.key(0), (6, 1))
    fake = x + 1
    params = network.init(jax.random.key(1), x)["params"]
    ratio = density_ratio.Ratio(params, jnp.float32(0.7), jnp.float32(0.1))
    rate = 0.5
    spec = density_ratio.Spec(network, score_weight=0.3, optimizer=optax.sgd(rate))

    def loss(params):
        r = lambda x: density_ratio.log_ratio(spec, ratio.replace(params=params), x)
        slope = jax.grad(lambda x: jnp.sum(r(x)))(x)
        cross = jnp.mean(jax.nn.softplus(-r(x))) + jnp.mean(jax.nn.softplus(r(fake)))
        return cross + 0.3 * jnp.mean(jnp.sum(slope**2, axis=1))

    moved, average, _ = density_ratio.update_ratio(
        spec, ratio, ratio, spec.optimizer.init(params), x, fake
    )
    expected = jax.tree.map(lambda p, g: p - rate * g, params, jax.grad(loss)(params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        moved.params,
        expected,
    )
    decay = spec.average_decay
    jax.tree.map(
        lambda a, b, c: np.testing.assert_allclose(
            a, decay * b + (1 - decay) * c, rtol=1e-5, atol=1e-6
        ),
        average.params,
        params,
        moved.params,
    )


@pytest.mark.parametrize("field", ["num_steps", "batch_size", "patience"])
def test_settings_out_of_range_are_refused(field):
    spec = density_ratio.Spec(linen.Dense(1))._replace(**{field: 0})
    with pytest.raises(
        ValueError, match=f"ratio.{field}=0: give a whole number from 1"
    ):
        density_ratio.with_ratio(generator(), spec, lambda state: state)
