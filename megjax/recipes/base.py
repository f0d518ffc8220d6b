"""What configs start from, and what the recipes share."""

import functools
import inspect

import ml_collections
import optax
from jax import numpy as jnp

from megjax import checks
from megjax.learners import adversarial, density_ratio
from megjax.training import experiment

ADAM = {
    "learning_rate": 1e-4,
    "beta1": 0.5,
    "beta2": 0.9,
    "schedule": "constant",
    "warmup_steps": 0,
}
"""The optimizer of the reference code; the rate may rise from 0 in `warmup_steps` of a
player's updates, and fall to 0 along a cosine."""


SHORT_COMPILATION = {"xla_backend_optimization_level": "1"}
"""An iteration of `mnist_small` compiles in four fifths of the time. Convolutions and
products are library calls, and iterations take as long as at the default level, 3."""


def paper_variant(argument, default):
    """(the rest, whether the paper's settings are asked for) of a config's argument.

    "paper", "kmnist:paper" and "kmnist".
    """
    rest, _, last = argument.rpartition(":")
    return (rest or default, True) if last == "paper" else (argument, False)


def config() -> ml_collections.ConfigDict:
    """The fields of every config; `train` is documented at `experiment.TRAIN`.

    dtype: of the arithmetic of networks, float32 or bfloat16; parameters stay float32.
    """
    config = ml_collections.ConfigDict()
    config.batch_size = 64
    config.dtype = "float32"
    config.train = experiment.TRAIN | {
        "compiler_options_cpu": compiler_options("dot", "reduce") | SHORT_COMPILATION
    }
    return config


def compiler_options(*operations):
    """The operations that XLA:CPU hands to its library of kernels (YNN).

    Its own choice adds convolutions, which are slower there: 4.7 s an iteration of
    CIFAR-10 at width 512 against 4.0. Dense networks of width 256 and less are faster
    without the library.
    """
    names = {"dot": "INDIVIDUAL_DOT", "reduce": "REDUCE"}
    kinds = ",".join(f"LIBRARY_FUSION_TYPE_{names[name]}" for name in operations)
    return {"xla_cpu_experimental_ynn_fusion_type": kinds}


def defaults(spec, **changes):
    """The config group of a learner's Spec: its plain defaults, functions by name.

    They are documented there. changes: what the group has otherwise, or beside them.
    """
    plain = {
        name: value.__name__ if inspect.isfunction(value) else value
        for name, value in spec._field_defaults.items()
        if isinstance(value, bool | int | float | str) or inspect.isfunction(value)
    }
    return plain | changes


def plain_fields(spec, settings):
    """Those fields of a Spec that a config group has as they are: numbers."""
    return {
        name: settings[name]
        for name in spec._fields
        if name in settings and isinstance(settings[name], bool | int | float)
    }


def lazily(make):
    """An evaluation that is made, with what it reads, when it is first asked for."""
    made = functools.cache(make)
    return lambda key, state: made()(key, state)


def rising(rate, num_updates):
    """A schedule that rises linearly to another one, a number or a schedule."""

    def schedule(count):
        share = jnp.minimum(1, (count + 1) / num_updates)
        return share * (rate(count) if callable(rate) else rate)

    return schedule


def optimizer(settings, num_updates, method="meg"):
    """Adam, its rate constant (reference) or decaying to 0 along a cosine.

    The cosine ends with `train.num_steps`: to raise that for a finished run lifts the
    rate again.
    """
    at_least(f"{method}.learning_rate", settings.learning_rate, 0)
    rates_of_decay(method, settings)
    rate = choice(
        f"{method}.schedule",
        settings.schedule,
        constant=settings.learning_rate,
        cosine=optax.cosine_decay_schedule(settings.learning_rate, num_updates),
    )
    warmup_steps = settings.get("warmup_steps", 0)
    at_least(f"{method}.warmup_steps", warmup_steps, 0)
    if warmup_steps:
        rate = rising(rate, warmup_steps)
    return optax.adam(rate, settings.beta1, settings.beta2)


def ratio_settings():
    """`config.ratio`: of `density_ratio.Spec`; num_steps 0 fits none, as the papers.

    It takes a quarter of the iterations of training at most.
    """
    rates = {"learning_rate": 2e-4, "beta1": 0.5, "beta2": 0.9, "schedule": "constant"}
    return defaults(density_ratio.Spec, num_steps=0, **rates)


def with_ratio(config, learner, energy):
    """The learner, with a density ratio of the energy's form where the config asks."""
    group = config.get("ratio")
    if group:
        at_least("ratio.num_steps", group.num_steps, 0)
    if not group or not group.num_steps:
        return learner
    num_steps = max(1, min(group.num_steps, config.train.num_steps // 4))
    fields = plain_fields(density_ratio.Spec, group) | {"num_steps": num_steps}
    adam = optimizer(group, num_steps, "ratio")
    spec = density_ratio.Spec(energy, **fields, optimizer=adam)
    return density_ratio.with_ratio(learner, spec, adversarial.energy_params)


def rates_of_decay(method, settings):
    """ValueError where Adam could not take its averages."""
    for field in ("beta1", "beta2"):
        fraction(f"{method}.{field}", settings[field])


def compute_dtype(value):
    """The type of `config.dtype`."""
    return choice("dtype", value, float32=jnp.float32, bfloat16=jnp.bfloat16)


def choice(field, value, **options):
    """options[value]; ValueError naming the allowed values otherwise."""
    return checks.choice(f"config.{field}", value, **options)


def at_least(field, value, minimum):
    """ValueError where a number falls short of its minimum, or is not finite."""
    checks.at_least(f"config.{field}", value, minimum)


def positive(field, value):
    """ValueError where a number is not above 0, or is not finite."""
    checks.positive(f"config.{field}", value)


def fraction(field, value):
    """ValueError where a number is not in [0, 1)."""
    checks.fraction(f"config.{field}", value)


def divides(field, value, batch_size):
    """ValueError where a number of parts of a batch is not one that can be."""
    at_least(field, value, 1)
    if batch_size % value:
        raise ValueError(
            f"config.{field}={value} does not divide config.batch_size={batch_size}: "
            "change one of the two"
        )
