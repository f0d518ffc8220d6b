"""The learner of proposals against finite differences of its objective, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

from megjax.densities import targets
from megjax.learners import proposal
from megjax.networks import proposal as networks
from megjax.samplers import neural
from megjax.training import experiment

pytestmark = pytest.mark.usefixtures("quick_compilation")

RATE = 0.5
BETA = 0.3
BATCH = 6
MOON = targets.moon()


def normal(key, num):
    return jax.random.normal(key, (num, 2))


def specification(gradient="displaced", **fields):
    module = networks.Vectors(
        shape=(2,), width=4, num_steps=1, gradient=gradient, initial_log_scale=-0.7
    )
    fields = {"entropy_weight": BETA, "optimizer": optax.sgd(RATE)} | fields
    return proposal.Spec(MOON.log_density, module, normal, **fields)


def fresh_state(spec):
    init = jax.jit(functools.partial(proposal.init, spec))
    return init(jax.random.key(0), jnp.zeros((BATCH, 2)))


def noisy_state(spec, scale=0.3):
    """A state whose last layers are not zero."""
    state = fresh_state(spec)
    flat, unravel = ravel_pytree(state.proposal.params)
    noise = scale * jax.random.normal(jax.random.key(1), flat.shape)
    player = state.proposal.replace(params=unravel(flat + noise))
    return state.replace(proposal=player)


def objective(spec, state, x, noise, entropy_sign, flat):
    """Eq. 5 with proposal densities from Jacobians; flat: all parameters [P]."""
    _, unravel = ravel_pytree(state.proposal.params)
    flow = neural.flow(
        spec.proposal, {"params": unravel(flat), **state.proposal.variables}
    )

    def proposed(x, noise):
        def slope(n, kept):
            return -jax.grad(MOON.log_density)(x + flow.displacement(n, x, kept))

        z, _ = neural.forward(flow, x, noise, slope)
        return x + jnp.exp(flow.log_scale) * z

    def log_q(x, noise):
        jacobian = jax.jacfwd(lambda noise: proposed(x, noise))(noise)
        log_det = jnp.linalg.slogdet(jacobian)[1]
        return -0.5 * jnp.sum(noise**2) - log_det, log_det

    def one(x, noise):
        y = proposed(x, noise)

        def slope(n, kept):
            return -jax.grad(MOON.log_density)(y + flow.displacement(n, y, kept))

        z = (x - y) / jnp.exp(flow.log_scale)
        back, _ = neural.inverse(flow, y, z, slope)
        log_forward, log_det = log_q(x, noise)
        change = MOON.log_density(y) - MOON.log_density(x)
        log_ratio = change + log_q(y, back)[0] - log_forward
        return jnp.minimum(log_ratio, 0) + entropy_sign * BETA * log_det

    return jnp.mean(jax.vmap(one)(x, noise))


def test_an_sgd_step_ascends_the_objective_by_finite_differences():
    with jax.enable_x64(True):
        spec = specification()
        # Networks start in float32 everywhere, too coarse for differences.
        state = jax.tree.map(lambda v: v.astype(float), noisy_state(spec))
        x = 0.3 * normal(jax.random.key(2), BATCH) + jnp.array([1.0, -3.0])
        key = jax.random.key(3)
        after, _ = jax.jit(functools.partial(proposal.step, spec))(key, state, x[None])
        noise = jax.random.normal(jax.random.split(key, 3)[1], x.shape)
        before, _ = ravel_pytree(state.proposal.params)
        moved, _ = ravel_pytree(after.proposal.params)
        directions = jax.random.normal(jax.random.key(4), (8, len(before)))
        offsets = jnp.concatenate([1e-5 * directions, -1e-5 * directions])

        def slopes(entropy_sign):
            function = functools.partial(objective, spec, state, x, noise, entropy_sign)
            up, down = jax.jit(jax.vmap(function))(before + offsets).reshape(2, -1)
            return np.asarray(up - down) / 2e-5

        found = np.asarray(directions @ (moved - before)) / RATE
        right, wrong = slopes(1.0), slopes(-1.0)
    np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-8)
    # The sign that the paper prints before beta.
    assert np.max(np.abs(found - wrong)) > 0.1


def test_epsilon_is_trained_by_its_own_log_determinant():
    """Where all proposals are accepted the slope in log scale is beta d."""
    spec = specification()._replace(log_density_fn=lambda x: 0.0 * jnp.sum(x))
    state = fresh_state(spec)
    x = normal(jax.random.key(1), BATCH)
    loss = jax.jit(lambda params: proposal.loss(spec, state, x, x, params)[0])
    gradient = jax.jit(jax.grad(loss))(state.proposal.params)
    np.testing.assert_allclose(gradient["log_scale"], -2 * BETA, rtol=1e-5)


def test_relative_entropy_is_largest_for_draws_of_the_target():
    """x' = (1 - e^2) x + e z on N(0, I): at e = 1 a draw, whatever x."""
    spec = specification()._replace(log_density_fn=lambda x: -0.5 * jnp.sum(x**2))
    state = fresh_state(spec)
    params = state.proposal.params
    bias = jnp.zeros((3, 2)).at[1].set(jnp.log(2.0)).ravel()
    params["coefficient_net"]["outputs_0"]["bias"] = bias
    x, noise = normal(jax.random.key(1), 20_000), normal(jax.random.key(2), 20_000)
    heavy = state.replace(entropy_weight=jnp.float32(1e4))

    @functools.partial(jax.jit, static_argnums=(0, 1))
    @functools.partial(jax.value_and_grad, argnums=2)
    def entropy(relative, path_gradient, log_scale):
        fields = {"relative_entropy": relative, "path_gradient": path_gradient}
        moved = params | {"log_scale": log_scale}
        value, _ = proposal.loss(spec._replace(**fields), heavy, x, noise, moved)
        return -value / 1e4

    for log_scale in (-0.2, 0.0, 0.2):
        squared = np.exp(2 * log_scale)
        # Of -KL, two dimensions: with variance e^2 and mean (1 - e^2) x.
        exact = -2 * (squared - 1 - 2 * squared * (1 - squared))
        value, slope = entropy(True, False, log_scale)
        path_value, path_slope = entropy(True, True, log_scale)
        np.testing.assert_allclose([slope, path_slope], exact, atol=0.06)
        np.testing.assert_allclose(path_value, value, rtol=1e-4)
        _, plain = entropy(False, False, log_scale)
        np.testing.assert_allclose(plain, 2, atol=0.01)
        if log_scale == 0:
            # Of draws of the target the slope along the path is 0 one by one.
            assert abs(path_slope) < 1e-5
            assert abs(slope) > 1e-3


