"""Random wrong arguments of every public function, and of every flag.

CALLS=20000 FLAGS=200 in the environment ask for more than the defaults. Of every call at
least one argument cannot be: it is refused in one line that names it, not by JAX or NumPy.
"""

import collections
import copy
import functools
import os
import pathlib
import random
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

import megjax
from megjax import errors
from megjax.densities import reference
from megjax.energies import rbm
from megjax.learners import (
    adaptive_samplers,
    contrastive,
    deep_directed,
    meg,
    noise_contrastive,
    proposal,
    replay,
    wgan_gp,
)
from megjax.learners.base import Learner
from megjax.networks import heads, mlp, smooth
from megjax.networks import proposal as proposals
from megjax.samplers import adaptation, kernel, latent, rwm
from megjax.samplers.from_blackjax import nuts
from megjax.sampling import draw, model
from tests.robustness import scripts as forks
from tests.robustness.conftest import TOY

QUICK = 40
CALLS, FLAGS = (
    int(os.environ.get(name, default))
    for name, default in (("CALLS", 2000), ("FLAGS", 60))
)


def normal(x):
    return -0.5 * jnp.sum(jnp.square(x))


def pair(x):
    return normal(x), x


def pick(*values):
    return st.sampled_from(values)


# What no number is.
OTHERS = st.one_of(
    pick(None, "x", [1.0], {}, 2j, True, np.array("x"), jnp.ones(2)),
    st.text(max_size=3),
)
NOT_WHOLE = st.one_of(st.integers(max_value=-1), st.floats(), OTHERS)
NOT_COUNT = st.one_of(st.just(0), NOT_WHOLE)
NOT_FINITE = st.one_of(pick(np.nan, np.inf, -np.inf), OTHERS)
NEGATIVE = st.one_of(st.floats(max_value=-1e-6), NOT_FINITE)
NOT_POSITIVE = st.one_of(st.just(0), NEGATIVE)
NOT_FRACTION = st.one_of(st.floats(min_value=1), NEGATIVE)
COUNTS = pick(1, 2, np.int64(3))
NAMES = st.one_of(
    pick("", "x", None, 3, ["mala"], "MALA", "none "), st.text(max_size=3)
)
SEEDS = st.one_of(st.integers(min_value=2**32), st.floats(), OTHERS)
BAD_PATHS = pick("", 3, b"x", "~nobody_of_this_name/x", "a\0b", ["x"])
PATHS = st.one_of(st.none(), BAD_PATHS)
# Arrays of what no numbers are.
NO_NUMBERS = hnp.arrays(
    st.sampled_from(["c8", "U2", "M8[s]", "O", "S3"]), hnp.array_shapes(max_dims=3)
)
ROWS = np.random.default_rng(0).normal(size=(24, 2)).astype(np.float32)
BITS = (ROWS > 0).astype(np.float32)


def not_rows(rows):
    """What is no table [N, 2] of finite numbers."""
    return st.one_of(
        NO_NUMBERS,
        pick(
            *(None, "x", 3.0, {}, [1.0, "a"], [[1.0], [1.0, 2.0]], rows[0], rows[:0]),
            *(np.where(rows > 0, np.nan, rows), np.where(rows > 0, np.inf, rows)),
            *(np.ma.masked_greater(rows, 0), [np.ma.masked_greater(rows[0], -9)]),
            *(
                sparse.csr_array(rows),
                rows.astype(complex),
                rows[:, :, None, None, None],
            ),
        ),
    )


