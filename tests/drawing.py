"""Chains for tests that draw them in one process and in several.

python -m tests.drawing COORDINATOR NUM_PROCESSES PROCESS_ID FOLDER
"""

import pathlib
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from megjax import distributed
from megjax.evaluation import sampler_comparison
from megjax.learners.base import Learner
from megjax.samplers import hmc, mala, rwm
from megjax.sampling import draw, model, store
from megjax.training import evaluate, experiment, loop
from megjax.types import Report, SharedEvaluation

LATENT, HIDDEN = 4, 32
STATE = {
    "in": np.random.default_rng(0).normal(size=(LATENT, HIDDEN)).astype(np.float32),
    "out": np.random.default_rng(1).normal(size=(HIDDEN, 2)).astype(np.float32) / 4,
}


def latents(key, num):
    return distributed.shard(jax.random.normal(key, (num, LATENT)))


def generate(state, z):
    return jnp.tanh(z @ state["in"]) @ state["out"]


def energy(state, x):
    """Four wells in the plane."""
    return jnp.sum((x**2 - 1) ** 2, axis=1) + jnp.sum(jnp.tanh(x @ state["out"].T), 1)


LEARNER = Learner(
    init=None,
    step=None,
    sample=lambda key, state, num: generate(state, latents(key, num)),
    energy=energy,
    latents=latents,
    generate=generate,
)
CASES = {
    "latents": {"num": 64, "steps": 40, "burn_in": 7, "thin": 4},
    "data": {"num": 48, "steps": 20, "step_size": 0.1, "space": "data"},
    "paths": {"num": 16, "steps": 10, "space": "data", "kernel_fn": hmc.hmc},
    # No number of devices but one divides that.
    "odd": {"num": 13, "steps": 20, "step_size": 0.3, "kernel_fn": rwm.rwm},
    "resampled": {"num": 32, "steps": 0, "resample": 4},
}


def drawn(name, folder, mesh=None):
    """The trace of a case, two groups of chains where there are over 32.

    Of all records there are positions in FOLDER/NAME.
    """
    settings = {"target_acceptance": 0.6, "num_snapshots": 3} | CASES[name]
    key, directory = jax.random.key(0), pathlib.Path(folder) / name
    draws = settings["steps"] > 0
    with (
        mock.patch.object(model, "CHAINS_PER_CALL", 32),
        mock.patch.object(draw, "STEPS_PER_CALL", 5),
        mock.patch.object(store, "SAVE_SECONDS", 0),
        store.opened(directory, shared=True, draws=draws) as kept,
    ):
        return model.sample(key, LEARNER, STATE, mesh=mesh, store=kept, **settings)


def compared():
    """An evaluation of chains that are tuned and drawn by all processes."""

    def log_density(z):
        value = energy(STATE, generate(STATE, z[None]))[0]
        return -value - jnp.sum(z**2) / 2, value

    def langevin(state, log_density_fn, step_size):
        del state
        return mala.mala(log_density_fn, step_size=step_size, has_aux=True)

    x = np.asarray(generate(STATE, jax.random.normal(jax.random.key(5), (100, LATENT))))
    sizes = {"num_chains": 16, "num_records": 16, "gradients_per_record": 2}
    setup = sampler_comparison.Setup(
        log_density, latents, lambda z: generate(STATE, z), x, warm_up=10, **sizes
    )
    entries = {"mala": sampler_comparison.Entry(langevin, 1, mala.TARGET_ACCEPTANCE)}
    return sampler_comparison.equal_gradients(setup, entries)


def own(key, state):
    """An evaluation of one process; its chains are its own, too."""
    del state
    found = model.sample(key, LEARNER, STATE, num=8, steps=3, step_size=0.3)
    return Report({"energy": float(np.mean(found.energy))})


def counted(evaluation):
    """An evaluation that tells, too, over how many devices chains are split."""

    def evaluate(key, state):
        report = evaluation(key, state)
        with draw.devices() as mesh:
            return Report(report.metrics | {"num_devices": mesh.size})

    is_shared = isinstance(evaluation, SharedEvaluation)
    return SharedEvaluation(evaluate) if is_shared else evaluate


def evaluated(folder):
    """Runs both evaluations; what the main process reports of them."""
    found = {"own": counted(own), "chains": counted(compared())}
    recipe = experiment.Recipe(
        data=lambda config: type("Data", (), {"shape": (2,)}),
        learner=None,
        evaluations=lambda *_: found,
        protocols=lambda *_: {},
    )
    state = jax.device_put(STATE, distributed.replicated(distributed.local_mesh()))
    run = loop.Restored(None, None, state, 7, (2,), recipe)
    out = pathlib.Path(folder) / "evaluation"
    return dict(evaluate.evaluate(run, (), out, seed=0))


def main(coordinator, num_processes, process_id, folder):
    """Joins the others, draws everything, and leaves it in FOLDER."""
    jax.config.update("jax_disable_most_optimizations", True)
    distributed.start(coordinator, int(num_processes), int(process_id))
    folder = pathlib.Path(folder)
    for name in CASES:
        found = drawn(name, folder, distributed.data_mesh())
        arrays = {k: v for k, v in found._asdict().items() if isinstance(v, np.ndarray)}
        arrays["step_size"] = found.step_size
        # Every process has the whole trace.
        np.savez(folder / f"{name}_{process_id}.npz", **arrays)
    evaluated(folder)
    distributed.done()


if __name__ == "__main__":
    main(*sys.argv[1:])
