"""Samples a trained run: python sample.py --workdir=runs/digits --steps=100

Draws from the generator, walks by MALA in latent space, and leaves pictures, arrays and
a report in --out. --space=data walks on x, --space=none only draws.
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
KERNEL = flags.DEFINE_enum("kernel", "mala", ["mala", "rwm"], "Markov chain.")
NUM = flags.DEFINE_integer("num", 64, "Samples, one chain each.")
SEED = flags.DEFINE_integer("seed", 0, "Of everything random.")
OUT = flags.DEFINE_string("out", None, "Directory; default samples/ in the run.")


def main() -> None:
    """Restores the run, samples, writes, prints."""
    # Imported after the flags, so that --help and mistakes answer at once.
    import jax

    from megjax import experiment, sampling, training
    from megjax.samplers import mala, rwm

    module = {"mala": mala, "rwm": rwm}[KERNEL.value]
    workdir = pathlib.Path(WORKDIR.value or experiment.newest(pathlib.Path("runs")))
    out = pathlib.Path(OUT.value or workdir / "samples")
    restored = training.restore(workdir)
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
        kernel_fn=getattr(module, KERNEL.value),
        target_acceptance=module.TARGET_ACCEPTANCE,
    )
    report = sampling.write(walk, out)
    print(f"{NUM.value} samples of {workdir} at step {restored.step} in {out}/")
    print("\n".join(sampling.lines(report)))


if __name__ == "__main__":
    command.run(main)
