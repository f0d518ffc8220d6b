"""Kernels at equal cost, on a Gaussian where the answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.evaluation import sampler_comparison
from megjax.samplers import hmc, mala

VARIANCE = 0.5


def log_density(z):
    """N(0, I / 2): a prior tilted by the energy |z|^2 / 2."""
    energy = 0.5 * jnp.sum(z**2)
    return -energy - 0.5 * jnp.sum(z**2), energy


def langevin(state, log_density_fn, step_size):
    return mala.mala(log_density_fn, step_size=step_size, has_aux=True)


def fixed(state, log_density_fn, step_size):
    return mala.mala(log_density_fn, step_size=state, has_aux=True)


def paths(state, log_density_fn, step_size):
    return hmc.hmc(
        log_density_fn, step_size=step_size, num_integration_steps=2, has_aux=True
    )


CONTESTANTS = {
    "fixed": sampler_comparison.Entry(fixed, 2, None),
    "mala": sampler_comparison.Entry(langevin, 1, mala.TARGET_ACCEPTANCE),
    "hmc": sampler_comparison.Entry(paths, 2, hmc.TARGET_ACCEPTANCE),
}


def setup(**fields):
    x = np.random.RandomState(0).normal(size=(2000, 3)) * np.sqrt(VARIANCE)
    settings = {"num_chains": 300, "num_records": 40, "gradients_per_record": 2}
    return sampler_comparison.Setup(
        log_density,
        lambda key, num: jax.random.normal(key, (num, 3)),
        lambda z: z,
        np.float32(x),
        **(settings | fields),
    )


@pytest.mark.slow
def test_all_reach_the_density_and_pay_the_same():
    evaluate = sampler_comparison.equal_gradients(setup(), CONTESTANTS)
    report = evaluate(jax.random.key(0), jnp.float32(0.1))
    found = report.metrics
    for name in CONTESTANTS:
        # Of the energy: 3 / 2 times 1 / 2.
        assert abs(found[f"{name}_energy"] - 0.75) < 0.05
        np.testing.assert_allclose(found[f"{name}_rms"], np.sqrt(VARIANCE), rtol=0.03)
        assert found[f"{name}_frechet"] < 0.1 < found["generator_frechet"]
        assert found[f"{name}_energy_r_hat"] < 1.4
    assert abs(found["mala_acceptance"] - 0.574) < 0.1
    assert np.isnan(found["fixed_step_size"])
    # Two tuned steps go further than one that is short.
    jumps = [found[f"{name}_squared_jump_latent"] for name in ("mala", "fixed")]
    assert jumps[0] > 2 * jumps[1]
    ess = [found[f"{name}_energy_ess_per_1000_gradients"] for name in ("mala", "fixed")]
    assert ess[0] > 2 * ess[1]
    assert {"autocorrelation", "energy"} == set(report.pictures)


def test_no_noise_of_the_tuning_comes_again():
    used = []

    def logged(state, log_density_fn, step_size):
        kernel = langevin(state, log_density_fn, step_size)

        def step(key, state):
            jax.debug.callback(used.append, jax.random.key_data(key))
            return kernel.step(key, state)

        return kernel._replace(step=step)

    small = setup(num_chains=2, num_records=4, warm_up=3)
    contestant = sampler_comparison.Entry(logged, 1, mala.TARGET_ACCEPTANCE)
    starts = small.start_fn(jax.random.key(1), small.num_chains)
    sampler_comparison._track(small, contestant, jax.random.key(0), None, starts)
    jax.effects_barrier()
    # Of five records one compiles.
    assert len(used) == 2 * (3 + 5 * small.gradients_per_record)
    assert len({tuple(map(int, key)) for key in used}) == len(used)


def test_a_record_by_hand():
    """A kernel that moves by 1 along every axis for 2 gradients, 4 a record."""
    track = sampler_comparison.Track(
        z=np.cumsum(np.full((5, 8, 3), 2.0), axis=1),
        energy=np.random.RandomState(0).normal(size=(5, 8)),
        acceptance=1.0,
        step_size=np.nan,
        seconds=1.0,
    )
    found = sampler_comparison._measured(setup(), track, track.z[:, -1])
    assert found["squared_jump_latent"] == 4.0
    assert found["squared_jump_data"] == 4.0


def test_prices_that_do_not_divide_are_told():
    with pytest.raises(ValueError, match="gradients_per_record=3: fixed needs a mult"):
        sampler_comparison.equal_gradients(setup(gradients_per_record=3), CONTESTANTS)
