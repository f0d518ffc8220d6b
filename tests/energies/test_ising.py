import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripted
from scipy import special

from megjax.energies import exact, ising, units

RING = np.array([[0, 1], [1, 2], [2, 3], [0, 3]])


def random_params(num_units, net, width=1, seed=0, scale=0.5):
    normal = np.random.RandomState(seed).randn
    return {
        "bias": jnp.asarray(scale * normal(num_units * width)),
        "couplings": jnp.asarray(scale * normal(len(net.edges), width, width)),
    }


def test_energy_by_hand():
    net = ising.graph(3)
    params = {
        "bias": jnp.array([0.5, 0.0, -1.0]),
        "couplings": jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1),
    }
    v = jnp.array([[1.0, -1.0, 1.0]])
    # -(0.5 - 1) - (-1 + 2 - 3), pairs in the order 01, 02, 12
    np.testing.assert_allclose(ising.energy(params, v, net=net), [2.5])
    by_matrix = ising.matrix(params["couplings"], 3, net=net)
    np.testing.assert_array_equal(by_matrix, [[0, 1, 2], [1, 0, 3], [2, 3, 0]])
    np.testing.assert_array_equal(
        ising.couplings(by_matrix, net=net), params["couplings"]
    )


def test_listed_edges_give_the_same_model_as_all_pairs():
    kind = units.potts(3)
    full, listed = ising.graph(4), ising.graph(4, ising.pairs(4)[::-1])
    params = random_params(4, full, kind.width)
    turned = {**params, "couplings": params["couplings"][::-1]}
    v = exact.states(kind, 4)
    np.testing.assert_allclose(
        ising.energy(params, v, net=full),
        ising.energy(turned, v, net=listed),
        atol=1e-12,
    )
    blocks = ising.matrix(params["couplings"], 4, net=full)
    np.testing.assert_array_equal(
        ising.couplings(blocks, net=full, width=kind.width), params["couplings"]
    )


def sweep_matrix(kind, net, params, inverse_temperature):
    num_units, width = len(params["bias"]) // kind.width, kind.width
    columns = np.arange(num_units * width).reshape(num_units, width)
    groups = net.colours if not net.complete else np.arange(num_units)[:, None]
    states = (exact.states(kind, num_units),)
    sweep_fn = ising.sequential_sweep if net.complete else ising.coloured_sweep

    def sweep(kinds, chain):
        beta = jnp.full(len(chain[0]), inverse_temperature)
        key = jax.random.key(0)
        return sweep_fn(key, params, chain, beta, kind=kinds[0], net=net)

    plan = [(kind, 0, [columns[group].reshape(-1) for group in groups])]
    matrix = scripted.transition_matrix(sweep, states, plan, loops=net.complete)
    return matrix, states[0]


@pytest.mark.parametrize(
    ("kind", "edges", "inverse_temperature"),
    [
        (units.SPIN, RING, 0.7),
        (units.potts(3), np.array([[0, 1], [1, 2]]), 1.0),
        (units.potts(2), None, 0.7),
    ],
)
def test_sweeps_leave_the_distribution_invariant(kind, edges, inverse_temperature):
    num_units = 4 if kind.width == 1 else 3
    net = ising.graph(num_units, edges)
    params = random_params(num_units, net, kind.width)
    matrix, states = sweep_matrix(kind, net, params, inverse_temperature)
    energies = ising.energy(params, states, net=net)
    scripted.check_invariance(matrix, energies, inverse_temperature)
    # And draws follow that matrix, chains at two temperatures side by side.
    made = ising.family(num_units, kind=kind, edges=edges)
    v = np.tile(states[5], (40_000, 1))
    betas = np.where(np.arange(40_000) % 2, inverse_temperature, 50.0)
    (drawn,) = jax.jit(made.sweep)(jax.random.key(0), params, (v,), betas)
    scripted.check_frequencies(drawn[1::2], states, matrix[5])


def test_a_square_lattice_is_a_checkerboard():
    edges = ising.square_lattice(6)
    assert edges.shape == (72, 2) and np.all(np.bincount(edges.ravel()) == 4)
    colours = ising.graph(36, edges).colours
    assert [len(sites) for sites in colours] == [18, 18]
    row, column = np.divmod(colours[0], 6)
    assert np.all((row + column) % 2 == 0)
    odd = ising.graph(25, ising.square_lattice(5))
    for sites in odd.colours:
        assert not np.any(np.isin(odd.neighbours[sites], sites))


def test_a_ring_has_the_known_partition_function():
    # Z = (2 cosh J)^n + (2 sinh J)^n; q states: (e^J + q - 1)^n + (q - 1)(e^J - 1)^n.
    net, coupling = ising.graph(4, RING), 0.6
    params = ising.uniform(4, net=net, coupling=coupling)
    found = exact.distribution(
        lambda v: ising.energy(params, v, net=net), units.SPIN, 4
    )
    by_hand = (2 * np.cosh(coupling)) ** 4 + (2 * np.sinh(coupling)) ** 4
    np.testing.assert_allclose(found.log_partition, np.log(by_hand), rtol=1e-12)
    kind = units.potts(3)
    params = ising.uniform(4, kind=kind, net=net, coupling=coupling)
    found = exact.distribution(lambda v: ising.energy(params, v, net=net), kind, 4)
    by_hand = (np.exp(coupling) + 2) ** 4 + 2 * (np.exp(coupling) - 1) ** 4
    np.testing.assert_allclose(found.log_partition, np.log(by_hand), rtol=1e-12)