@pytest.mark.slow
def test_the_path_gradient_has_the_same_mean():
    """Of parameters that do not make the target, over many draws of the noise."""
    spec = specification(relative_entropy=True)
    state = noisy_state(spec).replace(entropy_weight=jnp.float32(1e4))
    x = jnp.tile(jnp.array([0.5, -3.0]), (4000, 1))
    noise = normal(jax.random.key(5), len(x))
    flat, unravel = ravel_pytree(state.proposal.params)
    ways = jax.random.normal(jax.random.key(6), (4, len(flat))) / np.sqrt(len(flat))

    @functools.partial(jax.jit, static_argnums=0)
    def slopes(path_gradient):
        chosen = spec._replace(path_gradient=path_gradient)

        def loss(flat, x, noise):
            params = unravel(flat)
            return proposal.loss(chosen, state, x[None], noise[None], params)[0]

        def one(pair):
            return ways @ jax.grad(loss)(flat, *pair) / 1e4

        return jax.lax.map(one, (x, noise), batch_size=500)

    usual, path = (np.asarray(slopes(value)) for value in (False, True))
    difference = usual - path
    error = np.std(difference, axis=0) / np.sqrt(len(x))
    scores = np.mean(difference, axis=0) / error
    assert np.all(error > 0) and np.all(np.abs(scores) < 4), scores
    assert np.max(np.abs(np.mean(usual, axis=0)) / error) > 20


@jax.custom_jvp
def slope(x):
    """Of N(0, I), and without a derivative."""
    return -x


@slope.defjvp
def _(primals, tangents):
    return slope(*primals), jnp.nan * tangents[0]


@jax.custom_jvp
def without_curvature(x):
    return -0.5 * jnp.sum(x**2)


@without_curvature.defjvp
def _(primals, tangents):
    return without_curvature(*primals), jnp.sum(slope(*primals) * tangents[0])


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("stop", [False, True])
def test_second_derivatives_reach_the_displacement_unless_stopped(stop, relative):
    spec = specification(stop_gradient=stop, relative_entropy=relative)
    spec = spec._replace(log_density_fn=without_curvature)
    state = noisy_state(spec)
    x = normal(jax.random.key(1), BATCH)
    loss = jax.jit(lambda params: proposal.loss(spec, state, x, x, params)[0])
    gradient = jax.jit(jax.grad(loss))(state.proposal.params)
    size = optax.tree.norm(gradient["displacement_net"])
    assert size == 0 if stop else np.isnan(size)
    assert np.isfinite(optax.tree.norm(gradient["coefficient_net"])) == stop


