import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scipy import special

from megjax.energies import dbm, exact, rbm, units

SIZES = (3, 2, 2, 2)
KINDS = dbm.layer_kinds(3)


def compiled(fn, kinds=KINDS, **kwargs):
    return jax.jit(functools.partial(fn, kinds=kinds, **kwargs))


def random_params(sizes=SIZES, seed=0, scale=0.7):
    normal = np.random.RandomState(seed).randn
    params = {"visible_bias": jnp.asarray(scale * normal(sizes[0]))}
    for i in range(1, len(sizes)):
        params[f"weights_{i}"] = jnp.asarray(scale * normal(sizes[i - 1], sizes[i]))
        params[f"hidden_bias_{i}"] = jnp.asarray(scale * normal(sizes[i]))
    return params


def random_machine(num_visible, num_hidden, seed):
    normal = np.random.RandomState(seed).randn
    return {
        "weights": jnp.asarray(0.8 * normal(num_visible, num_hidden)),
        "visible_bias": jnp.asarray(0.8 * normal(num_visible)),
        "hidden_bias": jnp.asarray(0.8 * normal(num_hidden)),
    }


def all_units(sizes=SIZES, kinds=KINDS):
    return exact.joint_states(list(zip(kinds, sizes, strict=True)))


def test_energy_by_hand():
    params = {
        "visible_bias": jnp.array([0.5]),
        "weights_1": jnp.array([[2.0]]),
        "hidden_bias_1": jnp.array([-1.0]),
        "weights_2": jnp.array([[3.0]]),
        "hidden_bias_2": jnp.array([0.25]),
    }
    made, one = dbm.family((1, 1, 1)), jnp.ones((1, 1))
    np.testing.assert_allclose(made.joint(params, (one, one, one)), [-4.75])
    np.testing.assert_allclose(made.joint(params, (one, one, 0 * one)), [-1.5])
    np.testing.assert_allclose(
        made.mean(params, (0 * one, one, one)), [[1 / (1 + np.exp(-2.5))]]
    )


@pytest.mark.parametrize("sizes", [(3, 2, 2), (2, 3, 1, 2, 2)])
def test_sums_over_layers_equal_sums_over_states(sizes):
    params, kinds = random_params(sizes), dbm.layer_kinds(len(sizes) - 1)
    v = exact.states(units.BERNOULLI, sizes[0])
    joint = compiled(dbm.joint, kinds)(params, all_units(sizes, kinds))
    joint = np.asarray(joint).reshape(len(v), -1)
    log_partition = compiled(dbm.log_partition, kinds)(params)
    np.testing.assert_allclose(log_partition, special.logsumexp(-joint), rtol=1e-12)
    by_v = -special.logsumexp(-joint, axis=1)
    found = compiled(dbm.free_energy, kinds)(params, v)
    np.testing.assert_allclose(found, by_v, rtol=1e-12)


def test_other_units():
    sizes = (2, 2, 2)
    kinds = dbm.layer_kinds(2, visible=units.potts(3), hidden=units.SPIN)
    params = random_params((6, 2, 2))
    joint = compiled(dbm.joint, kinds)(params, all_units(sizes, kinds))
    log_partition = compiled(dbm.log_partition, kinds)(params)
    np.testing.assert_allclose(log_partition, special.logsumexp(-joint), rtol=1e-12)
    kinds = dbm.layer_kinds(2, visible=units.GAUSSIAN)
    params = random_params((1, 2, 2))
    v = np.linspace(-12, 12, 4001)[:, None]
    free = compiled(dbm.free_energy, kinds)(params, v)
    total = np.trapezoid(np.exp(-free), v[:, 0])
    log_partition = compiled(dbm.log_partition, kinds)(params)
    np.testing.assert_allclose(log_partition, np.log(total), rtol=1e-9)


