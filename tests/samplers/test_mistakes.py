"""What kernels say to densities and positions that are none, and under 64 bits.

Programs are traced, not compiled: that is where mistakes are found.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.energies import rbm
from megjax.networks import proposal as networks
from megjax.samplers import (
    adaptation,
    bijectors,
    from_blackjax,
    gibbs,
    gradient_adaptive,
    hmc,
    kernel,
    latent,
    mala,
    neural,
    rwm,
    window_adaptation,
)


def normal(x):
    return -0.5 * jnp.sum(jnp.square(x))


def untrained(log_density_fn, *, step_size):
    """A learned proposal that has learned nothing."""
    del step_size
    module = networks.Vectors(shape=(2,), width=4, num_steps=1, gradient="position")
    variables = module.init(jax.random.key(0), jnp.zeros(2))
    return neural.neural(log_density_fn, neural.flow(module, variables))


def mclmc(log_density_fn, *, step_size):
    given = from_blackjax.MclmcParameters(jnp.ones(()), step_size, jnp.ones(2))
    made = from_blackjax.mclmc(log_density_fn, given)
    return made._replace(init=lambda x: made.init(x, jax.random.key(0)))


def bounded(log_density_fn, *, step_size):
    make = functools.partial(mala.mala, step_size=step_size)
    return bijectors.transformed(make, log_density_fn, bijectors.interval(-9.0, 9.0))


BUILDERS = {
    "mala": mala.mala,
    "hmc": hmc.hmc,
    "rwm": rwm.rwm,
    "nuts": from_blackjax.nuts,
    "mclmc": mclmc,
    "untrained": untrained,
    "bounded": bounded,
}
RETURNS = {
    "[1]": (lambda x: -jnp.sum(x**2, keepdims=True), r"shape \(1,\) .*a scalar"),
    "[1, 1]": (lambda x: -jnp.sum(x**2)[None, None], r"shape \(1, 1\) .*a scalar"),
    "[B]": (lambda x: -(x**2), r"shape \(2,\) for one position, must be a scalar"),
    "[0]": (lambda x: x[:0], r"shape \(0,\) for one position"),
    "a pair": (lambda x: (normal(x), x), "a tuple .*has_aux=True for pairs"),
    "a list": (lambda x: [normal(x)], "a list for one position"),
    "a dict": (lambda x: {"lp": normal(x)}, "a dict for one position"),
    "text": (lambda x: "low", "a str for one position"),
    "nothing": (lambda x: None, "returns None for one position"),
    "a whole number": (lambda x: jnp.int32(3), "returns int32: must be a float"),
    "a truth value": (lambda x: x[0] > 0, "returns bool: must be a float"),
    "a complex number": (
        lambda x: normal(x) + 0j,
        r"returns complex\d+: must be a float",
    ),
}


# Bounds add their log-determinant, which Python refuses for what is no number.
@pytest.mark.parametrize("returned", RETURNS)
@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "bounded"])
def test_densities_that_return_no_scalar_float(name, returned):
    log_density_fn, says = RETURNS[returned]
    made = BUILDERS[name](log_density_fn, step_size=0.1)
    with pytest.raises(ValueError, match=says) as error:
        jax.eval_shape(made.init, jnp.ones(2))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("returned", ["[1]", "[B]", "a complex number"])
def test_densities_with_bounds_that_return_no_scalar_float(returned):
    log_density_fn, says = RETURNS[returned]
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(bounded(log_density_fn, step_size=0.1).init, jnp.ones(2))


@pytest.mark.parametrize("make", [mala.mala, hmc.hmc, rwm.rwm])
@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda x: normal(x), r"returns a \w+ with has_aux=True: let it return"),
        (lambda x: (normal(x), x, x), "returns a tuple with has_aux=True"),
        (lambda x: [normal(x), x], "returns a list with has_aux=True"),
        (lambda x: (x, normal(x)), r"returns shape \(2,\) for one position"),
    ],
)
def test_densities_that_return_no_pair_where_they_should(make, returned, says):
    made = make(returned, step_size=0.1, has_aux=True)
    with pytest.raises(ValueError, match=says):
        jax.eval_shape(made.init, jnp.ones(2))


POSITIONS = {
    "whole numbers": (jnp.arange(2), r"position has type int\d+: give floats"),
    "bytes": (jnp.ones(2, jnp.uint8), "position has type uint8"),
    "NumPy's whole numbers": (np.arange(2), "position has type int"),
    "truth values": (jnp.ones(2, bool), "position has type bool"),
    "complex numbers": (jnp.ones(2, jnp.complex64), "position has type complex64"),
    "a list": ([1.0, 2.0], "position is a list: give one array of floats"),
    "a dict": ({"a": jnp.ones(2)}, "position is a dict: .*sample takes PyTrees"),
    "text": ("low", "position is a str"),
    "nothing": (None, "position is None: give"),
    "a whole number": (3, "position is a int"),
    "keys": (jax.random.split(jax.random.key(0)), "position has type key"),
}


@pytest.mark.parametrize("given", POSITIONS)
@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "bounded"])
def test_positions_that_are_no_floats(name, given):
    position, says = POSITIONS[given]
    made = BUILDERS[name](normal, step_size=0.1)
    with pytest.raises(ValueError, match=says) as error:
        made.init(position)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("units", [jnp.ones(4, int), jnp.ones(4, jnp.complex64)])
def test_units_that_are_no_floats(units):
    family = rbm.family(4, 3)
    swept = gibbs.gibbs(family, family.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="position has type"):
        swept.init((units, jnp.ones(3)))


@pytest.mark.parametrize("make", [mala.mala, hmc.hmc, rwm.rwm, from_blackjax.nuts])
@pytest.mark.parametrize("position", [np.ones(2), 1.0, np.float64(1), np.float32([1])])
def test_positions_of_numpy_and_python_are_taken(make, position):
    made = make(normal, step_size=0.1)
    state = made.init(position)
    assert isinstance(state.position, jax.Array)
    # blackjax's transitions are in JAX's own floats at least.
    own = jnp.asarray(position).dtype, jnp.result_type(float)
    assert state.position.dtype in own
    moved, _ = jax.eval_shape(made.step, jax.random.key(0), state)
    assert moved.position.shape == np.shape(position)


@pytest.mark.parametrize("make", [mala.mala, hmc.hmc, rwm.rwm, from_blackjax.nuts])
@pytest.mark.parametrize("step_size", [0, -1.0, np.nan, np.inf, np.ones(2)])
def test_step_sizes_that_cannot_be(make, step_size):
    with pytest.raises(ValueError, match="step_size=.*: give a finite number above 0"):
        make(normal, step_size=step_size)


def test_a_ratio_of_many_chains_is_refused():
    x = jnp.zeros((3, 2))
    with pytest.raises(
        ValueError, match=r"log_ratio has shape \(3,\): give that of one"
    ):
        kernel.metropolis(jax.random.key(0), jnp.zeros(3), x, x)


def choose(x):
    return normal(x) if x[0] > 0 else -jnp.inf


MISTAKES = {
    "NumPy": (lambda x: np.log(np.asarray(x)).sum(), "calls NumPy, SciPy or Python on"),
    "float": (lambda x: -float(x[0]), r"makes Python numbers of .*\(float, int or"),
    "item": (lambda x: x[0].item(), "makes Python numbers of traced values"),
    "int": (lambda x: x[int(x[0])], "makes Python numbers of traced values"),
    "if": (choose, "Python if, while, .* line .*test_mistakes.py: use jnp.where"),
    "max": (lambda x: max(x[0], x[1]), "min or max on traced values"),
    "and": (lambda x: x[0] and x[1], "Python if, while, and"),
    "assert": (lambda x: [normal(x) for _ in [0] if x[0] > 0], "Python if, while"),
    "where": (lambda x: jnp.sum(x[x > 0]), "picks elements by a condition"),
    "a name": (
        lambda x: nothing_of_this_name(x),  # noqa: F821
        "NameError.*nothing_of_this_name.*line",
    ),
    "an attribute": (lambda x: jnp.nope(x), "AttributeError.*nope"),
    "a key": (lambda x: x["a"], "TypeError.*'a'"),
    "shapes": (lambda x: jnp.ones(3) @ x, r"TypeError.*\(3,\) and \(2,\)"),
    "arguments": (lambda x, y: normal(x), "TypeError.*argument: 'y'"),
    "division": (lambda x: 1 / 0, "ZeroDivisionError"),
    "words of its own": (lambda x: _raise(ValueError("x is too short")), "too short"),
}


def _raise(error):
    raise error


@pytest.mark.parametrize("make", [mala.mala, from_blackjax.nuts, rwm.rwm])
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_a_density_are_named(make, name):
    log_density_fn, says = MISTAKES[name]
    with pytest.raises(ValueError, match=says) as error:
        jax.eval_shape(make(log_density_fn, step_size=0.1).init, jnp.ones(2))
    text = str(error.value)
    assert "\n" not in text and "Traced" not in text and len(text) < 600


def test_a_density_of_latents_with_an_axis_too_many_is_named():
    log_pi = latent.log_density(lambda z: jnp.sum(z**2, axis=1, keepdims=True))
    made = mala.mala(log_pi, step_size=0.1, has_aux=True)
    with pytest.raises(ValueError, match=r"returns shape \(1,\) for one position"):
        jax.eval_shape(made.init, jnp.ones(2))


def test_a_density_that_runs_out_of_memory_is_not_called_wrong():
    made = rwm.rwm(lambda x: _raise(MemoryError("40 GiB")), step_size=0.1)
    with pytest.raises(MemoryError):
        made.init(jnp.ones(2))


def test_checks_leave_the_program_as_it_was():
    """Not an operation more than the density and its gradient have."""

    def bare(position):
        value, gradient = jax.value_and_grad(normal)(position)
        return mala.State(position, value, gradient)

    made = mala.mala(normal, step_size=0.1)
    found, expected = (
        str(jax.make_jaxpr(init)(jnp.ones(2))) for init in (made.init, bare)
    )
    assert found == expected


DTYPES = [jnp.float32, jnp.float64]


def forms(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", ["mala", "hmc", "rwm", "nuts", "mclmc", "bounded"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_chains_keep_their_type_in_64_bits(name, dtype, float64):
    made = BUILDERS[name](normal, step_size=0.1)
    state = jax.eval_shape(made.init, jnp.ones(2, dtype))

    def run(state):
        return kernel.chain(jax.random.key(0), made, state, 4)[0]

    assert forms(jax.eval_shape(run, state)) == forms(state)
    wide = name in ("nuts", "mclmc")
    assert state.position.dtype == (jnp.float64 if wide else dtype)


@pytest.mark.parametrize("name", ["mala", "hmc", "rwm", "nuts"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_step_sizes_are_tuned_in_64_bits(name, dtype, float64):
    def run(x):
        keys = jax.random.split(jax.random.key(0), len(x))

        def kernel_fn(step_size):
            return BUILDERS[name](normal, step_size=step_size)

        states = jax.vmap(kernel_fn(0.1).init)(x)
        start = adaptation.tuner(0.1)
        return adaptation.warm_up(
            keys, kernel_fn, states, start, 5, target_acceptance=0.5
        )

    _, tuner = jax.eval_shape(run, jnp.ones((3, 2), dtype))
    assert forms(tuner) == [jnp.float32] * 4 + [jnp.int32]


@pytest.mark.parametrize("name", ["mala", "hmc", "rwm", "nuts"])
@pytest.mark.parametrize("dense", [False, True])
def test_windows_adapt_in_64_bits(name, dense, float64):
    make, windows = BUILDERS[name], window_adaptation.schedule(30)

    def run(x):
        begun = window_adaptation.begin(normal, make, x, dense=dense)
        steps = jnp.int32(0), jnp.int32(30)
        return window_adaptation.advance(
            jax.random.key(0), normal, make, *begun, steps, windows, jnp.float32(0.5)
        )

    states, _ = jax.eval_shape(run, jnp.ones((3, 2)))
    assert states.position.dtype == jnp.float64


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_preconditioners_are_learned_in_64_bits(dense, dtype, float64):
    def run(x):
        states = jax.vmap(mala.mala(normal, step_size=1.0).init)(x)
        start = gradient_adaptive.adaptation(2, dense=dense)
        keys = jax.random.split(jax.random.key(0), len(x))
        return gradient_adaptive.warm_up(keys, normal, states, start, 5)

    states, _ = jax.eval_shape(run, jnp.ones((3, 2), dtype))
    assert states.position.dtype == dtype


def test_64_bits_tune_to_the_step_size_of_32():
    found = []
    for bits in (False, True):
        with jax.enable_x64(bits):
            tuner = adaptation.tuner(0.1)
            for acceptance in np.linspace(0.2, 0.9, 9):
                tuner = adaptation.updated(tuner, acceptance, target_acceptance=0.6)
            found.append(float(adaptation.step_size(tuner)))
    np.testing.assert_allclose(*found, rtol=1e-6)


@pytest.mark.parametrize(
    ("step_size", "acceptance", "says"),
    [
        (5e-38, 0.0, "failed, at 5e-38: no step was short enough"),
        (0.0, 0.0, "failed, at 0: no step was short enough .* bijector"),
        (np.nan, 0.0, "failed, at nan: steps of any length were accepted"),
        (1.2e37, 1.0, "failed, at 1.2e.37: steps of any length were accepted"),
        (np.inf, 1.0, "failed, at inf: .*cannot be normalised"),
        (
            0.1,
            0.05,
            r"mean acceptance is 0.050 with the step size 0.1 .* for 0.6: raise",
        ),
        (0.1, 0.99, r"mean acceptance is 0.990 .*so that the step size can grow"),
        (0.1, 0.45, None),
        (0.1, 0.8, None),
        (1e-6, 0.6, None),
        (0.1, np.nan, None),
    ],
)
def test_what_tuning_says_of_itself(step_size, acceptance, says):
    found = adaptation.failure(step_size, acceptance, 0.6)
    if says is None:
        assert found is None
    else:
        with pytest.raises(ValueError, match=says):
            raise ValueError(found)
