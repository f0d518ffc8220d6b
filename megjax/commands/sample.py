"""Samples a trained run: python sample.py --workdir=runs/digits --steps=100

Draws from the generator, refines by MALA in latent space, and leaves pictures, arrays
and a report in --out. --space=data moves x itself, --space=none only draws.
--kernel=neural takes a trained proposal: that of the run --proposal, by default of the
run itself (where that trained its energy by MALA, this MALA at its last step size).
--space=data --kernel=gibbs sweeps the units of a Boltzmann machine. Chains of over a
minute are kept in --out/chunks: killed and started again, they go on. Several
processes split the chains over all their devices, and the main one writes.
"""

import functools
import sys

from absl import flags

from megjax import app, checks
from megjax.training import experiment

WORKDIR = flags.DEFINE_string("workdir", None, "Run; default the newest under runs/.")
STEPS = flags.DEFINE_integer("steps", 100, "Steps of every chain; 0 for none.")
RESAMPLE = flags.DEFINE_integer(
    "resample", 1, "Choose the starts among so many times as many samples.", 1
)
TARGET = flags.DEFINE_enum(
    "target",
    None,
    ["energy", "ratio"],
    "Energy of the chains: the model's, or minus the log density ratio of data and "
    "generator. Default: ratio where the run has one, with the Gaussian prior.",
)
BURN_IN = flags.DEFINE_integer("burn_in", 0, "Steps before them, thrown away.")
THIN = flags.DEFINE_integer(
    "thin", None, "Steps to a record; default: 1, or what makes 10,000 records at most."
)
KEEP_DRAWS = flags.DEFINE_bool(
    "keep_draws", False, "Keep the positions of all records, too, in --out/chunks."
)
STEP_SIZE = flags.DEFINE_float("step_size", None, "Default: tuned in a warm-up.")
NUM_INTEGRATION_STEPS = flags.DEFINE_integer(
    "num_integration_steps", 10, "Leapfrog steps of --kernel=hmc.", 1
)
NUM_REPLICAS = flags.DEFINE_integer(
    "num_replicas", 8, "Temperatures of --kernel=tempering.", 2
)
INVERSE_TEMPERATURE = flags.DEFINE_float(
    "inverse_temperature",
    None,
    "Factor of the energy; 0 gives the generator back. Default: the one that --proposal "
    "was trained for, or 1.",
)
PRIOR = flags.DEFINE_enum(
    "prior", "gaussian", ["none", "gaussian"], "Of the latents; none as in the paper."
)
SPACE = flags.DEFINE_enum(
    "space", "latent", ["latent", "data", "none"], "Of the chains."
)
KERNEL = flags.DEFINE_enum(
    "kernel",
    "mala",
    ["mala", "rwm", "hmc", "tempering", "neural", "gibbs"],
    "Markov chain; tempering is of latents, from the prior to the target.",
)
PROPOSAL = flags.DEFINE_string("proposal", None, "Run that trained a neural kernel.")
NUM = flags.DEFINE_integer("num", 64, "Samples, one chain each.")
SEED = flags.DEFINE_integer("seed", 0, "Of everything random.", 0, 2**32 - 1)
CONFIG = flags.DEFINE_string(
    "config", None, "Config file of a run whose recipe is not megjax's."
)
OUT = flags.DEFINE_string("out", None, "Directory; default samples/ in the run.")
PATHS = ("workdir", "proposal", "config", "out")
"""Flags whose values may differ between processes, which see disks of their own."""


def kernel(restored, proposal):
    """(kernel_fn, target acceptance) of --kernel for `sampling.model.sample`.

    proposal: the run that trained a neural kernel.
    """
    from megjax.sampling import model

    if PROPOSAL.value is not None and KERNEL.value != "neural":
        raise ValueError(f"--proposal={PROPOSAL.value}: give --kernel=neural with it")
    if KERNEL.value in ("gibbs", "neural") and STEP_SIZE.value is not None:
        raise ValueError(f"--kernel={KERNEL.value} has no --step_size: leave it out")
    if KERNEL.value == "gibbs":
        if INVERSE_TEMPERATURE.value not in (None, 1) or SPACE.value != "data":
            raise ValueError(
                "--kernel=gibbs sweeps the units themselves: use --space=data and "
                "--inverse_temperature=1"
            )
        return model.trained(restored.learner, restored.state), None
    if KERNEL.value == "neural":
        return model.trained(proposal.learner, proposal.state), None
    own = {"hmc": NUM_INTEGRATION_STEPS, "tempering": NUM_REPLICAS}
    for name, flag in own.items():
        if flag.present and KERNEL.value != name:
            raise ValueError(f"--{flag.name} is of --kernel={name}: leave it out")
    kernel_fn, target_acceptance = model.KERNELS[KERNEL.value]
    if KERNEL.value in own:
        flag = own[KERNEL.value]
        kernel_fn = functools.partial(kernel_fn, **{flag.name: flag.value})
    return kernel_fn, target_acceptance