def test_entropy_weight_by_hand():
    spec = specification(entropy_weight_floor=0.01, entropy_weight_ceiling=2.0)
    next_weight = functools.partial(proposal.next_weight, spec)
    np.testing.assert_allclose(next_weight(0.5, 1.0), 0.5 * 1.01)
    np.testing.assert_allclose(next_weight(0.5, 0.4), 0.5 * 0.95)
    np.testing.assert_allclose(next_weight(0.01, 0.0), 0.01)
    np.testing.assert_allclose(next_weight(2.0, 1.0), 2.0)
    # The floor is not where it starts: beta can fall.
    default = proposal.Spec(None, None, None)
    assert default.entropy_weight_floor < default.entropy_weight


def test_the_weight_follows_the_acceptance_of_the_batch():
    spec = specification()
    state = noisy_state(spec)
    x = normal(jax.random.key(1), BATCH)
    after, found = jax.jit(functools.partial(proposal.step, spec))(
        jax.random.key(2), state, x[None]
    )
    expected = BETA * (1 + 0.1 * (found["acceptance"] - 0.9))
    np.testing.assert_allclose(after.entropy_weight, expected, rtol=1e-6)
    assert 0 < found["acceptance"] < 1 and found["entropy_weight"] == BETA


def test_a_buffer_burns_in_and_moves_the_rows_of_a_batch():
    spec = specification(buffer_size=200, burn_in=300)
    x = jnp.zeros((50, 2))
    init = jax.jit(functools.partial(proposal.init, spec))
    state = init(jax.random.key(0), x)
    # x0 ~ N(0, 1) and x1 | x0 ~ N(x0^2 - 4, 1): from N(0, I) x1 has to travel.
    mean = np.mean(state.positions, axis=0)
    np.testing.assert_allclose(mean, [0, -3], atol=0.6)
    epsilon = np.exp(state.proposal.params["log_scale"])
    assert 0.3 < epsilon < 2
    after, found = jax.jit(functools.partial(proposal.step, spec))(
        jax.random.key(1), state, x[None]
    )
    moved = np.any(after.positions != state.positions, axis=1)
    assert 0 < moved.sum() <= 50
    assert abs(moved.sum() - 50 * found["acceptance"]) < 4 * np.sqrt(50 * 0.25)
    assert np.all(np.isfinite(after.positions))
    # Chains then start in the buffer.
    starts = proposal.positions(spec, jax.random.key(2), after, 30)
    assert np.isin(starts[:, 0], after.positions[:, 0]).all()


def test_draws_of_the_target_burn_in_for_the_step_size_alone():
    """All chains stay where they are, and few densities are evaluated."""
    covariance = np.array([[1.0, 9.5], [9.5, 100.0]])
    draws = np.random.default_rng(0).multivariate_normal([3, -20], covariance, 400)
    target, evaluations = targets.gaussian("", covariance), []

    def log_density(x):
        jax.debug.callback(evaluations.append, x)
        return target.log_density(x - jnp.array([3.0, -20.0]))

    spec = specification(buffer_size=400, burn_in=50)
    spec = spec._replace(log_density_fn=log_density)
    state = proposal.begun(spec, jax.random.key(0), jnp.float32(draws))
    jax.effects_barrier()
    np.testing.assert_array_equal(state.positions, np.float32(draws))
    assert len(evaluations) <= 51 * proposal.NUM_TUNED
    factor = state.proposal.variables["preconditioner"]["factor"]
    np.testing.assert_allclose(factor @ factor.T, np.cov(draws.T), rtol=1e-3)
    # MALA of a standard normal in two dimensions accepts .574 at about two deviations.
    assert 0.7 < np.exp(state.proposal.params["log_scale"]) < 3


@pytest.mark.slow
def test_warmup_windows_precondition_a_proposal_by_the_chains():
    """A target of correlation 0.98 and deviations 0.1 and 10, far from its starts."""
    covariance = np.array([[0.01, 0.98], [0.98, 100.0]])
    target = targets.gaussian("", covariance)
    mean = jnp.array([3.0, -20.0])
    spec = specification(buffer_size=500, burn_in=150, warmup_windows=4)._replace(
        log_density_fn=lambda x: target.log_density(x - mean)
    )
    state = jax.jit(functools.partial(proposal.init, spec))(
        jax.random.key(0), jnp.zeros((50, 2))
    )
    frame = state.proposal.variables["preconditioner"]
    deviations = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(frame["mean"] - mean) < 0.3 * deviations)
    found = frame["factor"] @ frame["factor"].T / np.outer(deviations, deviations)
    np.testing.assert_allclose(found, [[1, 0.98], [0.98, 1]], atol=0.25)
    # Preconditioned MALA takes steps of about one deviation.
    assert 0.7 < np.exp(state.proposal.params["log_scale"]) < 2
    step = jax.jit(functools.partial(proposal.step, spec))
    after, measured = step(jax.random.key(1), state, jnp.zeros((1, 50, 2)))
    assert measured["acceptance"] > 0.3
    np.testing.assert_array_equal(
        after.proposal.variables["preconditioner"]["factor"], frame["factor"]
    )
    entropy = proposal.noise_entropy(2) + 0.5 * np.linalg.slogdet(covariance)[1]
    log_scale = 2 * state.proposal.params["log_scale"]
    np.testing.assert_allclose(measured["entropy"], entropy + log_scale, atol=0.6)


