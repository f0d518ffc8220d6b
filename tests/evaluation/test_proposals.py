"""What is said of trained proposals, on kernels whose answers are known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.densities import targets
from megjax.evaluation import proposals
from megjax.learners import proposal
from megjax.learners.base import Learner
from megjax.networks import proposal as networks
from megjax.samplers.kernel import Info, Kernel

NORMAL = targets.gaussian("normal", np.array([1.0, 1.0]))


class State(NamedTuple):
    position: jax.Array


def autoregressive(state, log_density_fn, *, has_aux=False):
    """x' = r x + sqrt(1 - r^2) noise with r = state, which keeps N(0, I)."""
    del log_density_fn, has_aux

    def step(key, at):
        noise = jax.random.normal(key, at.position.shape)
        moved = state * at.position + jnp.sqrt(1 - state**2) * noise
        return State(moved), Info(jnp.float32(1), jnp.bool_(True), jnp.bool_(False))

    return Kernel(State, step)


LEARNER = Learner(None, None, None, None, kernel=autoregressive)


def exact(key, state, num):
    del state
    return NORMAL.sample(key, num)


def trial(**fields):
    settings = {"num_gradients": 4, "num_chains": 200, "num_steps": 500} | fields
    return proposals.Trial(NORMAL.log_density, exact, **settings)


def test_efficiency_of_an_autoregression_by_hand():
    known = trial(mean=NORMAL.moments.mean, variance=NORMAL.moments.variance)
    evaluate = proposals.efficiency(LEARNER, known)
    found = evaluate(jax.random.key(0), jnp.float32(0.5)).metrics
    # (1 - r) / (1 + r) = 1/3; lags above 0.05 sum to 1/2 + ... + 1/16 = 15/16.
    assert abs(found["ess_geyer"] - 1 / 3) < 0.02
    above = 1 / (1 + 2 * 15 / 16)
    assert abs(found["ess_above"] - above) < 0.02
    np.testing.assert_allclose(found["ess_above_per_gradient"], found["ess_above"] / 4)
    np.testing.assert_allclose(found["ess_above_per_5000"], 5000 * found["ess_above"])
    assert abs(found["variance_ratio_highest"] - 1) < 0.05
    assert found["acceptance"] == 1 and found["ess_per_second"] > 0


def test_burn_in_is_left_out():
    far = trial(burn_in=60)._replace(
        start_fn=lambda key, state, num: jnp.full((num, 2), 50.0)
    )
    evaluate = proposals.efficiency(LEARNER, far._replace(mean=np.zeros(2)))
    found = evaluate(jax.random.key(0), jnp.float32(0.5)).metrics
    assert found["r_hat"] < 1.01 and found["squared_jump"] < 3


@pytest.mark.parametrize("std, right", [(1.0, True), (1.5, False)])
def test_the_first_marginal_is_tested(std, right):
    evaluate = proposals.first_marginal(
        LEARNER, trial(num_chains=1000, num_steps=20), std=std
    )
    found = evaluate(jax.random.key(0), jnp.float32(0.5)).metrics
    assert found["ks_p_value"] > 1e-3 if right else found["ks_p_value"] < 1e-6
    np.testing.assert_allclose(found["std_ratio"], 1 / std, rtol=0.1)
    if right:
        assert 0.005 < found["share_below"] < 0.05


def test_chains_that_have_not_moved_fail_the_marginal():
    """Starts are N(0, I) whatever the target is."""
    evaluate = proposals.first_marginal(
        LEARNER, trial(num_chains=1000, num_steps=5), std=3.0
    )
    found = evaluate(jax.random.key(0), jnp.float32(1.0)).metrics
    assert found["ks_p_value"] < 1e-6 and found["share_below"] == 0


def test_pictures_of_proposals():
    moon = targets.moon()
    module = networks.Vectors(shape=(2,), width=4, num_steps=1)
    spec = proposal.Spec(moon.log_density, module, moon.sample)
    state = proposal.init(spec, jax.random.key(0), jnp.zeros((1, 2)))
    evaluate = proposals.planar(spec, np.array([[0.0, -4.0], [-2.0, 0.0]]), num=50)
    report = evaluate(jax.random.key(0), state)
    assert set(report.pictures) == {"from_0", "from_1"}
    for picture in report.pictures.values():
        assert picture.dtype == np.uint8
        # Blue where accepted, red where rejected.
        blue = np.sum(picture[..., 2].astype(int) - picture[..., 0] > 60)
        assert blue > 20
