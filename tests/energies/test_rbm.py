import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scipy import special

from megjax.energies import exact, rbm, units

KINDS = {
    "bernoulli": units.BERNOULLI,
    "spin": units.SPIN,
    "potts": units.potts(3),
    "gaussian": units.gaussian(1.7),
    "unit gaussian": units.GAUSSIAN,
}
DISCRETE = [("bernoulli", "bernoulli"), ("spin", "spin"), ("potts", "bernoulli")]


def random_params(num_visible, num_hidden, seed=0, scale=0.7):
    normal = np.random.RandomState(seed).randn
    return {
        "weights": jnp.asarray(scale * normal(num_visible, num_hidden)),
        "visible_bias": jnp.asarray(scale * normal(num_visible)),
        "hidden_bias": jnp.asarray(scale * normal(num_hidden)),
    }


def machine(visible, hidden, num_visible=3, num_hidden=2, **kwargs):
    """A family, its layers, and parameters that are not small."""
    kinds = {"visible": KINDS[visible], "hidden": KINDS[hidden]}
    made = rbm.family(num_visible, num_hidden, **kinds, **kwargs)
    params = random_params(num_visible * KINDS[visible].width, num_hidden)
    return made, rbm.layer_kinds(**kinds, **kwargs), params


def all_units(layers, num_visible=3, num_hidden=2):
    return exact.joint_states(
        [(layers.visible, num_visible), (layers.hidden, num_hidden)]
    )


def test_energies_by_hand():
    params = {
        "weights": jnp.array([[1.0], [2.0]]),
        "visible_bias": jnp.array([0.5, -1.0]),
        "hidden_bias": jnp.array([0.25]),
    }
    made = rbm.family(2, 1)
    v, h = jnp.array([[1.0, 1.0]]), jnp.array([[1.0]])
    # -(0.5 - 1) - 0.25 - (1 + 2)
    np.testing.assert_allclose(made.joint(params, (v, h)), [-2.75])
    np.testing.assert_allclose(
        made.energy(params, v), [0.5 - np.log1p(np.exp(3.25))], rtol=1e-12
    )
    np.testing.assert_allclose(
        made.posterior(params, v)[1], [[1 / (1 + np.exp(-3.25))]]
    )
    np.testing.assert_allclose(
        made.mean(params, (v, h)), [[1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(-1.0))]]
    )


@pytest.mark.parametrize(
    ("visible", "hidden", "upward", "downward"),
    [(*kinds, 1, 1) for kinds in DISCRETE]
    + [("bernoulli", "bernoulli", 2, 1), ("bernoulli", "spin", 1, 2)],
)
def test_free_energy_sums_out_hidden_units(visible, hidden, upward, downward):
    made, layers, params = machine(visible, hidden, upward=upward, downward=downward)
    v, h = exact.states(layers.visible, 3), exact.states(layers.hidden, 2)
    joint = np.asarray(jax.jit(made.joint)(params, all_units(layers)))
    joint = joint.reshape(len(v), len(h))
    energy = -special.logsumexp(-joint, axis=1)
    np.testing.assert_allclose(jax.jit(made.energy)(params, v), energy, rtol=1e-12)
    means = special.softmax(-joint, axis=1) @ np.asarray(h)
    found = jax.jit(made.posterior)(params, v)[1]
    np.testing.assert_allclose(found, means, atol=1e-12)


@pytest.mark.parametrize(("visible", "hidden"), DISCRETE)
def test_log_partition_is_the_sum_over_everything(visible, hidden):
    sizes = (2, 3) if visible == "spin" else (3, 2)
    made, layers, params = machine(visible, hidden, *sizes)
    joint = jax.jit(made.joint)(params, all_units(layers, *sizes))
    found = jax.jit(lambda p: rbm.log_partition(p, layers=layers))(params)
    np.testing.assert_allclose(found, special.logsumexp(-joint), rtol=1e-12)


def test_gaussian_visible_units_integrate_to_the_partition_function():
    made = rbm.family(1, 3, visible=KINDS["gaussian"])
    layers, params = rbm.layer_kinds(KINDS["gaussian"]), random_params(1, 3)
    v = np.linspace(-15, 15, 200_001)[:, None]
    energy = np.asarray(jax.jit(made.energy)(params, v))
    total = np.trapezoid(np.exp(-energy), v[:, 0])
    run = jax.jit(lambda p: rbm.log_partition(p, layers=layers))
    np.testing.assert_allclose(np.log(total), run(params), rtol=1e-9)
    # The same from a precision that is a parameter.
    learned = rbm.family(1, 3, visible=units.GAUSSIAN, learned_precision=True)
    added = {**params, "visible_log_precision": jnp.log(jnp.array([1.7]))}
    np.testing.assert_allclose(jax.jit(learned.energy)(added, v), energy)
    np.testing.assert_allclose(run(added), run(params))