def test_sweeps_leave_the_joint_distribution_invariant():
    inverse_temperature = 0.6
    params, states = random_params(), all_units()

    def sweep(kinds, chain):
        key = jax.random.key(0)
        beta = jnp.full(len(chain[0]), inverse_temperature)
        return dbm.sweep(key, params, chain, beta, kinds=tuple(kinds))

    plan = [(kind, layer, [slice(None)]) for layer, kind in enumerate(KINDS)]
    matrix = scripted.transition_matrix(sweep, states, plan)
    joint = compiled(dbm.joint)(params, states)
    scripted.check_invariance(matrix, joint, inverse_temperature)
    # And draws follow that matrix.
    chain = tuple(np.tile(layer[37], (60_000, 1)) for layer in states)
    sweep = jax.jit(dbm.family(SIZES).sweep)
    drawn = sweep(jax.random.key(1), params, chain, inverse_temperature)
    scripted.check_frequencies(np.hstack(drawn), np.hstack(states), matrix[37])


def test_a_sweep_starts_from_the_data():
    # Weights that copy: h_1 takes the old v, and v and h_2 take the new h_1.
    copy, bias = jnp.array([[50.0]]), jnp.array([-25.0])
    params = {"weights_1": 2 * copy, "weights_2": copy, "visible_bias": 2 * bias}
    params |= {"hidden_bias_1": 3 * bias, "hidden_bias_2": bias}
    on, off = jnp.ones((1, 1)), jnp.zeros((1, 1))
    made, key = dbm.family((1, 1, 1)), jax.random.key(0)
    np.testing.assert_array_equal(made.sweep(key, params, (on, off, off), 1.0), 1)
    np.testing.assert_array_equal(made.sweep(key, params, (off, on, on), 1.0), 0)


def test_clamped_sweeps_leave_the_posterior_invariant():
    params = random_params()
    hidden = exact.joint_states(list(zip(KINDS[1:], SIZES[1:], strict=True)))
    v = np.array([[1.0, 0.0, 1.0]])

    def sweep(kinds, chain):
        clamped = (jnp.tile(v, (len(chain[0]), 1)), *chain)
        kinds = (KINDS[0], *kinds)
        return dbm.sweep(jax.random.key(0), params, clamped, kinds=kinds, clamped=True)[
            1:
        ]

    plan = [(units.BERNOULLI, layer, [slice(None)]) for layer in range(3)]
    matrix = scripted.transition_matrix(sweep, hidden, plan)
    clamped = np.tile(v, (len(hidden[0]), 1)), *hidden
    scripted.check_invariance(matrix, compiled(dbm.joint)(params, clamped))


def test_mean_field_is_the_fixed_point_that_bounds_the_free_energy():
    params, v = random_params(), exact.states(units.BERNOULLI, 3)
    free = compiled(dbm.free_energy)(params, v)
    bound, bounds, changes = compiled(dbm.variational_energy), [], []
    for num in (1, 3, 40):
        chain, change = compiled(dbm.mean_field, num_updates=num)(params, v)
        bounds.append(bound(params, chain))
        changes.append(change)
    assert np.all(np.diff(bounds, axis=0) < 1e-12)
    assert np.all(bounds[-1] > free)
    assert np.all(changes[0] > 1e-2) and np.all(changes[-1] < 1e-12)
    for layer in (1, 2, 3):
        t = np.asarray(dbm.field(params, chain, layer))
        np.testing.assert_allclose(special.expit(t), chain[layer], atol=1e-12)


def test_the_bound_is_the_energy_minus_the_entropy_of_the_means():
    params, v = random_params((2, 2, 1)), jnp.array([[1.0, 0.0]])
    kinds = dbm.layer_kinds(2)
    means = (v, jnp.array([[0.2, 0.7]]), jnp.array([[0.4]]))
    h1, h2 = exact.joint_states([(units.BERNOULLI, 2), (units.BERNOULLI, 1)])
    h, m = np.hstack([h1, h2]), np.hstack(means[1:])
    q = np.prod(np.where(h == 1, m, 1 - m), -1)
    joint = dbm.joint(params, (np.tile(v, (8, 1)), h1, h2), kinds=kinds)
    by_hand = q @ (np.asarray(joint) + np.log(q))
    found = dbm.variational_energy(params, means, kinds=kinds)
    np.testing.assert_allclose(found, [by_hand], rtol=1e-12)