def test_spins_and_bits_are_the_same_model_up_to_a_constant():
    net = ising.graph(4)
    params = random_params(4, net)
    v = exact.states(units.BERNOULLI, 4)
    s = 2 * v - 1
    bits, constant = ising.bits_of_spins(params, net=net)
    np.testing.assert_allclose(
        ising.energy(params, s, net=net),
        ising.energy(bits, v, net=net) + constant,
        atol=1e-12,
    )
    # In the terms of a matrix: a' = 2 a - 2 sum_j J, J' = 4 J, sum a - sum J / 2.
    full = ising.matrix(params["couplings"], 4, net=net)
    bias = params["bias"]
    np.testing.assert_allclose(bits["bias"], 2 * bias - 2 * full.sum(1))
    np.testing.assert_allclose(
        ising.matrix(bits["couplings"], 4, net=net), 4 * full, atol=1e-12
    )
    np.testing.assert_allclose(constant, bias.sum() - full.sum() / 2, rtol=1e-12)
    back, opposite = ising.spins_of_bits(bits, net=net)
    np.testing.assert_allclose(opposite, -constant, rtol=1e-12)
    for name in params:
        np.testing.assert_allclose(back[name], params[name], atol=1e-12)


@pytest.mark.parametrize("kind", [units.SPIN, units.BERNOULLI, units.potts(2)])
def test_diagonals_fold_away(kind):
    rng = np.random.RandomState(0)
    size = 3 * kind.width
    bias, full = jnp.asarray(rng.randn(size)), jnp.asarray(rng.randn(size, size))
    full = full + full.T
    v = exact.states(kind, 3)

    def energy(bias, full):
        return -v @ bias - 0.5 * jnp.sum((v @ full) * v, -1)

    own, rest, constant = ising.without_diagonal(bias, full, kind=kind)
    assert np.all(jnp.diagonal(rest) == 0)
    if kind.width == 2:
        assert rest[0, 1] == 0 and rest[0, 2] != 0
        # Within a unit only the state it is in counts.
        full = full * ~(np.kron(np.eye(3), np.ones((2, 2)) - np.eye(2)) > 0)
    np.testing.assert_allclose(
        energy(bias, full), energy(own, rest) - constant, atol=1e-12
    )


def test_pseudo_likelihood_is_the_product_of_conditionals():
    kind = units.potts(3)
    net = ising.graph(3, np.array([[0, 1], [1, 2]]))
    params = random_params(3, net, kind.width)
    found = exact.distribution(lambda v: ising.energy(params, v, net=net), kind, 3)
    probs = np.exp(found.log_probs).reshape(3 * [len(kind.states)])
    by_hand = sum(np.log(probs / probs.sum(axis, keepdims=True)) for axis in range(3))
    log_pl = ising.log_pseudo_likelihood(params, found.states, kind=kind, net=net)
    np.testing.assert_allclose(log_pl, by_hand.reshape(-1), atol=1e-12)


def test_likelihood_gradient_is_the_difference_of_correlations():
    made, net = ising.family(4), ising.graph(4)
    params, v = random_params(4, net), np.asarray(exact.states(units.SPIN, 4))
    data = v[[0, 3, 3, 9]]

    def cost(params):
        log_partition = jax.nn.logsumexp(-made.energy(params, v))
        return jnp.mean(made.joint(params, (data,))) + log_partition

    gradient = jax.jit(jax.grad(cost))(params)
    probs = special.softmax(-np.asarray(jax.jit(made.energy)(params, v)))
    i, j = net.edges.T
    correlations = probs @ (v[:, i] * v[:, j]) - np.mean(data[:, i] * data[:, j], 0)
    np.testing.assert_allclose(gradient["couplings"][:, 0, 0], correlations, atol=1e-12)
    np.testing.assert_allclose(gradient["bias"], probs @ v - data.mean(0), atol=1e-12)


def test_family_starts_unconnected():
    bias = jnp.array([0.1, 0.2, 0.3])
    params = ising.family(3, visible_bias=bias).init(jax.random.key(0))
    np.testing.assert_array_equal(params["bias"], bias)
    assert params["couplings"].shape == (3, 1, 1) and not params["couplings"].any()


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([[0, 0]], "to itself"),
        ([[0, 1], [1, 0]], "given twice"),
        ([[0, 4]], "units 0 to 4"),
        ([0, 1], "shape \\(2,\\)"),
    ],
)
def test_bad_edges_are_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        ising.family(4, edges=np.array(edges))


def test_refusals():
    with pytest.raises(ValueError, match="energies.gaussian"):
        ising.family(3, kind=units.GAUSSIAN)
    with pytest.raises(ValueError, match="length=2"):
        ising.square_lattice(2)
