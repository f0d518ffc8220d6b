"""Two samplers that adapt: what they report, what they follow, what they leave invariant."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from megjax.learners import adaptive_samplers, proposal
from megjax.networks import proposal as networks
from megjax.samplers import kernel, mala

pytestmark = pytest.mark.usefixtures("quick_compilation")

STD = jnp.array([0.3, 1.5])
STEP_SIZE = 0.02


def gaussian(x):
    return -0.5 * jnp.sum(jnp.square(x / STD))


def learned(**fields):
    module = networks.Vectors(
        (2,), 4, 1, "position", initial_log_scale=0.5 * np.log(2 * STEP_SIZE)
    )
    fields = {
        "target_acceptance": 0.6,
        "entropy_weight": 0.1,
        "optimizer": proposal.amsgrad(1e-2),
    } | fields
    return adaptive_samplers.neural(proposal.Spec(None, module, None, **fields))


def langevin(rate=0.1):
    return adaptive_samplers.langevin(adaptive_samplers.StepSize(0.6, STEP_SIZE, rate))


SAMPLERS = {"neural": learned, "mala": langevin}


def moved(sampler, num_chains, num, log_density_fn=gaussian):
    """(state before, state after, positions before, positions after, metrics)."""
    keys = jax.random.split(jax.random.key(0), 3)
    before = sampler.init(keys[0], (2,))
    start = STD * jax.random.normal(keys[1], (num_chains, 2))

    @jax.jit
    def run(state, positions):
        return sampler.advance(keys[2], state, positions, log_density_fn, num)

    after, positions, found = run(before, start)
    return before, after, start, positions, found


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_where_all_is_accepted_by_hand(name):
    """A flat density, three moves: both propose N(., 2 a I), and want to reach further."""

    def flat(x):
        return 0.0 * jnp.sum(x)

    # A step size that stays, and networks of zeros that do.
    still = {"neural": learned(optimizer=optax.sgd(0.0)), "mala": langevin(rate=0.0)}
    before, after, start, positions, found = moved(still[name], 200, 3, flat)
    expected = 2 * 0.5 * np.log(2 * np.pi * np.e * 2 * STEP_SIZE)
    np.testing.assert_allclose(found["entropy"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["scale"], np.sqrt(2 * STEP_SIZE), rtol=1e-5)
    assert abs(found["acceptance"] - 1) < 1e-5 and found["non_finite"] == 0
    # Of 600 moves in two dimensions: standard error 1 / sqrt(600) of itself.
    jump = found["expected_squared_jump"] / (4 * STEP_SIZE)
    assert abs(jump - 1) < 4.5 / np.sqrt(600)
    assert np.all(np.any(positions != start, axis=1))
    if name == "neural":
        weight = after.entropy_weight / before.entropy_weight
        np.testing.assert_allclose(weight, (1 + 0.1 * 0.4) ** 3, rtol=1e-5)
        assert after.positions is None
    else:
        _, after, *_ = moved(langevin(), 5, 3, flat)
        np.testing.assert_allclose(after / before, (1 + 0.1 * 0.4) ** 3, rtol=1e-5)


@pytest.mark.slow
def test_one_move_of_mala_is_the_kernels():
    _, _, start, positions, found = moved(langevin(), 10, 1)
    key = jax.random.split(jax.random.split(jax.random.key(0), 3)[2], 1)[0]
    moves = mala.mala(gaussian, step_size=STEP_SIZE)
    keys = jax.random.split(key, 10)
    expected, infos = jax.vmap(moves.step)(keys, jax.vmap(moves.init)(start))
    np.testing.assert_allclose(positions, expected.position, atol=1e-5)
    np.testing.assert_allclose(found["acceptance"], jnp.mean(infos[0]), rtol=1e-5)


def test_step_size_by_hand():
    spec = adaptive_samplers.StepSize(0.6, rate=0.5)
    np.testing.assert_allclose(
        adaptive_samplers.next_step_size(spec, jnp.float32(0.2), 0.8), 0.22
    )
    np.testing.assert_allclose(
        adaptive_samplers.next_step_size(spec, jnp.float32(0.2), 0.2), 0.16
    )


def without_hastings_mala(state, proposed, *, step_size, factor=None):
    return proposed.log_density - state.log_density


def without_hastings_neural(key, log_ratio, state, proposed):
    log_ratio = proposed.log_density - state.log_density
    return kernel.metropolis(key, log_ratio, state, proposed)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_chains_stay_at_their_gaussian(name, mutant, monkeypatch):
    """Moments within 4.5 standard errors after 150 moves of 2000 chains that adapt.

    And the sampler accepts as it was asked to, then frozen.
    """
    if mutant:
        monkeypatch.setattr(mala, "log_ratio", without_hastings_mala)
        monkeypatch.setattr(proposal, "metropolis", without_hastings_neural)
    num, sampler = 2000, SAMPLERS[name]()
    _, state, _, positions, found = moved(sampler, num, 150)
    z = np.asarray(positions, np.float64) / STD
    worst = max(
        np.max(np.abs(z.mean(axis=0))) / np.sqrt(1 / num),
        np.max(np.abs(np.mean(z**2, axis=0) - 1)) / np.sqrt(2 / num),
        np.abs(np.mean(z[:, 0] * z[:, 1])) / np.sqrt(1 / num),
    )
    assert worst > 7 if mutant else worst < 4.5
    assert np.isfinite(found["entropy"])
    if not mutant:
        assert abs(frozen_acceptance(sampler, state, positions) - 0.6) < 0.1


def frozen_acceptance(sampler, state, positions):
    moves = sampler.kernel(state, gaussian)

    @jax.jit
    def rate(keys):
        chains = jax.vmap(moves.init)(positions)
        return jnp.mean(jax.vmap(moves.step)(keys, chains)[1].acceptance_rate)

    return rate(jax.random.split(jax.random.key(5), len(positions)))


def test_the_kernel_carries_what_the_density_returns():
    for make in SAMPLERS.values():
        sampler = make()
        state = sampler.init(jax.random.key(0), (2,))
        moves = sampler.kernel(state, lambda x: (gaussian(x), x[0]), has_aux=True)
        chain, _ = jax.jit(moves.step)(jax.random.key(1), moves.init(jnp.ones(2)))
        np.testing.assert_allclose(chain.aux, chain.position[0])