def test_an_unconnected_top_leaves_a_restricted_machine():
    params = random_params((3, 2, 2))
    params["weights_2"] = jnp.zeros((2, 2))
    one = {
        "weights": params["weights_1"],
        "visible_bias": params["visible_bias"],
        "hidden_bias": params["hidden_bias_1"],
    }
    made, v = dbm.family((3, 2, 2)), exact.states(units.BERNOULLI, 3)
    expected = rbm.posterior(one, v)[1]
    np.testing.assert_allclose(made.posterior(params, v)[1], expected, rtol=1e-12)
    free = np.asarray(compiled(dbm.free_energy, dbm.layer_kinds(2))(params, v))
    difference = free - np.asarray(rbm.energy(one, v))
    np.testing.assert_allclose(difference, difference[0], atol=1e-12)
    chain = made.posterior(params, v)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(made.joint(p, chain))))
    expected = jax.jit(jax.grad(lambda p: jnp.sum(rbm.energy(p, v))))(one)
    found = gradient(params)["weights_1"]
    np.testing.assert_allclose(found, expected["weights"], rtol=1e-12)


def test_start_draws_near_the_mean_field():
    params = random_params()
    v = jnp.tile(jnp.array([[1.0, 0.0, 1.0]]), (40_000, 1))
    made = dbm.family(SIZES)
    same, *hidden = jax.jit(made.start)(jax.random.key(0), params, v)
    np.testing.assert_array_equal(same, v)
    for drawn, mean in zip(hidden, made.posterior(params, v[:1])[1:], strict=True):
        np.testing.assert_allclose(drawn.mean(0), mean[0], atol=0.015)


def hidden_marginal(params, layers, *, of_visible):
    """log p of the visible or the hidden layer of a machine, over its states."""
    states = exact.joint_states([(kind, 2) for kind in layers])
    joint = jax.jit(functools.partial(rbm.joint, layers=layers))(params, states)
    shape = [len(exact.states(kind, 2)) for kind in layers]
    axis = 1 if of_visible else 0
    log_probs = special.logsumexp(-np.asarray(joint).reshape(shape), axis=axis)
    return special.log_softmax(log_probs)


@pytest.mark.parametrize("multiples", [((2, 1), (1, 2)), ((2, 1), (1, 1))])
def test_two_machines_compose_to_their_geometric_mean(multiples):
    # p(h_1) of the deep machine is sqrt(p p') of the two, but only with both doubled.
    lower, upper = random_machine(2, 2, 1), random_machine(2, 2, 2)
    (up, down), (up_last, down_last) = multiples
    log_lower = hidden_marginal(
        lower, rbm.layer_kinds(upward=up, downward=down), of_visible=False
    )
    log_upper = hidden_marginal(
        upper, rbm.layer_kinds(upward=up_last, downward=down_last), of_visible=True
    )
    geometric = special.log_softmax(0.5 * (log_lower + log_upper))
    deep, kinds = dbm.compose([lower, upper]), dbm.layer_kinds(2)
    joint = compiled(dbm.joint, kinds)(deep, all_units((2, 2, 2), kinds))
    joint = np.asarray(joint).reshape(4, 4, 4)
    log_deep = special.log_softmax(special.logsumexp(-joint, axis=(0, 2)))
    difference = np.max(np.abs(log_deep - geometric))
    assert difference < 1e-12 if multiples[1] == (1, 2) else difference > 0.05