def test_proposals_that_leave_the_floats_stop_nothing():
    spec = specification(optimizer=proposal.amsgrad(0.1))
    spec = spec._replace(log_density_fn=lambda x: jnp.log(x[0]) - jnp.sum(x**2))
    state = fresh_state(spec)
    x = jnp.ones((1, 400, 2))
    after, found = jax.jit(functools.partial(proposal.step, spec))(
        jax.random.key(1), state, x
    )
    assert 0 < found["non_finite"] < 1
    assert all(np.isfinite(v) for v in found.values())
    assert all(np.all(np.isfinite(p)) for p in jax.tree.leaves(after.proposal.params))


@pytest.mark.slow
def test_training_raises_entropy_and_keeps_the_target():
    """Exact draws, 300 steps; the trained chain then samples the crescent."""
    spec = specification(
        optimizer=proposal.amsgrad(3e-3),
        target_acceptance=0.8,
        entropy_weight=0.1,
    )
    learner = proposal.proposal(spec)
    state = learner.init(jax.random.key(0), jnp.zeros((64, 2)))

    def one(state, key):
        return learner.step(key, state, MOON.sample(key, 64)[None])

    keys = jax.random.split(jax.random.key(1), 300)
    state, found = jax.jit(lambda state: jax.lax.scan(one, state, keys))(state)
    gain = np.mean(found["entropy"][-50:]) - np.mean(found["entropy"][:5])
    assert gain > 0.5
    assert abs(np.mean(found["acceptance"][-50:]) - 0.8) < 0.1
    x = jax.jit(functools.partial(learner.sample, num=2000))(jax.random.key(2), state)
    errors = np.std(x, axis=0) / np.sqrt(2000)
    assert np.all(np.abs(np.mean(x, axis=0) - MOON.moments.mean) < 4.5 * errors)
    energies = learner.energy(state, x[:3])
    np.testing.assert_allclose(energies, -jax.vmap(MOON.log_density)(x[:3]))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"local_rate": 1.5}, "local_rate=1.5: give a number from 0 to 1"),
        ({"local_rate": -0.1}, "local_rate=-0.1: give a number from 0 to 1"),
        ({"local_scale_min": 0.0}, "local_scale_min=0.0: give a number above 0"),
        ({"local_scale_min": 20.0}, "at most local_scale_max=10.0"),
        ({"local_scale_max": float("nan")}, "local_scale_max=nan"),
    ],
)
def test_local_moves_that_cannot_be(fields, words):
    with pytest.raises(ValueError, match=words):
        proposal.proposal(specification(**fields))


def test_the_trained_kernel_makes_local_moves():
    """Every transition, at a rate of 1: of small moves nearly all are accepted."""
    spec = specification(local_rate=1.0, local_scale_min=1e-4, local_scale_max=1e-4)
    state = noisy_state(spec)
    fixed = proposal.kernel(spec, state, spec.log_density_fn)
    start = fixed.init(jnp.ones(spec.proposal.shape))
    after, info = fixed.step(jax.random.key(0), start)
    moved = np.abs(after.position - start.position)
    assert 0 < np.max(moved) < 1e-3 and info.acceptance_rate > 0.99


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_training_on_a_funnel_begins_further_out(share):
    """In a share of the states, whose x0 has a larger deviation; the rest are draws."""
    config = experiment.load("configs/proposal_funnel.py:3")
    config.tails.share, config.tails.std = share, 6.0
    data = config.recipe.data(config)
    x = np.asarray(jax.jit(data.take)(data.store, jnp.arange(20_000)), np.float64)
    variance = 9 + share * (36 - 9)
    assert abs(np.var(x[:, 0]) / variance - 1) < 0.06
    # Whatever x0, the others are normal in units of exp(-x0 / 2).
    rest = x[:, 1:] * np.exp(0.5 * x[:, :1])
    assert stats.kstest(np.ravel(rest[::10]), "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("share", 1.5, "config.tails.share=1.5: give a number from 0 to 1"),
        ("std", 0.0, "config.tails.std=0.0: give a finite number above 0"),
    ],
)
def test_tails_that_cannot_be(field, value, words):
    config = experiment.load("configs/proposal_funnel.py:3")
    config.tails[field] = value
    with pytest.raises(ValueError, match=words):
        config.recipe.data(config)


def test_tails_and_a_buffer_exclude_each_other():
    config = experiment.load("configs/proposal_funnel.py:3")
    config.proposal.buffer_size = 512
    with pytest.raises(ValueError, match="tails.share=0.5, .*buffer_size=512: train"):
        config.recipe.data(config)
