"""Pairwise models: Ising (spins or zeros and ones) and Potts, on any graph.

Mehta et al. 2019, eqs. 186 and 199; Besag 1975 (pseudo-likelihood).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from megjax.energies import units
from megjax.energies.family import Family, Units
from megjax.types import Array, Key, PyTree


class Graph(NamedTuple):
    """Which units are coupled; numpy arrays, static under jit.

    edges: [E, 2], the smaller unit first, as `couplings` are ordered.
    complete: whether all pairs are edges; such models compute with a matrix.
    neighbours: [n, D] units, n where a unit has fewer than D.
    slots: [n, D] rows of `couplings` (e), its transpose (E + e), or nothing (2 E).
    colours: units in groups without edges inside; None for a complete graph.
    """

    edges: np.ndarray
    complete: bool
    neighbours: np.ndarray | None = None
    slots: np.ndarray | None = None
    colours: tuple[np.ndarray, ...] | None = None


def family(
    num_units: int,
    *,
    kind: units.Kind = units.SPIN,
    edges: np.ndarray | None = None,
    visible_bias: Array | None = None,
) -> Family:
    """E(v) = -sum_i a_i.v_i - sum_(i < j) v_i J_ij v_j over edges; each pair once.

    kind: spin, Bernoulli or Potts. edges: [E, 2] pairs of units, by default all i < j,
    as `pairs` lists them.
    params: "bias" [n * w] and "couplings" [E, w, w] for units of width w, 1 or the
    number of Potts states; all zero at first but for `visible_bias` [n * w].
    A sweep visits one unit after the other, or where `edges` are given all units of a
    colour at once: on a square lattice of even length a checkerboard.
    Raises ValueError for continuous units, an edge from a unit to itself, and an edge
    given twice or outside the model.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.energies.ising import family
    >>> model = family(4)
    >>> params = model.init(jax.random.key(0))
    >>> float(model.energy(params, jnp.ones((1, 4)))[0]) == 0  # nothing interacts yet
    True
    """
    _check_kind(kind)
    net = graph(num_units, edges)
    sweep_fn = sequential_sweep if net.complete else coloured_sweep
    return Family(
        init=functools.partial(
            init, num_units=num_units, kind=kind, net=net, visible_bias=visible_bias
        ),
        energy=functools.partial(energy, net=net),
        joint=lambda params, chain: energy(params, chain[0], net=net),
        posterior=lambda params, v: (v,),
        start=lambda key, params, v: (v,),
        sweep=functools.partial(sweep_fn, kind=kind, net=net),
        mean=None,
    )


def pairs(num_units: int) -> np.ndarray:
    """Every i < j [n (n - 1) / 2, 2], row by row of a matrix."""
    return np.stack(np.triu_indices(num_units, 1), -1)


def square_lattice(length: int) -> np.ndarray:
    """Edges [2 length^2, 2] of a periodic square lattice; unit = row * length + column.

    Raises ValueError below length 3, where neighbours coincide.
    """
    if length < 3:
        raise ValueError(f"length={length}: a periodic lattice needs at least 3.")
    site = np.arange(length**2).reshape(length, length)
    right, down = np.roll(site, -1, 1), np.roll(site, -1, 0)
    ends = np.stack([site, right], -1), np.stack([site, down], -1)
    return np.sort(np.concatenate(ends).reshape(-1, 2), 1)


def graph(num_units: int, edges: np.ndarray | None = None) -> Graph:
    """The graph of some edges, coloured greedily; all pairs by default."""
    if edges is None:
        return Graph(pairs(num_units), complete=True)
    edges = _checked_edges(num_units, np.asarray(edges))
    adjacent = [[] for _ in range(num_units)]
    for e, (i, j) in enumerate(edges):
        adjacent[i].append((j, e))
        adjacent[j].append((i, len(edges) + e))
    degree = max(map(len, adjacent))
    nothing = (num_units, 2 * len(edges))
    padded = [row + [nothing] * (degree - len(row)) for row in adjacent]
    table = np.array(padded).reshape(num_units, degree, 2)
    colours = _colours(table[..., 0])
    return Graph(edges, False, table[..., 0], table[..., 1], colours)


def init(
    key: Key,
    *,
    num_units: int,
    kind: units.Kind,
    net: Graph,
    visible_bias: Array | None,
) -> dict[str, Any]:
    """Parameters before training: units that do not interact."""
    del key
    params = uniform(num_units, kind=kind, net=net)
    if visible_bias is not None:
        params["bias"] = jnp.broadcast_to(visible_bias, params["bias"].shape)
    return params


def uniform(
    num_units: int,
    *,
    kind: units.Kind = units.SPIN,
    net: Graph,
    coupling: float = 0.0,
    field: float = 0.0,
) -> dict[str, Array]:
    """The same coupling on every edge and field on every unit.

    Potts units in equal states gain `coupling`, and `field` those in the first state.
    """
    block = coupling * jnp.eye(kind.width)
    first = field * jnp.eye(kind.width)[0]
    return {
        "bias": jnp.tile(first, num_units),
        "couplings": jnp.tile(block, (len(net.edges), 1, 1)),
    }


def matrix(couplings: Array, num_units: int, *, net: Graph) -> Array:
    """J [n * w, n * w] of couplings [E, w, w]: symmetric, without diagonal blocks."""
    width = couplings.shape[-1]
    i, j = net.edges.T
    blocks = jnp.zeros((num_units, num_units, width, width), couplings.dtype)
    blocks = blocks.at[i, j].set(couplings)
    blocks = blocks.at[j, i].set(jnp.swapaxes(couplings, -1, -2))
    return jnp.swapaxes(blocks, 1, 2).reshape(num_units * width, -1)


def couplings(matrix: Array, *, net: Graph, width: int = 1) -> Array:
    """Couplings [E, w, w] from a symmetric J [n * w, n * w]; inverse of `matrix`."""
    blocks = matrix.reshape(len(matrix) // width, width, -1, width)
    i, j = net.edges.T
    return jnp.swapaxes(blocks, 1, 2)[i, j]


def without_diagonal(
    bias: Array, matrix: Array, *, kind: units.Kind
) -> tuple[Array, Array, Array]:
    """The same model with nothing on the diagonal of J: (bias, J, constant).

    -bias.v - v J v / 2 of the arguments is that of the results minus `constant`. Of
    spins v_i^2 = 1, a constant; of zeros and ones v_i^2 = v_i, a bias. Blocks of one
    Potts unit count as diagonal.
    """
    _check_kind(kind)
    num_units = len(matrix) // kind.width
    own = jnp.kron(jnp.eye(num_units), jnp.ones((kind.width, kind.width)))
    half = 0.5 * jnp.diagonal(matrix)
    rest = jnp.where(own, 0.0, matrix)
    if kind.name == units.SPIN.name:
        return bias, rest, jnp.sum(half)
    return bias + half, rest, jnp.zeros((), bias.dtype)


def bits_of_spins(params: PyTree, *, net: Graph) -> tuple[dict[str, Array], Array]:
    """(params', constant) with E(s) = E'(v) + constant for s = 2 v - 1."""
    bias, values = params["bias"], params["couplings"]
    pulls = _sum_at_ends(values[:, 0, 0], len(bias), net)
    changed = {"bias": 2 * bias - 2 * pulls, "couplings": 4 * values}
    return changed, jnp.sum(bias) - jnp.sum(values)


def spins_of_bits(params: PyTree, *, net: Graph) -> tuple[dict[str, Array], Array]:
    """(params', constant) with E(v) = E'(s) + constant for v = (1 + s) / 2."""
    bias, values = params["bias"], params["couplings"]
    pulls = _sum_at_ends(values[:, 0, 0], len(bias), net)
    changed = {"bias": bias / 2 + pulls / 4, "couplings": values / 4}
    return changed, -jnp.sum(bias) / 2 - jnp.sum(values) / 4


def energy(params: PyTree, v: Array, *, net: Graph) -> Array:
    """The energy [B]."""
    inputs = fields(params, v, net=net) - params["bias"]
    return -v @ params["bias"] - 0.5 * jnp.sum(inputs * v, -1)


def fields(params: PyTree, v: Array, *, net: Graph) -> Array:
    """What pulls at every unit, given the others [B, n * w]."""
    if net.complete:
        num_units = v.shape[-1] // params["couplings"].shape[-1]
        return params["bias"] + v @ matrix(params["couplings"], num_units, net=net)
    return _fields_at(params, v, net, np.arange(len(net.neighbours)))


def log_pseudo_likelihood(
    params: PyTree, v: Array, *, kind: units.Kind = units.SPIN, net: Graph
) -> Array:
    """sum_i log p(v_i | all others) [B], in nats; concave in the parameters."""
    t = fields(params, v, net=net)
    return jnp.sum(t * v, -1) - kind.cumulant(t)


def sequential_sweep(
    key: Key,
    params: PyTree,
    chain: Units,
    inverse_temperature: float | Array = 1.0,
    *,
    kind: units.Kind,
    net: Graph,
) -> Units:
    """Every unit in turn, given all others; for complete graphs."""
    width = kind.width
    num_units = chain[0].shape[-1] // width
    weights = matrix(params["couplings"], num_units, net=net)

    def visit(i: Array, v: Array) -> Array:
        own = jax.lax.dynamic_slice_in_dim(params["bias"], i * width, width)
        columns = jax.lax.dynamic_slice_in_dim(weights, i * width, width, 1)
        t = own + v @ columns
        drawn = kind.sample(jax.random.fold_in(key, i), t, inverse_temperature)
        return jax.lax.dynamic_update_slice_in_dim(v, drawn, i * width, 1)

    return (jax.lax.fori_loop(0, num_units, visit, chain[0]),)


def coloured_sweep(
    key: Key,
    params: PyTree,
    chain: Units,
    inverse_temperature: float | Array = 1.0,
    *,
    kind: units.Kind,
    net: Graph,
) -> Units:
    """All units of one colour, given the others, colour by colour."""
    v, width = chain[0], kind.width
    for k, sites in zip(jax.random.split(key, len(net.colours)), net.colours):
        t = _fields_at(params, v, net, sites)
        drawn = kind.sample(k, t, inverse_temperature)
        columns = (sites[:, None] * width + np.arange(width)).reshape(-1)
        v = v.at[:, columns].set(drawn)
    return (v,)


def _fields_at(params: PyTree, v: Array, net: Graph, sites: np.ndarray) -> Array:
    """Fields at some units [B, len(sites) * w], from their neighbours only."""
    values = params["couplings"]
    width = values.shape[-1]
    both_ways = [values, jnp.swapaxes(values, -1, -2), jnp.zeros_like(values[:1])]
    blocks = jnp.concatenate(both_ways)[net.slots[sites]]
    by_unit = v.reshape(len(v), -1, width)
    padded = jnp.concatenate([by_unit, jnp.zeros_like(by_unit[:, :1])], 1)
    inputs = jnp.einsum("sdij,bsdj->bsi", blocks, padded[:, net.neighbours[sites]])
    own = params["bias"].reshape(-1, width)[sites]
    return (own + inputs).reshape(len(v), -1)


def _sum_at_ends(values: Array, num_units: int, net: Graph) -> Array:
    """sum_j J_ij of every unit [n] from one value per edge [E]."""
    i, j = net.edges.T
    return jnp.zeros(num_units, values.dtype).at[i].add(values).at[j].add(values)


def _colours(neighbours: np.ndarray) -> tuple[np.ndarray, ...]:
    """Units [n, D] -> groups; each unit takes the first colour its neighbours lack."""
    num_units = len(neighbours)
    colour = np.full(num_units + 1, -1)
    for i in range(num_units):
        taken = set(colour[neighbours[i]])
        colour[i] = next(c for c in range(num_units) if c not in taken)
    used = colour[:num_units]
    return tuple(np.flatnonzero(used == c) for c in range(used.max() + 1))


def _checked_edges(num_units: int, edges: np.ndarray) -> np.ndarray:
    """Edges with the smaller unit first, or ValueError."""
    if edges.ndim != 2 or edges.shape[1] != 2 or not len(edges):
        raise ValueError(f"edges have shape {edges.shape}: give pairs of units [E, 2].")
    edges = np.sort(edges, 1)
    if edges.min() < 0 or edges.max() >= num_units:
        raise ValueError(
            f"edges name units {edges.min()} to {edges.max()}: the model has 0 to"
            f" {num_units - 1}."
        )
    if np.any(edges[:, 0] == edges[:, 1]):
        raise ValueError("An edge joins a unit to itself: put that into the bias.")
    if len(np.unique(edges, axis=0)) < len(edges):
        raise ValueError("An edge is given twice: add up its couplings.")
    return edges


def _check_kind(kind: units.Kind) -> None:
    if units.is_continuous(kind):
        raise ValueError(
            f"kind={kind.name}: pairwise models of real units are in energies.gaussian."
        )