def test_gaussian_hidden_units_are_a_pairwise_model():
    # Hubbard-Stratonovich: -log of the integral over h is -a.v - |W v|^2 / 2.
    made, layers, params = machine("spin", "unit gaussian", 6, 3)
    params["hidden_bias"] = jnp.zeros(3)
    v = exact.states(units.SPIN, 6)
    coupled = params["weights"] @ params["weights"].T
    pairwise = -v @ params["visible_bias"] - 0.5 * jnp.sum((v @ coupled) * v, -1)
    np.testing.assert_allclose(made.energy(params, v), pairwise, atol=1e-12)
    # And the energy is that integral, here in one dimension.
    one = {**params, "weights": params["weights"][:, :1], "hidden_bias": jnp.zeros(1)}
    h = np.linspace(-12, 12, 20_001)[:, None]
    rows = np.tile(v[:1], (len(h), 1))
    joint = np.asarray(rbm.joint(one, (rows, h), layers=layers))
    np.testing.assert_allclose(
        -np.log(np.trapezoid(np.exp(-joint), h[:, 0])),
        rbm.energy(one, v[:1], layers=layers)[0],
        rtol=1e-10,
    )


@pytest.mark.parametrize(("visible", "hidden"), DISCRETE[1:])
def test_likelihood_gradient_is_the_contrast_of_phases(visible, hidden):
    made, layers, params = machine(visible, hidden)
    v = exact.states(layers.visible, 3)
    data = np.asarray(v)[np.random.RandomState(1).randint(len(v), size=7)]

    def cost(params):
        log_partition = rbm.log_partition(params, layers=layers)
        return jnp.mean(made.energy(params, data)) + log_partition

    @jax.jit
    def three_ways(params):
        probs = jax.nn.softmax(-made.energy(params, v))
        phases = made.posterior(params, data), made.posterior(params, v)

        def contrast(params):
            model = probs @ made.joint(params, phases[1])
            return jnp.mean(made.joint(params, phases[0])) - model

        h_data, h_model = phases[0][1], phases[1][1]
        by_hand = {
            "weights": (probs[:, None] * v).T @ h_model - data.T @ h_data / len(data),
            "visible_bias": probs @ v - data.mean(0),
            "hidden_bias": probs @ h_model - h_data.mean(0),
        }
        # Probabilities and phases are numbers here, as drawn chains would be.
        return jax.grad(cost)(params), jax.grad(contrast)(params), by_hand

    gradient, by_phases, by_hand = three_ways(params)
    for name, value in gradient.items():
        np.testing.assert_allclose(by_phases[name], value, atol=1e-10)
        np.testing.assert_allclose(by_hand[name], value, atol=1e-10)
    step, run = 1e-5, jax.jit(cost)
    up = run({**params, "weights": params["weights"].at[0, 1].add(step)})
    down = run({**params, "weights": params["weights"].at[0, 1].add(-step)})
    slope = (up - down) / (2 * step)
    np.testing.assert_allclose(slope, gradient["weights"][0, 1], atol=1e-8)


def sweep_matrix(layers, params, inverse_temperature):
    states = all_units(layers)

    def sweep(kinds, chain):
        betas = jnp.full(len(chain[0]), inverse_temperature)
        key = jax.random.key(0)
        return rbm.sweep(key, params, chain, betas, layers=rbm.Layers(*kinds))

    plan = [(layers.visible, 0, [slice(None)]), (layers.hidden, 1, [slice(None)])]
    return scripted.transition_matrix(sweep, states, plan), states


@pytest.mark.parametrize(("visible", "hidden"), DISCRETE)
def test_sweeps_leave_the_joint_distribution_invariant(visible, hidden):
    inverse_temperature = 1.0 if visible == "spin" else 0.6
    made, layers, params = machine(visible, hidden)
    matrix, states = sweep_matrix(layers, params, inverse_temperature)
    joint = made.joint(params, states)
    scripted.check_invariance(matrix, joint, inverse_temperature)


@pytest.mark.parametrize("copies", [(2, 1), (1, 2)])
def test_sweeps_with_copies_leave_the_joint_distribution_invariant(copies):
    upward, downward = copies
    made, layers, params = machine(
        "bernoulli", "bernoulli", upward=upward, downward=downward
    )
    matrix, states = sweep_matrix(layers, params, 1.0)
    scripted.check_invariance(matrix, made.joint(params, states))


def test_drawn_sweeps_follow_the_matrix_at_one_temperature_per_chain():
    made, layers, params = machine("bernoulli", "spin")
    num = 60_000
    betas = jnp.repeat(jnp.array([1.0, 0.3]), num)
    matrices = [sweep_matrix(layers, params, beta)[0] for beta in (1.0, 0.3)]
    states = all_units(layers)
    chain = tuple(jnp.tile(layer[5], (2 * num, 1)) for layer in states)
    v, h = jax.jit(made.sweep)(jax.random.key(3), params, chain, betas)
    both, listed = np.hstack([v, h]), np.hstack(states)
    for half, matrix in zip(np.split(both, 2), matrices, strict=True):
        scripted.check_frequencies(half, listed, matrix[5])


