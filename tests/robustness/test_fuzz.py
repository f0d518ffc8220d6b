"""Random wrong arguments of the public sampling functions and flags.

CALLS=20000 FLAGS=200 in the environment ask for more than the defaults. Of every call at
least one argument cannot be: it is refused in one line that names it, not by JAX or NumPy.
"""

import functools
import os
import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.learners.base import Learner
from megjax.samplers import adaptation, bijectors, hmc, kernel, latent, mala, rwm
from megjax.samplers.from_blackjax import nuts
from megjax.sampling import density, draw, model
from tests.robustness import scripts as forks
from tests.robustness.conftest import TOY

CALLS, FLAGS = (
    int(os.environ.get(name, default))
    for name, default in (("CALLS", 2000), ("FLAGS", 60))
)


def normal(x):
    return -0.5 * jnp.sum(jnp.square(x))


def pair(x):
    return normal(x), x


NOT_WHOLE = (-1, -(10**9), 1.5, "3", None, np.nan, [1], 2j, True, jnp.ones(2))
COUNTS = (1, 2, np.int64(3))
SIZES = (
    (0.1, 1, np.float32(0.3), 1e-9),
    (0, -1.0, np.nan, np.inf, "x", None, [1.0], 1j),
)
DENSITIES = (
    (normal, lambda x: 0.0),
    (
        *(lambda x: x, lambda x: x[:1], lambda x: None, lambda x: "x", lambda x: 3),
        *(
            lambda x: np.log(np.asarray(x)).sum(),
            lambda x: float(x[0]),
            lambda x: x["a"],
        ),
        *(lambda x: normal(x) if x[0] > 0 else 0.0, lambda: 0.0, lambda x: 1 / 0, pair),
        *(lambda x: normal(x) + 1j, lambda x: jnp.int32(x[0]), lambda x: jnp.nope(x)),
    ),
)
POSITIONS = (
    (jnp.ones(2), np.ones(2), jnp.ones(2, jnp.float16)),
    (*(jnp.arange(2), jnp.ones(2, complex), [1.0], {"a": 1.0}, None, "x", 3, True),),
)
NAMES = (*("", "x", None, 3, ["mala"], "MALA", "none "),)
INIT = (
    (jnp.ones((2, 2)), np.ones((2, 2))),
    (*(None, {}, 3.0, "x", jnp.ones((2, 2), int), jnp.ones((0, 2)), jnp.ones(()), 1j),),
)
KEYS = (
    (jax.random.key(0), jax.random.PRNGKey(1)),
    (*(0, None, "x", jnp.ones(2), np.uint32([1, 2, 3]), 1.5),),
)


def started(make):
    """A kernel's state and step, traced."""

    def call(log_density_fn, position, step_size, **more):
        made = make(log_density_fn, step_size=step_size, **more)
        position = position if isinstance(position, jax.Array) else made.init(position)
        position = getattr(position, "position", position)
        return jax.eval_shape(made.init, position)

    return call


def ran(num_steps, thin):
    made = rwm.rwm(normal, step_size=0.1)
    state = made.init(jnp.ones(2))
    key = jax.random.key(0)
    return jax.eval_shape(lambda: kernel.chain(key, made, state, num_steps, thin=thin))


@functools.cache
def chain():
    def made(params):
        return rwm.rwm(normal, step_size=params["step_size"])

    return draw.of_kernel(made, lambda params, state: {"x": state.position})


def drawn(**numbers):
    params = {"step_size": 0.1}
    states = draw.start(chain(), params, jnp.ones((2, 2)))
    return draw.chains(jax.random.key(0), chain(), params, states, **numbers)


LEARNER = Learner(
    init=None,
    step=None,
    sample=lambda key, state, num: jax.random.normal(key, (num, 3)),
    energy=lambda state, x: jnp.sum(x**2, axis=1) / 2,
    latents=lambda key, num: jax.random.normal(key, (num, 2)),
    generate=lambda state, z: z @ jnp.ones((2, 3)),
)


def modelled(**settings):
    return model.sample(jax.random.key(0), LEARNER, jnp.float32(1), **settings)


