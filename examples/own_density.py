"""A learned sampler for a density of one's own, with a preconditioner of its chains.

    python train.py --config=examples/own_density.py
    python sample.py --workdir=runs/own_density --config=examples/own_density.py \\
      --space=data --kernel=neural --steps=10000 --keep_draws
"""

import jax.numpy as jnp

from megjax.densities.targets import Target
from megjax.recipes import proposal


def log_density(x):
    """Of one position [3], up to a constant, and twice differentiable."""
    return -0.5 * x[0] ** 2 - 0.5 * jnp.sum((x[1:] - x[0] ** 2) ** 2)


def target(config):
    # Moments as well where they are known, to measure against.
    return Target("own", 3, log_density)


def get_config():
    # It trains on its own chains, which start at N(0, I).
    config = proposal.posterior_config()
    config.recipe = proposal.density(target)
    return config
