"""An exact test of invariance that every reversible kernel can be put to.

Gandy and Scott 2020, Unit Testing for MCMC and other Monte Carlo Methods; ranks as in
Cook, Gelman and Rubin 2006. Needs neither mixing nor standard errors.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from megjax.samplers import kernel as kernels


def p_value(key, kernel, target, *, num_replicates=10_000, num_steps=9):
    """Probability of ranks so uneven if `kernel` leaves `target` invariant.

    target: as `megjax.densities.targets.Target`, with an exact sampler. Every replicate is a
    path of num_steps + 1 states around one exact draw, which stands at a place chosen
    uniformly: the steps after it are the kernel's, and so are those before it, read
    backwards, because the kernel is reversible. The rank of the exact draw among the
    path is then uniform for any function of the position. Small where the kernel is
    wrong. Of the chi-squared p-values of all statistics the smallest, times their number.
    """
    place_key, start_key, walk_key, tie_key = jax.random.split(key, 4)
    shape = (num_replicates,)
    places = np.asarray(jax.random.randint(place_key, shape, 0, num_steps + 1))
    starts = target.sample(start_key, num_replicates)
    keys = jax.random.split(walk_key, (2, num_replicates))
    at_start, walked = _walked(kernel, target.log_density, num_steps, keys, starts)
    steps = np.arange(1, num_steps + 1)
    used = [steps <= num_steps - places[:, None], steps <= places[:, None]]
    # Broken at random, or rejections, which repeat a state, would bias the ranks.
    ties = np.random.default_rng(np.asarray(jax.random.key_data(tie_key)))
    found = [
        _uniformity(
            # Ties have to be exact, whichever loop computed the two sides.
            np.round(np.asarray(at_start[name], np.float64), 4),
            np.round(np.asarray(walked[name], np.float64), 4),
            np.stack(used),
            ties,
        )
        for name in at_start
    ]
    return min(1.0, len(found) * min(found))


def _statistics(log_density):
    def statistics(x):
        flat = jnp.ravel(x)
        return {
            "first": flat[0],
            "last": flat[-1],
            "square of first": flat[0] ** 2,
            "sum": jnp.sum(flat),
            "log density": log_density(x),
        }

    return statistics


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _walked(kernel, log_density, num_steps, keys, starts):
    """Statistics of starts [N] and after each step of two chains from each [2, N, T]."""
    statistics = _statistics(log_density)

    def walk(key, x):
        return kernels.chain(
            key,
            kernel,
            kernel.init(x),
            num_steps,
            observe=lambda state: statistics(state.position),
        )[1].observations

    there_and_back = jax.vmap(jax.vmap(walk), (0, None))(keys, starts)
    return jax.vmap(statistics)(starts), there_and_back


def _uniformity(at_start, others, used, ties):
    """p-value of the ranks of `at_start` [N] among the used of `others` [2, N, T]."""
    below = np.sum(used & (others < at_start[:, None]), axis=(0, 2))
    equal = np.sum(used & (others == at_start[:, None]), axis=(0, 2))
    ranks = below + ties.integers(0, equal + 1)
    counts = np.bincount(ranks, minlength=others.shape[2] + 1)
    return stats.chisquare(counts).pvalue
