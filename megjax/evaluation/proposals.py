"""How fast a trained proposal samples its target, with the proposal frozen.

Li, Chen and Sommer 2021, "A Neural Network MCMC Sampler That Maximizes Proposal
Entropy", table 1 and figure 1; every definition of its table is reported.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from megjax import plotting
from megjax.evaluation import pictures
from megjax.learners import proposal
from megjax.learners.base import Learner
from megjax.metrics import grid_density, mcmc
from megjax.sampling import draw
from megjax.types import Evaluation, LogDensityFn, Report, SharedEvaluation


class Trial(NamedTuple):
    """A target, and how to sample it.

    start_fn: (key, learner state, num) -> positions [num, dim]. num_gradients: of a
    transition, those of the reverse move included. burn_in: transitions that are thrown
    away.
    mean, variance: of the coordinates [dim], None where unknown.
    """

    log_density_fn: LogDensityFn
    start_fn: Callable
    num_gradients: int
    num_chains: int
    num_steps: int
    burn_in: int = 0
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None


def efficiency(learner: Learner, trial: Trial) -> Evaluation:
    """An evaluation of chains of the trained kernel, as `chains.report` defines it.

    Also ess_above per gradient and per 5000 transitions, the columns of the paper.
    """

    @SharedEvaluation
    def evaluate(key, state):
        draws, seconds = _chains(learner, trial, key, state)
        x = draws.observations["x"]
        found = mcmc.report(
            x,
            gradients_per_draw=trial.num_gradients or np.nan,
            seconds=seconds,
            mean=trial.mean,
            variance=trial.variance,
        )
        above = found["ess_above"]
        found["ess_above_per_gradient"] = above / (trial.num_gradients or np.nan)
        found["ess_above_per_5000"] = 5000 * above
        found |= mcmc.acceptance(**draws.infos)
        found["longest_rejection_run"] = mcmc.longest_rejection_run(x)
        return Report(found, pictures.chains(x))

    return evaluate


def first_marginal(learner: Learner, trial: Trial, *, std: float) -> Evaluation:
    """An evaluation of a coordinate x0 that is N(0, std^2), such as a funnel's.

    Of one draw per chain, the last, from starts at N(0, I): these are independent, so
    that the p-value of the Kolmogorov-Smirnov distance means what it says. Also the
    share of draws below -2 std and above 2 std; 0.0228 each where all is well.
    """

    def starts(key, state, num):
        return jax.random.normal(key, trial.start_fn(key, state, num).shape)

    fresh = trial._replace(start_fn=starts, burn_in=trial.burn_in + trial.num_steps - 1)

    @SharedEvaluation
    def evaluate(key, state):
        draws, _ = _chains(learner, fresh._replace(num_steps=1), key, state)
        first = np.float64(draws.observations["x"][:, -1, 0]) / std
        test = stats.kstest(first, "norm")
        return Report(
            {
                "ks_distance": float(test.statistic),
                "ks_p_value": float(test.pvalue),
                "std_ratio": float(first.std()),
                "share_below": float(np.mean(first < -2)),
                "share_above": float(np.mean(first > 2)),
            }
        )

    return evaluate


def planar(spec: proposal.Spec, points: np.ndarray, *, num: int = 600) -> Evaluation:
    """An evaluation that shows proposals from points [N, 2] of the plane (figure 1).

    Accepted ones in blue and rejected ones in red, over the target.
    """
    reach = 1.5 * float(np.max(np.abs(points)))
    grid = grid_density.grid(size=200, extent=reach)

    @jax.jit
    def proposed(key, state, point):
        noise_key, accept_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (num, 2))
        x = jnp.broadcast_to(point, (num, 2))
        moves, _ = proposal.proposals(spec, state, x, noise)
        log_uniform = -jax.random.exponential(accept_key, (num,))
        return moves.state.position, log_uniform < proposal.ratios(moves)

    def evaluate(key, state):
        energies = grid_density.grid_energies(
            partial(proposal.energy, spec, state), grid
        )
        masses = np.exp(np.asarray(grid_density.cell_log_masses(energies, 1.0)))
        window = {
            "density": masses.reshape(grid.size, grid.size),
            "extent": (-reach, reach, -reach, reach),
        }
        pictures = {}
        for i, point in enumerate(np.asarray(points, np.float32)):
            found = proposed(jax.random.fold_in(key, i), state, point)
            ends, accepted = map(np.asarray, found)
            pictures[f"from_{i}"] = plotting.scatter(
                ends[accepted],
                rejected=ends[~accepted],
                paths=point[None, None],
                title=f"accepted {accepted.mean():.2f}",
                **window,
            )
        return Report({}, pictures)

    return evaluate


def _chains(learner, trial, key, state) -> tuple[draw.Draws, float]:
    """Draws after the burn-in, and their seconds without compilation."""
    start_key, burn_key, chain_key = jax.random.split(key, 3)
    kernel_fn = draw.bound(_kernel, learner.kernel, trial.log_density_fn)
    chain = draw.of_kernel(kernel_fn, _position)
    starts = trial.start_fn(start_key, state, trial.num_chains)
    states = draw.start(chain, state, starts)
    burnt = draw.chains(
        *(burn_key, chain, state, states), num_steps=0, burn_in=trial.burn_in
    )
    per_call = math.gcd(trial.num_steps, draw.STEPS_PER_CALL)
    chains = partial(
        *(draw.chains, chain_key, chain, state, burnt.states), steps_per_call=per_call
    )
    chains(num_steps=per_call)  # Compiles.
    begin = time.perf_counter()
    found = chains(num_steps=trial.num_steps)
    return found, time.perf_counter() - begin


def _kernel(kernel_fn, log_density_fn, state):
    return kernel_fn(state, log_density_fn)


def _position(state, chain_state):
    del state
    return {"x": chain_state.position}
