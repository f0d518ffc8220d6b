"""The density of latents whose images under a generator have low energy.

Section 3.2 of Kumar et al. 2019 (MEG), with the latent prior it leaves out.
"""

from collections.abc import Callable

import jax.numpy as jnp

from megjax.samplers import kernel, tempering
from megjax.types import Array, EnergyFn, LogDensityFn

PRIORS = ("none", "gaussian")
PRIOR_STEP_SIZE = 1.0
"""Of MALA on the prior alone, in the hottest replica that moves in steps."""


def log_density(
    energy_fn: EnergyFn,
    *,
    inverse_temperature: float | Array = 1.0,
    prior: str = "gaussian",
) -> Callable[[Array], tuple[Array, Array]]:
    """z [k] -> (log pi(z), energy of z), for kernels with `has_aux=True`.

    energy_fn: E(G(z)) of a batch, z [1, k] -> [1], with G in inference mode: batch
    statistics would couple the chains. Raises ValueError at an unknown prior.

    prior "gaussian": pi(z) = N(z; 0, I) exp(-beta E(G(z))). Its push-forward is the
    generator's density tilted by the energy, p_G(x) exp(-beta E(x)), and at beta = 0
    the generator itself.
    prior "none", the paper's eq. 10: pi(z) = exp(-beta E(G(z))). With a generator of
    bounded range it is not normalisable, and a chain leaves the prior like the free
    walk, rms(z) = sqrt(1 + 2 a t) after t steps of size a. With energy_fn = E it is
    the density exp(-beta E(x)) of a chain in data space.
    Neither prior has the Jacobian of G, so neither gives exp(-E) in data space.
    """
    if prior not in PRIORS:
        raise ValueError(f"prior={prior!r}: choose one of {', '.join(PRIORS)}.")

    def log_pi(z: Array) -> tuple[Array, Array]:
        energy = energy_fn(z[None])[0]
        log_prior = -0.5 * jnp.sum(z**2) if prior == "gaussian" else 0.0
        return log_prior - inverse_temperature * energy, energy

    return log_pi


def tempered(
    log_density_fn: LogDensityFn, *, step_size: float | Array, num_replicas: int = 8
) -> kernel.Kernel:
    """Parallel tempering of latents [k], from N(0, I) to p(z) exp(-beta E(G(z))).

    log_density_fn: `log_density` of the prior "gaussian", its value alone. Replicas
    have N(0, I) exp(-b beta E) for b evenly from 1 to 0, move by MALA and swap
    (`tempering`); the last is drawn from the prior afresh in every step, so chains
    reach whatever the generator draws. step_size: of the target's replica; hotter
    ones go over to `PRIOR_STEP_SIZE`, in equal ratios. A step costs num_replicas
    evaluations. Raises ValueError at fewer than 2 replicas.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from megjax.samplers import latent
    >>> def log_density(z):
    ...     return -jnp.sum(z**2) / 2 - 10 * jnp.cos(3 * z[0])
    >>> kernel = latent.tempered(log_density, step_size=0.05)
    >>> state, info = kernel.step(jax.random.key(0), kernel.init(jnp.ones(2)))
    >>> state.position.shape, int(info.num_integration_steps)
    ((2,), 8)
    """
    if num_replicas < 2:
        raise ValueError(f"num_replicas={num_replicas}: give at least 2.")
    betas = jnp.linspace(1.0, 0.0, num_replicas)
    step_sizes = PRIOR_STEP_SIZE * (step_size / PRIOR_STEP_SIZE) ** betas[:-1]
    return tempering.tempering(
        log_density_fn,
        inverse_temperatures=betas,
        step_sizes=step_sizes,
        reference=tempering.normal(0.0, 1.0),
    )