def test_fields_of_the_composed_machine_are_means_of_both_sides():
    sizes = (3, 2, 4, 2)
    stacked = [random_machine(*sizes[i : i + 2], seed=i) for i in range(3)]
    machines, deep = dbm.stack(sizes), dbm.compose(stacked)
    rng = np.random.RandomState(5)
    chain = tuple(jnp.asarray(rng.randint(0, 2, (6, n)) * 1.0) for n in sizes)

    for layer in range(4):
        sides = []
        if layer > 0:
            below = machines[layer - 1]
            sides.append(
                special.logit(below.posterior(stacked[layer - 1], chain[layer - 1])[1])
            )
        if layer < 3:
            above = machines[layer]
            pair = (chain[layer], chain[layer + 1])
            sides.append(special.logit(above.mean(stacked[layer], pair)))
        np.testing.assert_allclose(
            dbm.field(deep, chain, layer), sum(sides) / len(sides), rtol=1e-9, atol=1e-9
        )


PAIRWISE = dbm.layer_kinds(2, hidden=(units.GAUSSIAN, units.SPIN))
CROWNED = dbm.layer_kinds(2, visible=units.SPIN, hidden=(units.SPIN, units.GAUSSIAN))


def square(x):
    return 0.5 * np.sum(np.square(x), -1)


def test_a_gaussian_layer_inside_leaves_a_pairwise_model_of_its_neighbours():
    params = {k: np.asarray(p) for k, p in random_params((3, 2, 2)).items()}
    v, h2 = map(np.asarray, exact.joint_states([(PAIRWISE[0], 3), (PAIRWISE[2], 2)]))
    field = params["hidden_bias_1"] + v @ params["weights_1"]
    field = field + h2 @ params["weights_2"].T
    by_hand = v @ params["visible_bias"] + h2 @ params["hidden_bias_2"] + square(field)
    by_hand = by_hand.reshape(8, 4)
    free = compiled(dbm.free_energy, PAIRWISE)(params, v[::4])
    np.testing.assert_allclose(free, -special.logsumexp(by_hand, axis=1), rtol=1e-12)
    log_partition = compiled(dbm.log_partition, PAIRWISE)(params)
    np.testing.assert_allclose(log_partition, special.logsumexp(by_hand), rtol=1e-12)


def test_a_gaussian_layer_on_top_leaves_couplings_of_the_layer_below():
    params = {k: np.asarray(p) for k, p in random_params((3, 2, 2)).items()}
    v, h1 = map(np.asarray, exact.joint_states([(CROWNED[0], 3), (CROWNED[1], 2)]))
    by_hand = v @ params["visible_bias"] + h1 @ params["hidden_bias_1"]
    by_hand = by_hand + np.sum((v @ params["weights_1"]) * h1, -1)
    by_hand += square(params["hidden_bias_2"] + h1 @ params["weights_2"])
    by_hand = by_hand.reshape(8, 4)
    free = compiled(dbm.free_energy, CROWNED)(params, v[::4])
    np.testing.assert_allclose(free, -special.logsumexp(by_hand, axis=1), rtol=1e-12)
    log_partition = compiled(dbm.log_partition, CROWNED)(params)
    np.testing.assert_allclose(log_partition, special.logsumexp(by_hand), rtol=1e-12)


@pytest.mark.parametrize(("kinds", "layer"), [(PAIRWISE, 1), (CROWNED, 2)])
def test_the_joint_energy_integrates_to_the_free_energy(kinds, layer):
    params = random_params((1, 1, 1))
    grid = np.linspace(-12, 12, 2001)
    other = kinds[3 - layer].states
    v = kinds[0].states
    index = np.indices((2, 2, len(grid))).reshape(3, -1)
    chain = {0: v[index[0]], 3 - layer: other[index[1]], layer: grid[index[2], None]}
    joint = compiled(dbm.joint, kinds)(params, (chain[0], chain[1], chain[2]))
    mass = np.exp(-np.asarray(joint)).reshape(2, 2, -1).sum(1)
    free = compiled(dbm.free_energy, kinds)(params, v)
    np.testing.assert_allclose(np.trapezoid(mass, grid), np.exp(-free), rtol=1e-9)