SIZES = (pick(0.1, 1, np.float32(0.3), 1e-9), NOT_POSITIVE)
DENSITIES = (
    pick(normal, lambda x: 0.0),
    pick(
        *(lambda x: x, lambda x: x[:1], lambda x: None, lambda x: "x", lambda x: 3),
        lambda x: np.log(np.asarray(x)).sum(),
        *(lambda x: float(x[0]), lambda x: x["a"]),
        *(lambda x: normal(x) if x[0] > 0 else 0.0, lambda: 0.0, lambda x: 1 / 0, pair),
        *(lambda x: normal(x) + 1j, lambda x: jnp.int32(x[0]), lambda x: jnp.nope(x)),
    ),
)
POSITIONS = (
    pick(jnp.ones(2), np.ones(2), jnp.ones(2, jnp.float16)),
    pick(jnp.arange(2), jnp.ones(2, complex), [1.0], {"a": 1.0}, None, "x", 3, True),
)
INIT = (
    pick(jnp.ones((2, 2)), np.ones((2, 2))),
    st.one_of(
        pick(None, {}, 3.0, "x", jnp.ones((2, 2), int), jnp.ones((0, 2)), jnp.ones(())),
        pick(1j, np.ma.masked_greater(np.ones((2, 2)), 0)),
        NO_NUMBERS,
    ),
)
KEYS = (
    pick(jax.random.key(0), jax.random.PRNGKey(1)),
    pick(
        *(0, None, "x", jnp.ones(2), np.uint32([1, 2, 3]), 1.5),
        jax.random.split(jax.random.key(0)),
    ),
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


@functools.cache
def fitted(learner="meg"):
    return megjax.fit(ROWS, learner=learner, num_steps=1, width=4, batch_size=4)


@functools.cache
def estimator(kind):
    made = megjax.RBM(2, n_iter=1) if kind == "RBM" else getattr(megjax, kind)()
    return made.fit(BITS if kind == "RBM" else ROWS)


def method(made, name):
    """A method of what `made` makes, which is made when it is called."""
    return lambda *args, **more: getattr(made(), name)(*args, **more)


def spec_of(module, **fixed):
    """The learner of a method's specification, from fields."""
    make = getattr(module, module.__name__.rpartition(".")[2])
    return lambda **fields: make(module.Spec(**fixed | fields))


def counted(*names, **more):
    return dict.fromkeys(names, (COUNTS, NOT_COUNT)) | more


def weighed(*names, **more):
    return dict.fromkeys(names, (pick(0, 0.5), NEGATIVE)) | more


AVERAGED = {"average_decay": (pick(0, 0.9), NOT_FRACTION)}
ENERGY, GENERATOR = heads.Energy(mlp.Trunk((4,))), mlp.Generator((4,), 2)
LANGEVIN = adaptive_samplers.langevin(adaptive_samplers.StepSize())


def applied(module, x, z):
    return module.init(jax.random.key(0), x, z)


def swept(**arguments):
    params = rbm.family(2, 3).init(jax.random.key(0))
    return megjax.gibbs(params=params, **{"family": rbm.family(2, 3)} | arguments)


def set_params(kind, rows=ROWS, **values):
    """Scores of an estimator with values that were set after its fit."""
    one = copy.deepcopy(estimator(kind))
    return one.set_params(**values).score_samples(rows)


PAIRS = {
    "joint": (
        pick(jnp.ones(3), np.ones(3)),
        st.one_of(
            NO_NUMBERS,
            pick(
                None,
                "x",
                3,
                [1.0],
                jnp.ones((3, 1)),
                jnp.ones(0),
                np.ma.masked_equal([1.0], 1),
            ),
        ),
    ),
    "marginal": (
        pick(jnp.ones((2, 3))),
        st.one_of(
            NO_NUMBERS,
            pick(
                None, "x", 3, [[1.0]], jnp.ones(3), jnp.ones((2, 4)), jnp.ones((3, 1))
            ),
        ),
    ),
}
ENERGIES = pick(jnp.ones(3), np.ones(2)), PAIRS["joint"][1]
FLOATS = (
    pick(jnp.ones((3, 2)), np.ones((1, 2))),
    st.one_of(
        NO_NUMBERS,
        pick(
            *(None, "x", 3.0, [1.0], jnp.ones(()), jnp.ones((3, 2), int)),
            np.ma.masked_equal([[1.0]], 1),
        ),
    ),
)
ENERGY_FNS = (
    pick(lambda x: jnp.sum(x**2, axis=1)),
    pick(*(lambda x: x, lambda x: jnp.sum(x), lambda x: jnp.sum(x, 1, keepdims=True))),
)
SAMPLES = (pick(jnp.ones((3, 2)), ROWS), not_rows(ROWS))
TRACES = (
    pick(ROWS.T, ROWS.T.tolist()),
    st.one_of(NO_NUMBERS, pick(*(None, "x", 3.0, {}, ROWS[0], [[1.0], [1.0, 2.0]]))),
)
ROWS_OF = {"X": (pick(ROWS, ROWS.tolist()), not_rows(ROWS))}
BITS_OF = {
    "X": (
        pick(BITS, BITS > 0, BITS.astype(int)),
        st.one_of(
            not_rows(BITS),
            pick(2 * BITS - 1, 255 * BITS, 3 * BITS, BITS - 1e-3, -BITS.astype(int)),
        ),
    )
}
RBM_PARAMETERS = {
    **counted("n_components", "batch_size", "n_iter", "num_sweeps"),
    **weighed("learning_rate", "l1", "l2"),
    "visible": (pick("bernoulli"), NAMES),
    "persistent": (pick(True, False), pick(None, "x", 2, [True], np.ones(2))),
    "verbose": (pick(0, False), pick(None, "x", -1, 1.5, [1])),
    "random_state": (pick(0, None), pick("x", -1, 1.5, [1.5], 2**40)),
}
DETECTOR_PARAMETERS = {
    "energy": (pick("neighbours"), NAMES),
    "contamination": (pick(0.1, 0.5), st.one_of(pick(0.6, -0.1, 0), NOT_FINITE)),
    "num_neighbors": (pick(5), NOT_COUNT),
    "max_stored": (pick(5000), NOT_COUNT),
    "verbose": RBM_PARAMETERS["verbose"],
    "random_state": RBM_PARAMETERS["random_state"],
    "latent_dim": (pick(16), NOT_COUNT.filter(lambda value: value is not True)),
    "num_steps": (pick(2000), NOT_COUNT),
    "learning_rate": (pick(1e-3), NOT_POSITIVE),
    "scaling": (pick("minmax"), pick("x", 3, ["minmax"], np.ones(2))),
}
FITS = {
    "x": (pick(ROWS), not_rows(ROWS)),
    "learner": (pick("meg"), NAMES),
    "seed": (pick(0), SEEDS),
    "num_steps": (pick(1), NOT_COUNT.filter(lambda value: value is not None)),
    "batch_size": (pick(4), NOT_COUNT),
    "width": (pick(4), NOT_COUNT),
    "latent_dim": (pick(2), NOT_COUNT),
    "score_weight": (pick(0.1), NEGATIVE),
    "bound": (pick("jensen_shannon"), NAMES),
    "average_decay": (pick(0.5), NOT_FRACTION),
    "workdir": (pick(None), BAD_PATHS),
    "dtype": (pick("float32"), NAMES),
}
CONTAINERS = {
    *("Bijector", "Dataset", "Experiment", "Info", "Kernel", "Learner", "Player"),
    *("Recipe", "Report", "Target"),
}
"""Public names of records, which hold what they are given; what reads them checks it."""
KERNEL = {"log_density_fn": DENSITIES, "position": POSITIONS, "step_size": SIZES}
MODEL_SAMPLE = {
    "space": (pick("latent", "data"), NAMES),
    "prior": (pick("gaussian", "none"), NAMES),
    "num": (COUNTS, NOT_COUNT),
    "steps": (pick(3), NOT_WHOLE),
    "burn_in": (pick(0, 2), NOT_WHOLE),
    "thin": (pick(None, 1), pick(0, 99, -1, 1.5, "3", [1], True, np.ones(2))),
    "resample": (pick(1), NOT_COUNT),
    "warmup": (pick(5), NOT_WHOLE),
    "step_size": (pick(None, 0.1), NOT_POSITIVE.filter(lambda v: v is not None)),
    "inverse_temperature": (pick(0, 1.0), NEGATIVE),
}
FUNCTIONS = {
    **{
        name: (started(make), KERNEL)
        for name, make in (("mala", megjax.mala), ("rwm", megjax.rwm), ("nuts", nuts))
    },
    "hmc": (
        started(megjax.hmc),
        KERNEL | {"num_integration_steps": (COUNTS, NOT_COUNT)},
    ),
    "gibbs": (
        swept,
        {
            "family": (pick(rbm.family(2, 3)), pick(None, "x", 3, [1])),
            "inverse_temperature": (pick(0.5), OTHERS),
        },
    ),
    "chain": (
        ran,
        {"num_steps": (pick(0, 6), NOT_WHOLE), "thin": (pick(1, 2), NOT_COUNT)},
    ),
    "draw.chains": (
        drawn,
        {
            "num_steps": (COUNTS, NOT_WHOLE),
            "thin": (pick(1), NOT_COUNT),
            "burn_in": (pick(0, 1), NOT_WHOLE),
            "steps_per_call": (pick(5), NOT_COUNT),
        },
    ),
    "tuner": (adaptation.tuner, {"step_size": SIZES}),
    "interval": (
        megjax.interval,
        {
            "low": (pick(0.0, -1), st.one_of(pick(9.0), NOT_FINITE)),
            "high": (pick(1.0, 2), st.one_of(pick(-9.0), NOT_FINITE)),
        },
    ),
    "positive": (megjax.positive, {"shape": (pick("exp", "softplus"), NAMES)}),
    "latent": (
        lambda prior: latent.log_density(normal, prior=prior),
        {"prior": (pick("none", "gaussian"), NAMES)},
    ),
    "sample": (
        functools.partial(megjax.sample, progress=False),
        {
            "log_density_fn": DENSITIES,
            "init": INIT,
            "key": KEYS,
            "kernel": (pick("mala", "rwm", "nuts", "hmc"), NAMES),
            "num_warmup": (pick(0, 3), NOT_WHOLE),
            "num_samples": (COUNTS, NOT_COUNT),
            "thin": (COUNTS, NOT_COUNT),
            "mass_matrix": (pick("diagonal", "dense"), NAMES),
            "target_acceptance": (
                pick(None, 0.8),
                st.one_of(pick(0, 1), NEGATIVE.filter(lambda v: v is not None)),
            ),
            "store": (pick(None), BAD_PATHS),
        },
    ),
    "model.sample": (
        modelled,
        MODEL_SAMPLE | {"target": (pick("energy"), st.one_of(pick("ratio"), NAMES))},
    ),
    "Model.energy": (method(fitted, "energy"), {"x": SAMPLES}),
    "Model.log_ratio": (method(fitted, "log_ratio"), {"x": SAMPLES}),
    "Model.score_samples": (
        method(fitted, "score_samples"),
        {"x": SAMPLES, "criterion": (pick("energy", "score_norm"), NAMES)},
    ),
    "Model.log_prob": (
        method(lambda: fitted("density"), "log_prob"),
        {
            "x": SAMPLES,
            "log_z": (pick(None, 1.5), OTHERS.filter(lambda v: v is not None)),
        },
    ),
    "Model.generate": (
        method(fitted, "generate"),
        {"key": KEYS, "num": (COUNTS, NOT_COUNT)},
    ),
    "Model.sample": (
        method(fitted, "sample"),
        MODEL_SAMPLE | {"key": KEYS, "kernel": (pick("mala"), NAMES)},
    ),
    "Model.save": (method(fitted, "save"), {"path": (PATHS, PATHS)}),
    "fit": (megjax.fit, FITS),
    "train": (
        megjax.train,
        {
            "config": (
                pick("rbm_digits"),
                pick("nope", "", 3, None, {}, "rbm_digits:x"),
            ),
            "overrides": (
                pick(["train.num_steps=1"]),
                pick("width=3", 3, [3], None, ["nope=3"], ["train.num_steps=-1"]),
            ),
            "devices": (pick(None), pick([], "x", [1], 3, {})),
            "workdir": (BAD_PATHS, BAD_PATHS),
        },
    ),
    "load": (
        megjax.load,
        {
            "workdir": (pick("/nowhere"), PATHS),
            "step": (pick(None, 3), OTHERS),
            "recipe": (pick(None), pick(3, "meg.plane", {})),
        },
    ),
    "load_weights": (
        megjax.load_weights,
        {"path": (pick("/nowhere"), PATHS), "recipe": (pick(None), pick(3, "x"))},
    ),
    "load_pretrained": (
        megjax.load_pretrained,
        {
            "name": (
                pick("digits"),
                pick("cifar10", "", "../digits", None, 3, ["digits"]),
            )
        },
    ),
    "evaluate": (
        megjax.evaluate,
        {
            "model": (pick(None), pick(3, "x", LEARNER)),
            "names": (pick(()), pick("monitor", 3, [3])),
            "seed": (pick(0), SEEDS),
        },
    ),
    "RBM": (
        lambda X, **parameters: megjax.RBM(**parameters).fit(X),
        RBM_PARAMETERS | BITS_OF,
    ),
    "RBM.set_params": (
        functools.partial(set_params, "RBM", rows=BITS),
        {k: v for k, v in RBM_PARAMETERS.items() if k != "n_components"},
    ),
    **{
        f"RBM.{name}": (method(lambda: estimator("RBM"), name), BITS_OF)
        for name in (
            "transform",
            "score_samples",
            "log_likelihood",
            "reconstruct",
            "pseudo_likelihood",
        )
    },
    "RBM.log_partition": (
        method(lambda: estimator("RBM"), "log_partition"),
        {"num_chains": (pick(2), NOT_COUNT), "num_steps": (pick(1), NOT_COUNT)},
    ),
    "RBM.gibbs": (method(lambda: estimator("RBM"), "gibbs"), {"v": BITS_OF["X"]}),
    "RBM.sample": (
        method(lambda: estimator("RBM"), "sample"),
        counted("n_samples", "num_sweeps", start=BITS_OF["X"]),
    ),
    "EnergyDetector": (
        lambda X, **parameters: megjax.EnergyDetector(**parameters).fit(X),
        DETECTOR_PARAMETERS | ROWS_OF,
    ),
    "EnergyDetector.set_params": (
        functools.partial(set_params, "EnergyDetector"),
        DETECTOR_PARAMETERS,
    ),
    **{
        f"{kind}.{name}": (method(lambda kind=kind: estimator(kind), name), ROWS_OF)
        for kind, names in (
            ("EnergyDetector", ("predict", "explain", "p_values", "score_samples")),
            ("PyODEnergyDetector", ("predict", "predict_confidence", "fit_predict")),
        )
        for name in names
    },
    "PyODEnergyDetector": (
        lambda X, **parameters: megjax.PyODEnergyDetector(**parameters).fit(X),
        {
            "detector": (pick(None), pick(3, "x", megjax.EnergyDetector, megjax.RBM())),
            "contamination": DETECTOR_PARAMETERS["contamination"],
        }
        | ROWS_OF,
    ),
    "PyODEnergyDetector.predict_proba": (
        method(lambda: estimator("PyODEnergyDetector"), "predict_proba"),
        {"method": (pick("linear", "unify"), NAMES)} | ROWS_OF,
    ),
    **{
        name: (getattr(megjax, name), PAIRS)
        for name in ("jensen_shannon", "donsker_varadhan", "info_nce", "variational")
    },
    "energy_contrast": (megjax.energy_contrast, {"real": ENERGIES, "fake": ENERGIES}),
    "squared_score": (megjax.squared_score, {"energy_fn": ENERGY_FNS, "x": FLOATS}),
    "gradient_penalty": (
        megjax.gradient_penalty,
        {
            "energy_fn": ENERGY_FNS,
            "x": FLOATS,
            "deviation": (pick(megjax.norm_deviation), pick(jnp.sum, lambda g: g)),
            "weight": (pick(1.0), OTHERS),
        },
    ),
    "penalised_energy": (
        lambda x, weight: megjax.penalised_energy(
            ENERGY,
            ENERGY.init(jax.random.key(0), jnp.ones((1, 2)))["params"],
            x,
            weight,
        ),
        {"x": FLOATS, "weight": (pick(1.0), OTHERS)},
    ),
    "norm_deviation": (megjax.norm_deviation, {"gradient": FLOATS}),
    "pixel_norm_deviation": (megjax.pixel_norm_deviation, {"gradient": FLOATS}),
    "batch_norm_entropy": (
        megjax.batch_norm_entropy,
        {
            "scales": (
                pick([jnp.ones(2)]),
                st.one_of(NO_NUMBERS, pick("x", 3.0, [None, "x"])),
            ),
            "epsilon": (pick(1e-8), NEGATIVE),
        },
    ),
    # One at a time: two samples of another form are right together.
    "energy_distance": (lambda x: megjax.energy_distance(x, ROWS), {"x": SAMPLES}),
    "energy_distance.y": (lambda y: megjax.energy_distance(ROWS, y), {"y": SAMPLES}),
    "effective_sample_size": (megjax.effective_sample_size, {"traces": TRACES}),
    "r_hat": (megjax.r_hat, {"traces": TRACES}),
    "Energy": (
        lambda x: ENERGY.init(jax.random.key(0), x),
        {
            "x": (
                pick(jnp.ones((3, 2))),
                st.one_of(NO_NUMBERS, pick(None, "x", 3.0, [1.0])),
            )
        },
    ),
    **{
        module.__class__.__name__: (
            functools.partial(applied, module),
            {
                "x": (
                    pick(jnp.ones((3, 2))),
                    st.one_of(NO_NUMBERS, pick(None, "x", [1.0])),
                ),
                "z": (
                    pick(jnp.ones((3, 4)), jnp.ones((2, 3, 4))),
                    pick(None, "x", jnp.ones(4), jnp.ones((2, 4)), jnp.ones((3, 5))),
                ),
            },
        )
        for module in (
            heads.Statistics(mlp.Trunk((4,)), 4, 8),
            heads.Posterior(mlp.Trunk((4,)), 4),
        )
    },
    "meg": (
        spec_of(meg, energy=ENERGY, generator=GENERATOR, statistics=None),
        counted("latent_dim", "num_energy_updates", "num_marginals", "num_microbatches")
        | weighed("score_weight", "information_weight")
        | AVERAGED,
    ),
    "wgan_gp": (
        spec_of(wgan_gp, energy=ENERGY, generator=GENERATOR),
        counted("latent_dim", "num_energy_updates", "num_microbatches")
        | weighed("penalty_weight")
        | AVERAGED,
    ),
    "deep_directed": (
        spec_of(deep_directed, energy=ENERGY, generator=GENERATOR),
        counted("latent_dim", "num_energy_updates", latent_bound=SIZES)
        | weighed("entropy_weight", "score_weight")
        | AVERAGED,
    ),
    "contrastive": (
        spec_of(contrastive, family=rbm.family(2, 3)),
        counted("num_chains", "num_sweeps", "num_sample_sweeps", temperature_std=SIZES)
        | {"temperature_momentum": AVERAGED["average_decay"]},
    ),
    "proposal": (
        spec_of(
            proposal,
            log_density_fn=normal,
            proposal=proposals.Vectors((2,), width=4, num_steps=1),
            start_fn=jax.random.normal,
        ),
        counted("num_transitions", "burn_in")
        | {
            "buffer_size": (pick(0, 9), NOT_WHOLE),
            "target_acceptance": (pick(0.9), st.one_of(pick(0, 1), NEGATIVE)),
            "entropy_weight": (pick(0.01), NEGATIVE),
        },
    ),
    "replay": (
        spec_of(replay, energy=smooth.Energy(4), sampler=LANGEVIN),
        counted("buffer_size", "num_transitions") | weighed("magnitude_weight"),
    ),
    "noise_contrastive": (
        spec_of(noise_contrastive, energy=ENERGY, noise=reference.gaussian(1.5)),
        counted("num_noise", "check_every", objective=(pick("noise_contrast"), NAMES))
        | {"num_importance": (pick(100), pick(99, 1.5, "x", None))}
        | AVERAGED,
    ),
}


@st.composite
def calls(draw):
    """(function, arguments, the names of those that cannot be)."""
    name = draw(st.sampled_from(sorted(FUNCTIONS)))
    parameters = FUNCTIONS[name][1]
    names = st.sampled_from(sorted(parameters))
    wrong = draw(st.sets(names, min_size=1, max_size=3))
    values = {k: draw(parameters[k][k in wrong]) for k in sorted(parameters)}
    return name, values, sorted(wrong)


def fault(name, values):
    """What is wrong with the answer to arguments that cannot be; None where nothing is."""
    try:
        FUNCTIONS[name][0](**values)
    except errors.MISTAKES as error:
        text = str(error)
        told = re.search(r"^log_density_fn fails \(", text)
        unclear = "\n" in text or len(text) > 800 or forks.UNCLEAR.search(text)
        return text if unclear and not (told and "\n" not in text) else None
    except Exception as error:  # noqa: BLE001
        # scikit-learn's contract has these TypeErrors, of sparse rows and of objects.
        known = re.search("dense data is required|float.. argument must be", str(error))
        told = known and isinstance(error, TypeError) and "\n" not in str(error)
        return None if told else f"{type(error).__name__}: {str(error)[:300]}"
    return "was accepted"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("num", [QUICK, pytest.param(CALLS, marks=pytest.mark.slow)])
def test_wrong_arguments_are_refused_in_one_line(num, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counts = collections.Counter()

    @hypothesis.settings(
        max_examples=num,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(calls())
    def one(call):
        name, values, wrong = call
        counts[name] += 1
        found = fault(name, values)
        shown = {k: values[k] for k in wrong}
        assert found is None, f"{name}({shown!r:.500}): {found}"

    one()
    print(f"{sum(counts.values())} calls of {len(counts)} functions, all refused well")


def test_every_public_function_is_called():
    called = {name.partition(".")[0] for name in FUNCTIONS}
    assert set(megjax._HOME) - called == CONTAINERS


NO_PATHS = ("", "~nobody_at_all/x", "/dev/null/x", "/proc/nowhere/x")
TOGETHER = {
    "--distributed": ("maybe",),
    "--coordinator": ("localhost", "localhost:0", ":1234"),
    "--num_processes": ("2", "0", "x"),
    "--process_id": ("-1", "1.5"),
    "--heartbeat_timeout": ("x", "1.5"),
    "--start_timeout": ("x", ""),
}
WRONG_FLAGS = {
    "train.py": {
        "--config.train.num_steps": ("0", "-1", "x", "1.5", "nan", ""),
        "--config.batch_size": ("0", "-3", "x", "1e3"),
        "--config.width": ("0", "-3", "x", "1e999"),
        "--config.train.seed": ("x", "1.5", "9" * 30),
        "--config.train.keep": ("0", "x"),
        "--config.meg.bound": ("nope", ""),
        "--config.meg.latent_dim": ("0", "x"),
        "--workdir": NO_PATHS,
        "--nope": ("3",),
    }
    | TOGETHER,
    "sample.py": {
        "--steps": ("-1", "x", "1.5", "9" * 30),
        "--num": ("0", "-3", "x"),
        "--burn_in": ("-1", "x"),
        "--thin": ("0", "101", "x"),
        "--step_size": ("0", "-1", "nan", "inf", "x"),
        "--inverse_temperature": ("-1", "nan", "x", "1e999"),
        "--kernel": ("nope", "", "MALA"),
        "--space": ("nope", ""),
        "--target": ("nope", "", "ratio"),
        "--prior": ("nope", ""),
        "--proposal": (*NO_PATHS, "{root}/nope"),
        "--num_integration_steps": ("0", "-1", "x", "3"),
        "--num_replicas": ("0", "1", "x", "3"),
        "--keep_draws": ("maybe", "2"),
        "--resample": ("0", "x"),
        "--seed": ("-1", "x"),
        "--config": ("nope", "/nowhere.py"),
        "--out": NO_PATHS,
        "--workdir": (*NO_PATHS, "{root}/nope"),
    }
    | TOGETHER,
    "evaluate.py": {
        "--only": ("nope", ",", ".."),
        "--set": ("nope=3", "width", "=", "width=x", "width=-1"),
        "--seed": ("x", "-1"),
        "--config": ("nope", "/nowhere.py"),
        "--out": NO_PATHS,
        "--workdir": (*NO_PATHS, "{root}/nope"),
    }
    | TOGETHER,
    "megjax/cli.py export": {
        "--config": ("nope", "/nowhere.py"),
        "--out": (*NO_PATHS, "{root}", "{root}/new/"),
        "--workdir": (*NO_PATHS, "{root}/nope"),
    },
    "megjax/cli.py report": {
        "--out": (*NO_PATHS, "{root}", "{root}/new/"),
        "--workdir": (*NO_PATHS, "{root}/nope"),
    },
    "megjax/cli.py prepare kdd99": {
        "--data_dir": NO_PATHS[1:],
        "--raw_dir": (*NO_PATHS[1:], "{root}/nope"),
    },
    "megjax/evaluation/classifier.py --data=mnist --data_dir={root}/nope": {
        "--data": ("nope", "../etc"),
        "--data_dir": NO_PATHS[1:],
        "--out": NO_PATHS,
        "--image_size": ("-1", "x"),
        "--num_epochs": ("0", "x"),
        "--width": ("0", "x"),
        "--seed": ("x",),
    },
}


@pytest.mark.slow
def test_wrong_flags_are_refused_in_one_line(scripts, home):
    rng, root = random.Random(0), home("toy")
    for _ in range(FLAGS):
        command = rng.choice(sorted(WRONG_FLAGS))
        table = WRONG_FLAGS[command]
        chosen = rng.sample(sorted(table), min(len(table), rng.choice((1, 1, 2, 3))))
        flags = [f"{name}={rng.choice(table[name])}" for name in chosen]
        before = {"train.py": [*TOY, "--workdir={root}/new"]}
        if "--workdir" in table:
            before.setdefault(command, ["--workdir={root}/run"])
        assert (
            scripts.refusal_fault(
                root, [*command.split(), *before.get(command, ()), *flags]
            )
            is None
        )
    print(f"{FLAGS} command lines refused")


def test_every_flag_is_given_wrong_values():
    """But --config of train.py, of which test_command_lines has a table."""
    given = {name for table in WRONG_FLAGS.values() for name in table}
    package = pathlib.Path(megjax.__file__).parent
    texts = [path.read_text() for path in sorted(package.rglob("*.py"))]
    defined = {
        f"--{name}"
        for text in texts
        for name in re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', text)
    }
    assert len(defined) > 25 and defined <= given
