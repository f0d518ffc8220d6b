"""The loop over chains: any kernel and PyTree, one compilation, resume to the bit."""

import functools
import gc
import weakref
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_model import PLANE, STATE, trained_proposal

from megjax.samplers import bijectors, hmc, kernel, mala, rwm
from megjax.sampling import draw, model, store

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Position(NamedTuple):
    position: dict


def scaled_step(params, key, state):
    """An autoregression of variance params["scale"]^2 on a dict of two variables."""
    leaves, treedef = jax.tree.flatten(state.position)
    keys = jax.random.split(key, len(leaves))
    moved = [
        0.5 * leaf + np.sqrt(0.75) * params["scale"] * jax.random.normal(k, leaf.shape)
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    yes = jnp.bool_(True)
    info = kernel.Info(jnp.float32(1), yes, ~yes)
    return Position(jax.tree.unflatten(treedef, moved)), info


DICTS = draw.Chain(
    lambda params, position: Position(position),
    scaled_step,
    lambda params, state: state.position,
)


def started(num=64):
    positions = {"a": jnp.zeros((num,)), "b": jnp.zeros((num, 2, 3))}
    return draw.start(DICTS, {"scale": 2.0}, positions)


def test_positions_are_any_tree_and_records_bear_its_names():
    found = draw.chains(
        *(jax.random.key(0), DICTS, {"scale": 2.0}, started()),
        num_steps=200,
        burn_in=20,
        thin=4,
    )
    assert found.observations["a"].shape == (64, 50)
    assert found.observations["b"].shape == (64, 50, 2, 3)
    np.testing.assert_array_equal(found.observations["a"][:, -1], found.states[0]["a"])
    # Of 3200 draws with correlation 1/16: 4 standard errors of a variance of 4.
    assert abs(np.var(found.observations["a"]) - 4) < 4 * 4 * np.sqrt(2 / 2800)
    assert set(found.infos) == set(kernel.Info._fields)
    assert np.all(found.infos["is_accepted"] == 1)


def test_pieces_make_the_whole():
    """Burn-in and calls of few steps change no bit; the key alone does."""
    args = jax.random.key(0), DICTS, {"scale": 1.0}, started(4)
    whole = draw.chains(*args, num_steps=23)
    parts = draw.chains(*args, num_steps=13, burn_in=10, steps_per_call=4)
    np.testing.assert_array_equal(
        whole.observations["b"][:, 10:], parts.observations["b"]
    )
    last = draw.chains(*args, num_steps=23, thin=5, steps_per_call=3)
    np.testing.assert_array_equal(
        whole.observations["a"][:, [4, 9, 14, 19, 22]], last.observations["a"]
    )


class Killed(BaseException):
    """What a test raises where the process would be gone."""


def kept_chains(directory, calls=None):
    left = [calls]

    def interrupted():
        left[0] = left[0] and left[0] - 1
        if left[0] == 0:
            raise Killed

    settings = {"seed": 0, "steps": 40, "thin": 3}
    kept = store.TraceStore(directory, draws=True, interrupted=interrupted)
    with kept.stack:
        kept.claim(settings, 47, 3)
        found = draw.chains(
            *(jax.random.key(0), DICTS, {"scale": 1.0}, started(4)),
            num_steps=40,
            burn_in=7,
            thin=3,
            steps_per_call=4,
            store=kept,
        )
        kept.finish()
    return found


def test_chains_killed_again_and_again_are_the_untouched_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SAVE_SECONDS", 0)
    whole, found, kills = kept_chains(tmp_path / "whole"), None, 0
    while found is None:
        try:
            found = kept_chains(tmp_path / "killed", calls=3)
        except Killed:
            kills += 1
    assert kills > 4
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_tuning_reaches_its_target():
    def kernel_fn(params):
        return mala.mala(lambda x: -jnp.sum(x**2) / 2, step_size=params["step_size"])

    chain = draw.of_kernel(kernel_fn, lambda params, state: {"x": state.position})
    keys = jax.random.split(jax.random.key(0))
    params = {"step_size": 1.0}
    states = draw.start(chain, params, jax.random.normal(keys[0], (100, 10)))
    states, step_size = draw.tuned(
        *(keys[0], chain, params, states), num_steps=200, target_acceptance=0.574
    )
    params = {"step_size": step_size}
    found = draw.chains(keys[1], chain, params, states, num_steps=100)
    assert abs(np.mean(found.infos["acceptance_rate"]) - 0.574) < 0.03
    _, step_size = draw.tuned(
        *(keys[0], chain, params, states),
        num_steps=20,
        target_acceptance=0.1,
        limit=0.01,
    )
    np.testing.assert_allclose(step_size, 0.01, rtol=1e-6)


class OnlyPosition(NamedTuple):
    position: jax.Array


def users_kernel(log_density_fn, *, step_size):
    """Random-walk Metropolis as a user would write it from `kernel.Kernel` alone."""

    def step(key, state):
        keys = jax.random.split(key)
        x = state.position
        y = x + step_size * jax.random.normal(keys[0], x.shape)
        ratio = jnp.exp(jnp.minimum(log_density_fn(y) - log_density_fn(x), 0.0))
        accepted = jax.random.uniform(keys[1]) < ratio
        info = kernel.Info(ratio, accepted, jnp.isnan(ratio))
        return OnlyPosition(jnp.where(accepted, y, x)), info

    return kernel.Kernel(OnlyPosition, step)


@pytest.mark.parametrize("space", ["latent", "data"])
def test_a_kernel_that_obeys_the_contract_works(space):
    """Its states have a position alone; in the coordinates of a bijector, too."""
    learner = PLANE
    if space == "data":
        learner = PLANE._replace(bijector=bijectors.IDENTITY)
    run = functools.partial(model.sample, jax.random.key(0), learner, STATE)
    found = run(
        space=space,
        num=512,
        steps=60,
        kernel_fn=users_kernel,
        target_acceptance=0.5,
    )
    variance = 0.5 if space == "latent" else 1
    error = 4 * variance * np.sqrt(2 / found.x.size)
    assert abs(np.mean(found.x**2) - variance) < error
    energy = np.sum(found.x**2, axis=1) / 2
    np.testing.assert_allclose(found.energy[:, -1], energy, rtol=1e-5)
    assert abs(np.mean(found.acceptance_rate) - 0.5) < 0.12


def bounded(learner, calls):
    """A learner on (-1, 1)^2 that counts how often its energy is traced."""

    def energy(state, x):
        calls.append(1)
        return state["scale"] * jnp.sum(x.reshape(len(x), -1) ** 2, axis=1)

    def sample(key, state, num):
        return jax.random.uniform(key, (num, 2), minval=-0.9, maxval=0.9)

    return learner._replace(energy=energy, sample=sample, bijector=bijectors.logit())


KERNELS = {
    "mala": mala.mala,
    "rwm": rwm.rwm,
    "hmc": functools.partial(hmc.hmc, num_integration_steps=3),
    "user": users_kernel,
    "trained": None,
}


@pytest.mark.parametrize(
    "name, space",
    [
        ("mala", "data"),
        ("rwm", "latent"),
        ("hmc", "latent"),
        ("user", "data"),
        ("trained", "latent"),
        ("trained", "data"),
    ],
)
def test_a_second_run_compiles_nothing_and_frees_its_weights(name, space):
    calls = []
    learner = bounded(PLANE, calls)

    def run(seed):
        kernel_fn = KERNELS[name]
        # Anew, as a person would write it.
        if name == "trained":
            kernel_fn = model.trained(PROPOSAL, trained_proposal((2,))[1])
        elif isinstance(kernel_fn, functools.partial):
            kernel_fn = functools.partial(kernel_fn.func, **kernel_fn.keywords)
        state = {"scale": jnp.float32(1 + seed)}
        model.sample(
            *(jax.random.key(seed), learner, state),
            space=space,
            num=8,
            steps=6,
            warmup=4,
            burn_in=3,
            kernel_fn=kernel_fn,
            inverse_temperature=1.0 + seed,
        )
        return weakref.ref(state["scale"])

    run(0)
    first = len(calls)
    assert first
    kept = run(1)
    gc.collect()
    assert len(calls) == first and kept() is None


PROPOSAL, _ = trained_proposal((2,))