def gaussian_draws(params, kinds, inverse_temperature, num):
    """Exact draws of a machine with Gaussian units in layer 1, from its pair couplings."""
    v, h2 = map(np.asarray, exact.joint_states([(kinds[0], 2), (kinds[2], 2)]))
    field = params["hidden_bias_1"] + v @ params["weights_1"]
    field = field + h2 @ params["weights_2"].T
    logits = v @ params["visible_bias"] + h2 @ params["hidden_bias_2"] + square(field)
    rng = np.random.RandomState(3)
    probs = special.softmax(inverse_temperature * logits)
    rows = rng.choice(len(v), num, p=probs)
    noise = rng.randn(num, field.shape[1]) / np.sqrt(inverse_temperature)
    return v[rows], field[rows] + noise, h2[rows]


def largest_shift(before, after):
    """Of all first and second moments, in standard errors of a difference of means."""
    first, second = (np.hstack(chain) for chain in (before, after))
    pairs = np.triu_indices(first.shape[1])
    first, second = (
        np.hstack([x, x[:, pairs[0]] * x[:, pairs[1]]]) for x in (first, second)
    )
    difference = np.asarray(first - second)
    error = difference.std(0) / np.sqrt(len(difference))
    return np.max(np.abs(difference.mean(0)) / np.maximum(error, 1e-12))


def test_sweeps_keep_the_moments_of_gaussian_layers():
    inverse_temperature, sizes = 0.6, (2, 2, 2)
    params = {k: np.asarray(p) for k, p in random_params(sizes).items()}
    before = gaussian_draws(params, PAIRWISE, inverse_temperature, 100_000)

    def swept(kinds, params):
        key = jax.random.key(2)
        return compiled(dbm.sweep, kinds)(key, params, before, inverse_temperature)

    assert largest_shift(before, swept(PAIRWISE, params)) < 4.5
    wide = units.gaussian(0.8)
    mutants = [
        # Another variance; no pull from above; the other discrete units in its place.
        (dbm.layer_kinds(2, hidden=(wide, units.SPIN)), params),
        (PAIRWISE, params | {"weights_2": 0 * params["weights_2"]}),
        (dbm.layer_kinds(2, hidden=(units.GAUSSIAN, units.BERNOULLI)), params),
    ]
    for kinds, changed in mutants:
        assert largest_shift(before, swept(kinds, changed)) > 10


def test_the_mean_field_of_gaussian_layers_bounds_the_free_energy():
    params = random_params((3, 2, 2))
    for kinds in (PAIRWISE, CROWNED):
        v = exact.states(kinds[0], 3)
        free = compiled(dbm.free_energy, kinds)(params, v)
        bound, bounds = compiled(dbm.variational_energy, kinds), []
        for num in (1, 3, 300):
            chain, change = compiled(dbm.mean_field, kinds, num_updates=num)(params, v)
            bounds.append(bound(params, chain))
        assert np.all(np.diff(bounds, axis=0) < 1e-12)
        assert np.all(bounds[-1] > free) and np.all(change < 1e-10)
        for layer in (1, 2):
            expected = kinds[layer].mean(dbm.field(params, chain, layer))
            np.testing.assert_allclose(chain[layer], expected, atol=1e-9)


