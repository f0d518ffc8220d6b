"""Hopfield's associative memory, and pairwise models as machines with hidden units.

Hopfield 1982; Amit, Gutfreund and Sompolinsky 1985 (capacity); Mehta et al. 2019,
eq. 200. A Hopfield model that learns is `rbm.family(..., hidden=units.GAUSSIAN)`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from megjax.energies import units
from megjax.types import Array, Key

CRITICAL_LOAD = 0.138
"""Patterns per unit above which recall breaks down, for many units (Amit et al.)."""


def couplings(patterns: Array) -> Array:
    """Hebb's J [n, n] of patterns [P, n] of spins: xi^T xi / n without its diagonal.

    Mehta et al. leave out the factor 1 / n, which sets the scale of temperature only.
    Raises ValueError for another form, and for patterns of zeros and ones.

    >>> import jax.numpy as jnp
    >>> from megjax.energies.hopfield import couplings
    >>> couplings(jnp.array([[1.0, -1.0]])).tolist()
    [[0.0, -0.5], [-0.5, 0.0]]
    """
    if jnp.ndim(patterns) != 2:
        raise ValueError(
            f"patterns have shape {jnp.shape(patterns)}: give [patterns, units]"
        )
    if not isinstance(patterns, jax.core.Tracer):
        values = set(np.unique(patterns))
        if values <= {0, 1} and 0 in values:
            raise ValueError(
                "patterns are zeros and ones: give spins, 2 * patterns - 1"
            )
    num_units = patterns.shape[1]
    product = patterns.T @ patterns / num_units
    return jnp.where(jnp.eye(num_units), 0.0, product)


def energy(couplings: Array, v: Array) -> Array:
    """-v J v / 2 of spins v [B, n] -> [B]."""
    return -0.5 * jnp.sum((v @ couplings) * v, -1)


def recall(
    key: Key, couplings: Array, v: Array, *, num_sweeps: int = 10
) -> tuple[Array, Array]:
    """Spins [B, n] and energies [num_sweeps + 1, B], the first those of v.

    In every sweep each unit, in random order, takes the sign of its field, or stays
    where that is 0. Each such move lowers the energy by |field| (v' - v)^2 / 2, for a J
    without diagonal, so it never rises. Raises ValueError where the widths differ.
    """
    if jnp.ndim(v) != 2 or v.shape[1] != len(couplings):
        raise ValueError(
            f"v has shape {jnp.shape(v)}: give [states, {len(couplings)}], as many "
            "units as the couplings have"
        )

    def visit(v: Array, i: Array) -> tuple[Array, None]:
        t = v @ couplings[i]
        return v.at[:, i].set(jnp.where(t == 0, v[:, i], jnp.sign(t))), None

    def one(v: Array, key: Key) -> tuple[Array, Array]:
        v, _ = jax.lax.scan(visit, v, jax.random.permutation(key, v.shape[1]))
        return v, energy(couplings, v)

    end, energies = jax.lax.scan(one, v, jax.random.split(key, num_sweeps))
    return end, jnp.concatenate([energy(couplings, v)[None], energies])


def overlap(patterns: Array, v: Array) -> Array:
    """Mean of xi_i v_i [B] between patterns and states [B, n]; 1 where they agree."""
    return jnp.mean(patterns * v, -1)


def capacity(
    key: Key,
    num_units: int,
    loads: tuple[float, ...],
    *,
    num_probes: int = 100,
    flipped: float = 0.0,
    num_sweeps: int = 20,
) -> Array:
    """Mean overlap [len(loads)] of stored random patterns with what they recall.

    loads: patterns per unit, at least one pattern each. At most `num_probes` patterns
    are recalled, each from itself with a fraction `flipped` of its spins changed. The
    overlap falls from near 1 as the load passes `CRITICAL_LOAD`, steeply in many units.
    Raises ValueError for a load that is not positive.
    """
    if min(loads) <= 0:
        raise ValueError(f"loads={loads}: patterns per unit are positive.")

    def one(index: int, load: float) -> Array:
        keys = jax.random.split(jax.random.fold_in(key, index), 3)
        num_patterns = max(1, round(load * num_units))
        shape = num_patterns, num_units
        patterns = jax.random.rademacher(keys[0], shape, float)
        probes = patterns[:num_probes]
        flips = jax.random.uniform(keys[1], probes.shape) < flipped
        v = jnp.where(flips, -probes, probes)
        recalled, _ = recall(keys[2], couplings(patterns), v, num_sweeps=num_sweeps)
        return jnp.mean(overlap(probes, recalled))

    return jnp.stack([one(index, load) for index, load in enumerate(loads)])


def machine(patterns: Array) -> dict[str, Array]:
    """Parameters of the machine with one Gaussian hidden unit per pattern [P, n].

    Its free energy is -v xi^T xi v / (2 n): `energy` of Hebb's couplings minus P / 2,
    for the diagonal (Hubbard-Stratonovich). For `rbm.family` with spin visible units.
    """
    num_patterns, num_units = patterns.shape
    return {
        "weights": patterns.T / jnp.sqrt(num_units),
        "visible_bias": jnp.zeros(num_units, patterns.dtype),
        "hidden_bias": jnp.zeros(num_patterns, patterns.dtype),
    }


def factors(matrix: Array) -> tuple[Array, Array]:
    """(W [n, n], shift []) with J + shift I = W W^T for a symmetric J [n, n].

    The shift is the least that leaves no negative eigenvalue, 0 where there is none:
    without it the factorisation of the paper exists for positive J only. Columns of W
    are eigenvectors times the root of their eigenvalue.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    shift = jnp.maximum(-values[0], 0.0)
    return vectors * jnp.sqrt(jnp.maximum(values + shift, 0.0)), shift


def machine_of(
    bias: Array, matrix: Array, *, kind: units.Kind = units.SPIN
) -> tuple[dict[str, Array], Array]:
    """(params, constant): any pairwise model as a machine with n Gaussian hidden units.

    -bias.v - v J v / 2 is the free energy of `rbm.family` with the visible `kind` (spin
    or Bernoulli) plus `constant`. The shift of the diagonal is a constant of spins; the
    biases of zeros and ones make up for it. Raises ValueError for other kinds.
    """
    names = units.SPIN.name, units.BERNOULLI.name
    if kind.name not in names:
        raise ValueError(f"kind={kind.name}: choose {' or '.join(names)} units.")
    weights, shift = factors(matrix)
    is_spin = kind.name == units.SPIN.name
    params = {
        "weights": weights,
        "visible_bias": bias if is_spin else bias - shift / 2,
        "hidden_bias": jnp.zeros_like(bias),
    }
    return params, shift * len(bias) / 2 if is_spin else jnp.zeros_like(shift)
