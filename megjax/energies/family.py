"""What every closed-form energy offers to samplers, learners and estimates.

Mehta et al. 2019, sections 15 and 16.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from megjax.types import Array, PyTree

Units = tuple[Array, ...]
"""Visible units v [B, n] first, then each hidden layer [B, m]; layers of one chain."""


class Family(NamedTuple):
    """An energy with free parameters: pure functions with their sizes bound.

    init: key -> params, a dict of arrays
    energy: (params, v [B, n]) -> [B], -log p(v) + const with hidden units summed out;
        None where that sum has no closed form
    joint: (params, units) -> [B], the energy of visible and hidden units together;
        without hidden units it is `energy` of (v,)
    posterior: (params, v) -> units, v with the expected hidden units given it: exact
        in one hidden layer, mean field in several
    start: (key, params, v) -> units, a chain that starts at v
    sweep: (key, params, units, inverse_temperature) -> units, one Gibbs sweep that
        leaves exp(-inverse_temperature * joint) invariant; the inverse temperature is a
        number or one per chain [B]. None where conditionals have no closed form
    mean: (params, units) -> E[v | hidden] [B, n], for pictures

    The joint energy is affine in each expected layer as far as parameters go, so that
    its gradient at `posterior` is the gradient of the free energy (exact in one layer).
    """

    init: Callable[..., dict[str, Any]]
    energy: Callable[..., Array] | None
    joint: Callable[[PyTree, Units], Array]
    posterior: Callable[[PyTree, Array], Units]
    start: Callable[..., Units]
    sweep: Callable[..., Units] | None
    mean: Callable[[PyTree, Units], Array] | None