def test_the_bound_of_gaussian_means_is_the_energy_minus_the_entropy():
    """By quadrature over q, a product of a normal distribution and two spins."""
    params, v, m = random_params((2, 1, 2)), jnp.array([[1.0, 0.0]]), 0.4
    tops, grid = exact.states(units.SPIN, 2), np.linspace(-9, 10, 4001)
    means = (v, jnp.array([[m]]), jnp.array([[0.3, -0.5]]))
    q_top = np.prod((1 + np.asarray(tops * means[2])) / 2, -1)
    log_q = np.log(q_top)[:, None] - square((grid - m)[:, None])
    log_q -= 0.5 * np.log(2 * np.pi)
    chain = (
        jnp.tile(v, (4 * len(grid), 1)),
        jnp.tile(grid[:, None], (4, 1)),
        jnp.repeat(tops, len(grid), axis=0),
    )
    joint = np.asarray(dbm.joint(params, chain, kinds=PAIRWISE)).reshape(4, -1)
    by_hand = np.trapezoid(np.exp(log_q) * (joint + log_q), grid).sum()
    found = dbm.variational_energy(params, means, kinds=PAIRWISE)
    np.testing.assert_allclose(found, [by_hand], rtol=1e-9)


def test_a_machine_with_gaussian_units_on_top_is_composed_like_others():
    hidden = (units.BERNOULLI, units.GAUSSIAN)
    lower, upper = random_machine(2, 2, 1), random_machine(2, 2, 2)
    states = exact.states(units.BERNOULLI, 2)
    v_side = 2 * np.logaddexp(
        0, states @ lower["weights"].T + lower["visible_bias"]
    ).sum(-1)
    top_side = 2 * square(states @ upper["weights"] + upper["hidden_bias"])
    log_lower = special.log_softmax(states @ lower["hidden_bias"] + v_side)
    log_upper = special.log_softmax(states @ upper["visible_bias"] + top_side)
    # The second machine of the stack has two copies of its Gaussian units.
    stacked = dbm.stack((2, 2, 2), hidden=hidden)[1]
    found = special.log_softmax(-np.asarray(stacked.energy(upper, states)))
    np.testing.assert_allclose(found, log_upper, atol=1e-12)
    kinds = dbm.layer_kinds(2, hidden=hidden)
    deep = dbm.compose([lower, upper])
    v, h1 = exact.joint_states([(kinds[0], 2), (kinds[1], 2)])
    field = deep["hidden_bias_2"] + h1 @ deep["weights_2"]
    # At its conditional mean the joint energy is the one with the top integrated out,
    # but for a constant.
    joint = compiled(dbm.joint, kinds)(deep, (v, h1, field))
    log_deep = special.logsumexp(-np.asarray(joint).reshape(4, 4), axis=0)
    expected = special.log_softmax(0.5 * (log_lower + log_upper))
    np.testing.assert_allclose(special.log_softmax(log_deep), expected, atol=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="1 hidden layer"):
        dbm.family((3, 2))
    with pytest.raises(ValueError, match="Layers 1 and 2 are both Gaussian"):
        dbm.stack((3, 2, 2), hidden=units.GAUSSIAN)
    with pytest.raises(ValueError, match="Layers 0 and 1 are both Gaussian"):
        top = (units.GAUSSIAN, units.SPIN)
        dbm.family((3, 2, 2), visible=units.GAUSSIAN, hidden=top)
    with pytest.raises(ValueError, match="1 kinds for 2 hidden layers"):
        dbm.family((3, 2, 2), hidden=(units.SPIN,))
    with pytest.raises(ValueError, match="Hidden units are 3-state Potts"):
        dbm.family((3, 2, 2), hidden=(units.SPIN, units.potts(3)))
    kinds = dbm.layer_kinds(4, hidden=(units.GAUSSIAN, *KINDS[:2], units.GAUSSIAN))
    with pytest.raises(ValueError, match="enumerate Bernoulli"):
        dbm.free_energy(random_params((2,) * 5), jnp.zeros((1, 2)), kinds=kinds)
    params = dbm.family((21, 25, 2)).init(jax.random.key(0))
    with pytest.raises(ValueError, match="enumeration stops"):
        dbm.log_partition(params, kinds=dbm.layer_kinds(2))
