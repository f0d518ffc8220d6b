"""The density of latents whose images under a generator have low energy.

Section 3.2 of Kumar et al. 2019 (MEG), with the latent prior it leaves out.
"""

from collections.abc import Callable

import jax.numpy as jnp

from megjax.types import Array, EnergyFn

PRIORS = ("none", "gaussian")


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
