"""A density of one's own with a mistake in it, and step sizes that were not tuned."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.learners import base
from megjax.metrics import mcmc
from megjax.samplers import bijectors, mala, rwm
from megjax.sampling import density, draw, methods, model, trace

pytestmark = pytest.mark.usefixtures("quick_compilation")


def normal(x):
    return -0.5 * jnp.sum(jnp.square(x))


def sample(log_density_fn, init=None, **settings):
    """(draws, what was warned of) of a few short chains."""
    init = jnp.ones((4, 2)) if init is None else init
    settings = {"kernel": "mala", "num_warmup": 30, "num_samples": 40} | settings
    key = settings.pop("key", jax.random.key(0))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        draws = density.sample(
            log_density_fn, init, key=key, progress=False, **settings
        )
    words = [str(one.message) for one in found if one.category is UserWarning]
    assert all("\n" not in line for line in words)
    return draws, " | ".join(words)


def decided(x):
    return normal(x) if x[0] > 0 else -jnp.inf


def beside_the_mistake(x):
    return helper(x)


def helper(x):
    return np.log(np.asarray(x)).sum()


@pytest.mark.parametrize("kernel", ["nuts", "mala", "rwm", "gradient_adaptive"])
@pytest.mark.parametrize(
    ("log_density_fn", "says"),
    [
        (helper, r"calls NumPy, SciPy or Python on traced values, line \d+ of .*wrong"),
        (beside_the_mistake, r"calls NumPy.*use jax.numpy and jax.scipy there"),
        (decided, "has a Python if, while, .*: use jnp.where"),
        (lambda x: -float(x[0]), "makes Python numbers of traced values"),
        (lambda x: jnp.sum(x[x > 0]), "picks elements by a condition"),
        (lambda x: jnp.nope(x), "AttributeError.*nope"),
        (lambda: 0.0, "TypeError.*argument"),
        (lambda x: "low", "returns a str for one position"),
        (lambda x: normal(x)[None], r"returns shape \(1,\) for one position"),
        (3, "log_density_fn is a int: give a function of a position"),
        (None, "log_density_fn is None: give a function"),
    ],
)
def test_mistakes_are_named_before_anything_is_compiled(kernel, log_density_fn, says):
    with pytest.raises(ValueError, match=says) as error:
        sample(log_density_fn, kernel=kernel)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ({"a": jnp.ones((4, 2), complex)}, "init a has type complex64: give floats"),
        ({"a": np.ones((4, 2), np.int64)}, "init a has type int"),
        ({"a": jnp.ones((4, 2), bool)}, "init a has type bool"),
        ({"a": "low"}, "init a has type|init holds what is no array"),
        ({"a": [[1.0, 2.0], [3.0]]}, r"init a.0.0 has shape \(\): its first axis"),
        ({"a": object()}, "init holds what is no array|init a has type"),
        (3.0, r"init x has shape \(\): its first axis must be of chains"),
        ({"a": jnp.ones((0, 2))}, r"init a has shape \(0, 2\)"),
    ],
)
def test_starts_that_are_no_arrays_of_floats(init, says):
    with pytest.raises(ValueError, match=says):
        sample(normal, init)


@pytest.mark.parametrize(
    "key", [0, 1.5, "seed", None, jnp.ones(2), jax.random.split(jax.random.key(0))]
)
def test_keys_that_are_none(key):
    with pytest.raises(ValueError, match=r"key=.*: give jax.random.key\(seed\)"):
        sample(normal, key=key)


@pytest.mark.parametrize(
    ("log_density_fn", "says"),
    [
        (lambda x: jnp.log(x[0] - 2), "but NaN: look for log and sqrt"),
        (
            lambda x: jnp.where(x[0] > 2, normal(x), -jnp.inf),
            "but -inf, where the density is 0: start where .* give a bijector",
        ),
        (lambda x: jnp.inf * x[0], "but infinite: it must be finite wherever"),
        (lambda x: normal(x) + jnp.float32(np.nan), "but NaN: .*NaN in data"),
    ],
)
def test_densities_that_are_not_finite_at_the_start(log_density_fn, says):
    with pytest.raises(ValueError, match=f"not finite at the start of .*{says}"):
        sample(log_density_fn)


def rooted(x):
    return -jnp.sum(jnp.sqrt(jnp.abs(x - 1)))


def branched(x):
    return jnp.where(x[0] > 1, jnp.sqrt(x[0] - 1), 0.0) + normal(x)


@pytest.mark.parametrize("log_density_fn", [rooted, branched])
@pytest.mark.parametrize(
    "kernel",
    [
        "mala",
        "gradient_adaptive",
        functools.partial(mala.mala, step_size=0.1),
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("nuts", "hmc", "mclmc")),
    ],
)
def test_gradients_that_are_not_finite_at_the_start(kernel, log_density_fn):
    says = "gradient of log_density_fn is not finite at the start of 4 of 4 chains"
    with pytest.raises(ValueError, match=f"{says}: start elsewhere, and keep sqrt"):
        sample(log_density_fn, kernel=kernel, num_warmup=100)


def test_a_walk_needs_no_gradient():
    assert sample(rooted, kernel="rwm")[0].posterior["x"].shape == (4, 40, 2)


def cut_off(position):
    rate = position["rate"]
    return jnp.where(rate > 0, -rate, -jnp.inf) + normal(position["free"])


def log_of_all(position):
    return jnp.log(position["rate"]) - position["rate"] + normal(position["free"])


STARTS = {"free": jnp.ones((4, 2)), "rate": jnp.ones(4)}


@pytest.mark.parametrize(
    "kernel", ["rwm", pytest.param("mala", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("log_density_fn", "says"),
    [
        (cut_off, "the density is 0 or infinite at some values of rate: give a bij"),
        (log_of_all, "log_density_fn is NaN at some values of rate: look for log"),
    ],
)
def test_bounds_are_told_with_the_variable_that_has_them(kernel, log_density_fn, says):
    _, words = sample(log_density_fn, STARTS, kernel=kernel, num_samples=200)
    assert "transitions diverged, or left the support" in words and says in words
    assert "target_acceptance" not in words


def test_with_a_bijector_there_is_nothing_to_tell():
    positive = {"rate": bijectors.positive()}
    draws, words = sample(cut_off, STARTS, bijector=positive)
    assert "support" not in words and float(draws.posterior["rate"].min()) > 0


@pytest.mark.parametrize(
    ("log_density_fn", "kernel", "says"),
    [
        (
            lambda x: 0.0,
            "rwm",
            "tuning of the step size failed, at (.*e.*|nan): steps of any",
        ),
        (
            lambda x: 0.0 * x[0],
            "mala",
            "tuning of the step size failed, at .*any length",
        ),
        (
            lambda x: jnp.where(jnp.all(x == 0), normal(x), -jnp.inf),
            "rwm",
            "tuning of the step size failed, at .*e-.*: no step was short enough",
        ),
        (lambda x: 1e12 * normal(x), "rwm", "mean acceptance is 0.0.* was tuned for"),
    ],
)
def test_a_step_size_that_was_not_tuned_is_told(log_density_fn, kernel, says):
    warmup = 3 if "mean" in says else 400
    init = jnp.zeros((4, 2)) if "short" in says else None
    _, words = sample(log_density_fn, init, kernel=kernel, num_warmup=warmup)
    with pytest.raises(ValueError, match=says):
        raise ValueError(words)


def test_a_step_size_that_was_tuned_is_not_told_of():
    _, words = sample(normal, num_warmup=150, num_samples=100)
    assert "step size" not in words


def flat(params):
    return mala.mala(lambda x: jnp.float32(0), step_size=params["step_size"])


def observe(params, state):
    del params
    return {"x": state.position}


def test_the_tuner_of_trained_models_tells_that_it_failed(caplog):
    chain = draw.of_kernel(flat, observe)
    params = {"step_size": 1.0}
    states = draw.start(chain, params, jnp.ones((4, 2)))
    _, found = draw.tuned(
        *(jax.random.key(0), chain, params, states),
        num_steps=400,
        target_acceptance=0.5,
    )
    assert found > 1e20 and "tuning of the step size failed" in caplog.text
    caplog.clear()
    _, found = draw.tuned(
        *(jax.random.key(0), chain, params, states),
        num_steps=400,
        target_acceptance=0.5,
        limit=1.0,
    )
    assert found == 1.0 and not caplog.text


def walked(**settings):
    """A trace of chains on latents whose energy is a wall around every start."""
    learner = base.Learner(
        init=None,
        step=None,
        sample=lambda key, state, num: jax.random.normal(key, (num, 3)),
        energy=lambda state, x: jnp.where(x[:, 0] == 0, 0.0, 1e9) * state,
        latents=lambda key, num: jnp.zeros((num, 2)),
        generate=lambda state, z: z @ jnp.ones((2, 3)),
    )
    key, state = jax.random.key(0), jnp.float32(1)
    return model.sample(key, learner, state, num=4, steps=5, **settings)


def test_the_report_of_chains_tells_of_a_step_size_that_was_not_tuned():
    found = walked(kernel_fn=rwm.rwm, target_acceptance=0.234)
    (line,) = [line for line in trace.warnings(found) if "tuned for" in line]
    assert "acceptance is 0.0" in line and "far below the 0.234" in line
    given = walked(kernel_fn=rwm.rwm, step_size=0.5)
    assert not [line for line in trace.warnings(given) if "tuned for" in line]


def test_every_method_that_tunes_names_its_target():
    tuned = {k for k, method in methods.METHODS.items() if method.target_acceptance}
    assert tuned == {"nuts", "hmc", "mala", "rwm"}


def group(*shape):
    return {"x": np.zeros(shape)}


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (
            {"posterior": group(4, 9), "sample_stats": group(3, 9)},
            r"\[3, 9\], and .* \[4",
        ),
        ({"posterior": group(4, 9), "sample_stats": group(4, 8)}, r"\[4, 8\], and"),
        (
            {"posterior": group(4, 9, 2), "prior": group(1, 9)},
            r"prior/x has .*\[1, 9\]",
        ),
        ({"posterior": group(4)}, r"posterior/x has \[chains, draws\] \[4\]"),
        ({"posterior": group(4, 9) | {"y": np.zeros((9, 4))}}, r"posterior/y has"),
    ],
)
def test_draws_of_another_number_of_chains_are_not_exported(groups, says):
    with pytest.raises(ValueError, match=says):
        mcmc.inference_data(groups)