def test_gaussian_visible_sweeps_keep_moments():
    made, _, params = machine("gaussian", "bernoulli", 2, 2)
    precision, num = np.array([1.7, 0.8]), 100_000
    params["visible_log_precision"] = jnp.log(precision)
    h = np.asarray(exact.states(units.BERNOULLI, 2))
    numbers = {name: np.asarray(p) for name, p in params.items()}
    field = numbers["visible_bias"] + h @ numbers["weights"].T
    probs = special.softmax(
        h @ numbers["hidden_bias"] + 0.5 * np.sum(field**2 / precision, -1)
    )
    rng = np.random.RandomState(0)
    index = rng.choice(len(h), p=probs, size=num)
    v = (field / precision)[index] + rng.randn(num, 2) / np.sqrt(precision)
    swept, _ = jax.jit(made.sweep)(jax.random.key(0), params, (v, h[index]), 1.0)
    mean = probs @ (field / precision)
    second = probs @ ((field / precision) ** 2 + 1 / precision)
    error = np.sqrt((second - mean**2) / num)
    swept = np.asarray(swept)
    assert np.all(np.abs(swept.mean(0) - mean) < 5 * error)
    np.testing.assert_allclose((swept**2).mean(0), second, rtol=0.03)


def test_start_draws_the_hidden_units_of_its_data():
    made, _, params = machine("bernoulli", "bernoulli")
    v = jnp.tile(jnp.array([[1.0, 0.0, 1.0]]), (40_000, 1))
    same, h = made.start(jax.random.key(0), params, v)
    np.testing.assert_array_equal(same, v)
    h_mean = made.posterior(params, v[:1])[1][0]
    probs = jnp.prod(
        jnp.where(exact.states(units.BERNOULLI, 2), h_mean, 1 - h_mean), -1
    )
    scripted.check_frequencies(h, exact.states(units.BERNOULLI, 2), probs)


def test_copies_multiply_the_weights_one_way():
    params = random_params(3, 2)
    made = rbm.family(3, 2, upward=2)
    v, h = jnp.array([[1.0, 0.0, 1.0]]), jnp.array([[1.0, 0.0]])
    up = jax.nn.sigmoid(params["hidden_bias"] + 2 * v @ params["weights"])
    down = jax.nn.sigmoid(params["visible_bias"] + h @ params["weights"].T)
    np.testing.assert_allclose(made.posterior(params, v)[1], up)
    np.testing.assert_allclose(made.mean(params, (v, h)), down)


@pytest.mark.parametrize("hidden", ["bernoulli", "unit gaussian"])
def test_interactions_match_the_free_energy_for_small_weights(hidden):
    made, layers, params = machine("spin", hidden, 4, 3)
    v = exact.states(units.SPIN, 4)

    @functools.partial(jax.jit, static_argnames="order")
    def error(scale, order):
        scaled = {**params, "weights": scale * params["weights"]}
        terms = rbm.interactions(scaled, layers=layers, order=order)
        series = terms[0] + v @ terms[1]
        if order >= 2:
            series += jnp.einsum("bi,ij,bj->b", v, terms[2], v) / 2
        if order >= 3:
            series += jnp.einsum("bi,bj,bk,ijk->b", v, v, v, terms[3]) / 6
        return jnp.max(jnp.abs(made.energy(scaled, v) + series))

    if hidden == "unit gaussian":
        assert error(1.0, 2) < 1e-12
        return
    for order in (1, 2, 3):
        # The first term left out is of order + 1 in the weights.
        ratio = error(0.02, order) / error(0.01, order)
        np.testing.assert_allclose(ratio, 2 ** (order + 1), rtol=0.15)


def test_visible_bias_reproduces_means():
    means = jnp.array([0.0, 0.2, 1.0])
    found = rbm.visible_bias(means)
    np.testing.assert_allclose(jax.nn.sigmoid(found), [0.005, 0.203, 0.995])
    spins = rbm.visible_bias(jnp.array([-1.0, 0.5]), visible=units.SPIN)
    np.testing.assert_allclose(jnp.tanh(spins), [-0.99, 0.495])
    gaussian = rbm.visible_bias(means, visible=units.gaussian(2.0))
    np.testing.assert_allclose(gaussian, 2 * means)
    made = rbm.family(3, 2, visible_bias=found)
    np.testing.assert_array_equal(made.init(jax.random.key(0))["visible_bias"], found)


def test_initial_weights_are_glorot_normal():
    params = rbm.family(300, 200).init(jax.random.key(0))
    np.testing.assert_allclose(params["weights"].std(), np.sqrt(2 / 500), rtol=0.01)
    assert np.all(params["hidden_bias"] == 0)


def test_refusals():
    family = functools.partial(rbm.family, 2, 2)
    with pytest.raises(ValueError, match="both Gaussian"):
        family(visible=units.GAUSSIAN, hidden=units.GAUSSIAN)
    with pytest.raises(ValueError, match="3-state Potts"):
        family(hidden=units.potts(3))
    with pytest.raises(ValueError, match="learned_precision"):
        family(learned_precision=True)
    with pytest.raises(ValueError, match="shape \\(3,\\)"):
        family(visible_bias=jnp.zeros(3)).init(jax.random.key(0))
