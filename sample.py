"""Samples a trained run: python sample.py --workdir=runs/digits --steps=100

Draws from the generator, walks by MALA in latent space, and leaves pictures, arrays and
a report in --out. --space=data walks on x, --space=none only draws. --kernel=neural
walks by a trained proposal: that of the run --proposal, by default of the run itself.
--space=data --kernel=gibbs sweeps the units of a Boltzmann machine.
"""

import pathlib

from absl import flags

from megjax import command

WORKDIR = flags.DEFINE_string("workdir", None, "Run; default the newest under runs/.")
STEPS = flags.DEFINE_integer("steps", 100, "Steps of every chain.")
STEP_SIZE = flags.DEFINE_float("step_size", None, "Default: tuned in a warm-up.")
INVERSE_TEMPERATURE = flags.DEFINE_float(
    "inverse_temperature", 1.0, "Factor of the energy; 0 gives the generator back."
)
PRIOR = flags.DEFINE_enum(
    "prior", "gaussian", ["none", "gaussian"], "Of the latents; none as in the paper."
)
SPACE = flags.DEFINE_enum("space", "latent", ["latent", "data", "none"], "To walk in.")
KERNEL = flags.DEFINE_enum(
    "kernel", "mala", ["mala", "rwm", "hmc", "neural", "gibbs"], "Markov chain."
)
PROPOSAL = flags.DEFINE_string("proposal", None, "Run that trained a neural kernel.")
NUM = flags.DEFINE_integer("num", 64, "Samples, one chain each.")
SEED = flags.DEFINE_integer("seed", 0, "Of everything random.")
OUT = flags.DEFINE_string("out", None, "Directory; default samples/ in the run.")


def kernel(restored):
    """(kernel_fn, target acceptance) of --kernel for `sampling.run`."""
    from megjax import sampling, training
    from megjax.samplers import hmc, mala, rwm

    if KERNEL.value == "gibbs":
        if INVERSE_TEMPERATURE.value != 1 or SPACE.value != "data":
            raise ValueError(
                "--kernel=gibbs sweeps the units themselves: use --space=data and "
                "--inverse_temperature=1"
            )
        return sampling.trained(restored.experiment.learner, restored.state), None
    if KERNEL.value == "neural":
        if PROPOSAL.value:
            restored = training.restore(pathlib.Path(PROPOSAL.value))
        return sampling.trained(restored.experiment.learner, restored.state), None
    module = {"mala": mala, "rwm": rwm, "hmc": hmc}[KERNEL.value]
    return getattr(module, KERNEL.value), module.TARGET_ACCEPTANCE


def main() -> None:
    """Restores the run, samples, writes, prints."""
    # Imported after the flags, so that --help and mistakes answer at once.
    import jax

    from megjax import experiment, sampling, training

    workdir = pathlib.Path(WORKDIR.value or experiment.newest(pathlib.Path("runs")))
    out = pathlib.Path(OUT.value or workdir / "samples")
    restored = training.restore(workdir)
    kernel_fn, target_acceptance = kernel(restored)
    walk = sampling.run(
        jax.random.key(SEED.value),
        restored.experiment.learner,
        restored.state,
        space=SPACE.value,
        num=NUM.value,
        steps=STEPS.value,
        step_size=STEP_SIZE.value,
        inverse_temperature=INVERSE_TEMPERATURE.value,
        prior=PRIOR.value,
        kernel_fn=kernel_fn,
        target_acceptance=target_acceptance,
    )
    report = sampling.write(walk, out)
    print(f"{NUM.value} samples of {workdir} at step {restored.step} in {out}/")
    print("\n".join(sampling.lines(report)))


if __name__ == "__main__":
    command.run(main)