def inverse_temperature(proposal):
    """--inverse_temperature; left out, what the run --proposal was trained for, or 1."""
    if INVERSE_TEMPERATURE.value is not None:
        return INVERSE_TEMPERATURE.value
    return proposal.config.get("inverse_temperature", 1.0) if PROPOSAL.value else 1.0


def target(restored):
    """--target; left out, the ratio where there is one that fits the other flags."""
    from megjax.sampling import model

    beta = 1.0 if INVERSE_TEMPERATURE.value is None else INVERSE_TEMPERATURE.value
    return TARGET.value or model.default_target(
        *(restored.learner, restored.state, SPACE.value, PRIOR.value, beta),
        KERNEL.value,
    )


def labels(restored, proposal):
    """What tells these chains from others, beside the settings of `model.sample`."""
    from megjax.training import checkpoint

    def checkpoint_of(run):
        digest = checkpoint.state_digest(run.state)
        return f"step {run.step}, sha256 {digest[:12]}"

    neural, hmc = KERNEL.value == "neural", KERNEL.value == "hmc"
    tempering = KERNEL.value == "tempering"
    return {
        "checkpoint": checkpoint_of(restored),
        "kernel": KERNEL.value,
        "num_integration_steps": NUM_INTEGRATION_STEPS.value if hmc else None,
        **({"num_replicas": NUM_REPLICAS.value} if tempering else {}),
        "proposal": checkpoint_of(proposal) if neural else None,
    }


def drawn(restored, proposal, moves, kept):
    """The trace of all chains, as the flags say.

    moves: what `kernel` returns. kept: the store of the chains.
    """
    import jax

    from megjax import distributed
    from megjax.sampling import model

    kernel_fn, target_acceptance = moves
    return model.sample(
        jax.random.key(SEED.value),
        restored.learner,
        restored.state,
        space=SPACE.value,
        target=target(restored),
        num=NUM.value,
        resample=RESAMPLE.value,
        steps=STEPS.value,
        burn_in=BURN_IN.value,
        thin=THIN.value,
        step_size=STEP_SIZE.value,
        inverse_temperature=inverse_temperature(proposal),
        prior=PRIOR.value,
        kernel_fn=kernel_fn,
        target_acceptance=target_acceptance,
        mesh=distributed.data_mesh(),
        store=kept,
    )


def main() -> int:
    """Restores the run, samples, writes, prints; the exit status.

    Several processes sample together, over the devices of all; the main one writes.
    """
    # Imported after the flags, so that --help and mistakes answer at once.
    from megjax import distributed
    from megjax.io import atomic
    from megjax.sampling import store, trace
    from megjax.training import loop

    distributed.find_devices()
    app.check_flags(__name__, but=PATHS)
    workdir = experiment.run_directory(WORKDIR.value)
    out = checks.path(workdir / "samples" if OUT.value is None else OUT.value)
    recipe = experiment.own_recipe(CONFIG.value)
    restored = proposal = loop.restore(workdir, recipe=recipe)
    if KERNEL.value == "neural" and PROPOSAL.value is not None:
        proposal = loop.restore(checks.path(PROPOSAL.value))
    moves = kernel(restored, proposal)
    if distributed.is_main():
        # Now, since sampling may take hours.
        atomic.folder(out)
    labels_fn = functools.partial(labels, restored, proposal)
    with (
        loop.stopping() as interrupted,
        store.opened(
            out / "chunks",
            labels_fn,
            shared=True,
            draws=KEEP_DRAWS.value,
            replaces=True,
            interrupted=interrupted,
        ) as kept,
    ):
        try:
            found = drawn(restored, proposal, moves, kept)
        except store.Stopped as stopped:
            app.say(str(stopped), sys.stderr)
            return 128 + stopped.number
        if distributed.is_main():
            report = trace.write(found, out)
        kept.finish()
    distributed.done()
    if distributed.is_main():
        app.say(f"{NUM.value} samples of {workdir} at step {restored.step} in {out}/")
        app.say("\n".join(trace.lines(report)))
    return 0


def run() -> None:
    """The command."""
    app.run(main, distributed=True, preemptible=True)