FUNCTIONS = {
    **{
        name: (
            started(make),
            {"log_density_fn": DENSITIES, "position": POSITIONS, "step_size": SIZES},
        )
        for name, make in (("mala", mala.mala), ("rwm", rwm.rwm), ("nuts", nuts))
    },
    "hmc": (
        started(hmc.hmc),
        {
            "log_density_fn": DENSITIES,
            "position": POSITIONS,
            "step_size": SIZES,
            "num_integration_steps": (COUNTS, (0, *NOT_WHOLE)),
        },
    ),
    "chain": (
        ran,
        {"num_steps": ((0, 6), NOT_WHOLE), "thin": ((1, 2), (0, *NOT_WHOLE))},
    ),
    "draw.chains": (
        drawn,
        {
            "num_steps": (COUNTS, NOT_WHOLE),
            "thin": ((1,), (0, *NOT_WHOLE)),
            "burn_in": ((0, 1), NOT_WHOLE),
            "steps_per_call": ((5,), (0, *NOT_WHOLE)),
        },
    ),
    "tuner": (adaptation.tuner, {"step_size": SIZES}),
    "interval": (
        bijectors.interval,
        {
            "low": ((0.0, -1), (np.nan, -np.inf, 9.0, "x", None)),
            "high": ((1.0, 2), (np.nan, np.inf, -9.0, "x", None)),
        },
    ),
    "positive": (bijectors.positive, {"shape": (("exp", "softplus"), NAMES[:4])}),
    "latent": (
        lambda prior: latent.log_density(normal, prior=prior),
        {"prior": (("none", "gaussian"), NAMES)},
    ),
    "sample": (
        functools.partial(density.sample, progress=False),
        {
            "log_density_fn": DENSITIES,
            "init": INIT,
            "key": KEYS,
            "kernel": (
                ("mala", "rwm", "nuts", "hmc"),
                ("", "x", None, 3, ["mala"], "MALA"),
            ),
            "num_warmup": ((0, 3), NOT_WHOLE),
            "num_samples": (COUNTS, (0, *NOT_WHOLE)),
            "thin": (COUNTS, (0, *NOT_WHOLE)),
            "mass_matrix": (("diagonal", "dense"), ("", "full", None, 3)),
            "target_acceptance": (
                (None, 0.8),
                (0, 1, -0.1, 1.5, np.nan, "x", True, 1j, [0.8]),
            ),
            "store": ((None,), ("", 3, b"x", "~nobody_of_this_name/x", "a\0b")),
        },
    ),
    "model.sample": (
        modelled,
        {
            "space": (("latent", "data"), NAMES),
            "target": (("energy",), (*NAMES, "ratio")),
            "prior": (("gaussian", "none"), NAMES),
            "num": (COUNTS, (0, *NOT_WHOLE)),
            "steps": ((3,), NOT_WHOLE),
            "burn_in": ((0, 2), NOT_WHOLE),
            "thin": ((None, 1), (0, 99, -1, 1.5, "3", [1])),
            "resample": ((1,), (0, *NOT_WHOLE)),
            "warmup": ((5,), NOT_WHOLE),
            "step_size": ((None, 0.1), (0, -1.0, np.nan, np.inf, "x", [0.1], 1j)),
            "inverse_temperature": (
                (0, 1.0),
                (-1, np.nan, np.inf, "x", [1.0], 1j, None),
            ),
        },
    ),
}


def calls():
    """(function, arguments, the names of those that cannot be), the same every time."""
    rng = random.Random(0)
    for _ in range(CALLS):
        name = rng.choice(sorted(FUNCTIONS))
        _, parameters = FUNCTIONS[name]
        wrong = {each for each in parameters if rng.random() < 0.15}
        wrong |= {rng.choice(sorted(parameters))}
        values = {k: rng.choice(parameters[k][k in wrong]) for k in sorted(parameters)}
        yield name, values, wrong


def test_wrong_arguments_are_refused_in_one_line():
    found = []
    for name, values, wrong in calls():
        call, _ = FUNCTIONS[name]
        try:
            call(**values)
            found.append((name, wrong, "was accepted"))
        except ValueError as error:
            text = str(error)
            if "\n" in text or len(text) > 600 or forks.UNCLEAR.search(text):
                named = re.search(r"^log_density_fn fails \(", text)
                found += [] if named and "\n" not in text else [(name, wrong, text)]
        except Exception as error:  # noqa: BLE001
            found.append((name, wrong, f"{type(error).__name__}: {str(error)[:200]}"))
    print(f"{CALLS} calls of {len(FUNCTIONS)} functions, {len(found)} not refused well")
    assert not found, "\n".join(
        str({k: v for k, v in enumerate(one)}) for one in found[:20]
    )


WRONG_FLAGS = {
    "train.py": {
        "--config.train.num_steps": ("0", "-1", "x", "1.5", "nan", ""),
        "--config.batch_size": ("0", "-3", "x", "1e3"),
        "--config.width": ("0", "-3", "x", "1e999"),
        "--config.train.seed": ("x", "1.5", "9" * 30),
        "--config.train.keep": ("0", "x"),
        "--config.meg.bound": ("nope", ""),
        "--config.meg.latent_dim": ("0", "x"),
        "--workdir": ("~nobody_at_all/x", "/dev/null/x", "/proc/nowhere/x"),
        "--nope": ("3",),
    },
    "sample.py": {
        "--steps": ("-1", "x", "1.5", "9" * 30),
        "--num": ("0", "-3", "x"),
        "--burn_in": ("-1", "x"),
        "--thin": ("0", "101", "x"),
        "--step_size": ("0", "-1", "nan", "inf", "x"),
        "--inverse_temperature": ("-1", "nan", "x", "1e999"),
        "--kernel": ("nope", "", "MALA"),
        "--space": ("nope", ""),
        "--resample": ("0", "x"),
        "--seed": ("-1", "x"),
        "--out": ("~nobody_at_all/x", "/dev/null", "/proc/nowhere/x"),
        "--workdir": ("~nobody_at_all", "/dev/null", "{root}/nope"),
    },
    "evaluate.py": {
        "--only": ("nope", ",", ".."),
        "--set": ("nope=3", "width", "=", "width=x", "width=-1"),
        "--seed": ("x", "-1"),
        "--out": ("~nobody_at_all/x", "/dev/null", "/proc/nowhere/x"),
        "--workdir": ("~nobody_at_all", "{root}/nope"),
    },
}


@pytest.mark.slow
def test_wrong_flags_are_refused_in_one_line(scripts, home):
    rng, root = random.Random(0), home("toy")
    for _ in range(FLAGS):
        script = rng.choice(sorted(WRONG_FLAGS))
        table = WRONG_FLAGS[script]
        chosen = rng.sample(sorted(table), rng.choice((1, 1, 2, 3)))
        flags = [f"{name}={rng.choice(table[name])}" for name in chosen]
        where = (
            "--workdir={root}/new" if script == "train.py" else "--workdir={root}/run"
        )
        more = [*(TOY if script == "train.py" else ())]
        scripts.refuse(root, [script, *more, where, *flags])
    print(f"{FLAGS} command lines refused")
