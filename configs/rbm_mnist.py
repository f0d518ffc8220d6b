"""A restricted Boltzmann machine with 200 hidden units on binary MNIST.

python train.py --config=configs/rbm_mnist.py --config.data_dir=DIR
python evaluate.py --workdir=runs/rbm_mnist
python sample.py --workdir=runs/rbm_mnist --space=data --kernel=gibbs --steps=1000

The RBM of Mehta et al. 2019, figure 60. Measured: 1 minute on one shared CPU core and
another to evaluate; log-likelihood of the test set between -81 and -85 nats from run to
run, and -94.5 with `--config.pixels=drawn`. `rbm_mnist.py:notebook` has the fluctuating_temperature
chains and the nearly constant rate of the authors' notebook, and is far worse: -252 nats.
"""

import functools

import jax.numpy as jnp
import numpy as np
import optax

from configs import base
from megjax.data import binary, images
from megjax.energies import rbm, units
from megjax.evaluation import likelihood, pictures, reconstruction
from megjax.learners import contrastive, proximal, stopping
from megjax.training.experiment import Experiment

VARIANTS = ("decaying", "notebook")


def get_config(variant="decaying"):
    """20 epochs of persistent contrastive divergence with one sweep a step."""
    config = mnist_config()
    if variant == "notebook":
        config.contrast.update(notebook())
    elif variant != "decaying":
        raise ValueError(f"variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config.build = build
    return config


def mnist_config():
    """Fields of a machine on MNIST's 57,000 training images, 570 batches an epoch."""
    config = machine_config()
    config.data_dir = ""
    config.num_hidden = 200
    config.train.update(
        {
            "num_steps": 20 * 570,
            "log_every": 570,
            "save_every": 5 * 570,
            "evaluate_every": 5 * 570,
        }
    )
    return config


def machine_config():
    """Fields of any machine trained by contrast."""
    config = base.get_config()
    config.batch_size = 100
    config.contrast = {
        "num_chains": 100,
        "num_sweeps": 1,
        "persistent": True,
        "fluctuating_temperature": False,
        "centred": False,
        "method": "adam",
        "learning_rate": 0.005,
        "schedule": "linear",
        "l1": 0.0,
        "l2": 0.0,
        "num_sample_sweeps": 1000,
    }
    # Training rests once held-out images have so much more free energy than trained
    # ones, in nats; 0 is never.
    config.early_stopping = {"gap": 0.0, "every": 570}
    # rounded, or drawn once with the grey levels as probabilities.
    config.pixels = "rounded"
    config.train.iterations_per_call = config.train.iterations_per_call_cpu = 30
    config.evaluation = {
        "num_examples": 1000,
        "num_chains": 100,
        "num_steps": 10_000,
        # Sweeps from the data to the start of the reverse annealing.
        "num_reverse_sweeps": 1000,
        "num_fantasies": 1000,
    }
    return config


def notebook():
    """The optimizer and the chains of the authors' notebook 17."""
    return {"fluctuating_temperature": True, "learning_rate": 0.01, "schedule": "power"}


def build(config):
    """The machine on the rounded training images."""
    base.at_least("num_hidden", config.num_hidden, 1)
    split, test = mnist(config)
    bias = base_rates(split)
    family = rbm.family(len(bias), config.num_hidden, visible_bias=bias)
    return measured(config, family, split, {"test": test})


def mnist(config):
    """(training split, test images x [10000, 28, 28, 1]) of two values."""
    data_dir = config.data_dir or None
    draw = pixel_fn(config)
    pixels, labels = images.labelled("mnist", data_dir=data_dir)
    held_out, _ = images.labelled("mnist", split="test", data_dir=data_dir)
    split = binary.split("mnist", draw(pixels, seed=0), labels)
    return split, images.normalised(draw(held_out, seed=1))


def pixel_fn(config):
    """How grey levels become two values: (pixels, *, seed) -> pixels."""
    return base.choice(
        "pixels", config.pixels, rounded=binary.rounded, drawn=binary.drawn
    )


def base_rates(split):
    """Visible biases that give every pixel its mean in the training set, [n]."""
    means = (np.mean(split.train_x, axis=0).ravel() + 1) / 2
    return rbm.visible_bias(jnp.asarray(means), visible=units.BERNOULLI)


def measured(config, family, split, tests, *, frozen=(), log_partition_fn=None):
    """A machine with one hidden layer, trained by contrast and measured.

    tests: name -> x, for likelihoods beside the training set's. frozen: names of
    parameters that stay. log_partition_fn: params -> log Z, where it can be enumerated.
    """
    # Sums over many units: no arithmetic of half precision.
    base.choice("dtype", config.dtype, float32=None)
    base.at_least("early_stopping.gap", config.early_stopping.gap, 0)
    base.at_least("early_stopping.every", config.early_stopping.every, 1)
    shape = split.train.shape
    spec = specification(config, family, contrastive.bits(shape), frozen=frozen)
    model = likelihood.Model(family, spec.coding)
    learner = contrastive.contrastive(spec)
    if config.early_stopping.gap:
        learner, model = stopped_early(config, learner, model, split)
    return Experiment(
        split.train,
        learner,
        evaluations(config, model, learner, split),
        protocols(config, model, learner, split, tests, log_partition_fn),
    )


def stopped_early(config, learner, model, split):
    """The learner that rests at a gap, and the model with parameters of its state."""
    num = min(len(split.train_x), len(split.validation_x), 1000)
    seen = jnp.asarray(split.train_x[:num]), jnp.asarray(split.validation_x[:num])

    def gap_fn(state):
        return likelihood.free_energy_gap(model, model.params(state), *seen)

    resting = stopping.stopped_early(
        learner,
        gap_fn,
        limit=config.early_stopping.gap,
        every=config.early_stopping.every,
    )
    return resting, model._replace(params=lambda state: state.inner.model.params)


def specification(
    config, family, coding, *, num_steps=None, learning_rate=None, frozen=()
):
    """The specification of `config.contrast` and a family.

    num_steps, learning_rate: of this machine, where several train in one run.
    """
    settings = config.contrast
    rate = settings.learning_rate if learning_rate is None else learning_rate
    for field in ("num_chains", "num_sweeps", "num_sample_sweeps"):
        base.at_least(f"contrast.{field}", settings[field], 1)
    return contrastive.Spec(
        family,
        coding,
        num_chains=settings.num_chains,
        num_sweeps=settings.num_sweeps,
        persistent=settings.persistent,
        fluctuating_temperature=contrastive.FluctuatingTemperature()
        if settings.fluctuating_temperature
        else None,
        centring=contrastive.centred if settings.centred else None,
        num_sample_sweeps=settings.num_sample_sweeps,
        optimizer=optimizer(
            settings, rate, num_steps or config.train.num_steps, frozen
        ),
    )


def optimizer(settings, rate, num_steps, frozen=()):
    """SGD or Adam without momentum, its rate constant or falling, some of it frozen.

    power: the rate r falls as 1 / (1 / r + epoch), with epochs of 570 steps: what the
    notebook's PowerLawDecay does, whatever its text says.
    """
    base.at_least("train.num_steps", num_steps, 1)
    base.at_least("learning_rate", rate, 0)
    for field in ("l1", "l2"):
        base.at_least(f"contrast.{field}", settings[field], 0)
    rate_fn = base.choice(
        "contrast.schedule",
        settings.schedule,
        constant=rate,
        linear=optax.linear_schedule(rate, 0.0, num_steps),
        power=lambda count: rate / (1 + rate * (count // 570)),
    )
    method = base.choice(
        "contrast.method", settings.method, sgd=proximal.sgd, adam=proximal.adam
    )
    trained = method(rate_fn, l1=settings.l1, l2=settings.l2)
    if not frozen:
        return trained
    held = optax.masked(
        optax.set_to_zero(), lambda params: {name: name in frozen for name in params}
    )
    return optax.chain(trained, held)


def evaluations(config, model, learner, split):
    """What is quick enough for the training loop."""
    num = config.evaluation.num_examples
    base.at_least("evaluation.num_examples", num, 2)
    train_x, validation_x = split.train_x[:num], split.validation_x[:num]
    shape = split.train.shape
    return {
        "monitor": likelihood.monitor(model, train_x, validation_x),
        "restoration": reconstruction.restoration(model, validation_x),
        "weights": reconstruction.weight_pictures(model, shape),
        "grid": pictures.sample_grid(learner),
    }


def protocols(config, model, learner, split, tests, log_partition_fn=None):
    """What takes minutes: likelihoods and long chains."""
    settings = config.evaluation
    for field in ("num_chains", "num_steps", "num_reverse_sweeps", "num_fantasies"):
        base.at_least(f"evaluation.{field}", settings[field], 1)
    sets = {**tests, "train": split.train_x[: 10 * settings.num_examples]}
    log_likelihood = functools.partial(
        likelihood.log_likelihood, model, sets, num_chains=settings.num_chains
    )
    found = {
        "fantasies": reconstruction.fantasies(
            model,
            learner,
            split.validation_x[: settings.num_fantasies],
            split.train_x[: settings.num_fantasies],
            num_sweeps=(10, 100, 300, 1000),
        )
    }
    if log_partition_fn:
        log_z_fn = likelihood.by_enumeration(log_partition_fn)
        return found | {"likelihood": log_likelihood(log_z_fn=log_z_fn)}
    annealing = functools.partial(
        likelihood.by_annealing,
        model,
        {"visible_bias": base_rates(split)},
        num_steps=settings.num_steps,
    )
    reverse = annealing(num_sweeps=settings.num_reverse_sweeps)
    return found | {
        "likelihood": log_likelihood(log_z_fn=annealing()),
        "likelihood_reverse": log_likelihood(log_z_fn=reverse),
    }
