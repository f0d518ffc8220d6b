"""What is measured on CIFAR-10: Kumar et al. 2019, table 2 and figure 1."""

import functools

from megjax.evaluation import fidelity
from megjax.samplers import mala, rwm


def evaluation():
    """The group `evaluation` of a config."""
    return {
        # Files; the public weights, and a classifier of CIFAR-10 for use without them.
        "inception_weights": "",
        "classifier": "",
        # Statistics of the training set, about 200 MB for Inception.
        "cache_dir": "~/.cache/megjax",
        "num_samples": 50_000,
        "batch_size": 100,
        # The paper's code truncates its samples to uint8.
        "rounding": "round",
        # Latent chains, as the paper's code for this table.
        "mala_steps": 5,
        "mala_step_size": 0.01,
        "inverse_temperature": 0.2,
        # Chains in data space, which leave the images.
        "data_steps": 100,
        "data_step_size": 1e-4,
    }


def protocols(settings, data, learner, classifier_space):
    """Table 2 in each space there is a file for, and figure 1's chains.

    Without a file they say which one is missing. classifier_space: file -> its space.
    """
    spaces = {}
    if settings.classifier:
        spaces["classifier"] = functools.partial(classifier_space, settings.classifier)
    if settings.inception_weights or not spaces:
        weights = settings.inception_weights
        spaces["inception"] = functools.partial(fidelity.inception_space, weights)
    found = {}
    for space_name, make_space in spaces.items():
        space = functools.cache(make_space)
        against = functools.cache(functools.partial(reference, settings, data, space))
        for name, sampler in samplers(settings, learner).items():
            found[f"{space_name}_{name}"] = fidelity.fidelity(
                sampler,
                space,
                against,
                num_samples=settings.num_samples,
                batch_size=settings.batch_size,
                rounding=settings.rounding,
            )
    return found


def samplers(settings, learner):
    """Generator, latent MALA without and with prior, and two chains in data space."""
    latent = {
        "space": "latent",
        "steps": settings.mala_steps,
        "step_size": settings.mala_step_size,
    }
    visible = {
        "space": "data",
        "steps": settings.data_steps,
        "step_size": settings.data_step_size,
    }
    chains = {
        "latent_mala": latent | {"prior": "none"},
        "latent_mala_prior": latent | {"prior": "gaussian"},
        "data_mala": visible | {"kernel_fn": mala.mala},
        "data_random_walk": visible | {"kernel_fn": rwm.rwm},
    }
    beta = settings.inverse_temperature
    chain_ends = functools.partial(fidelity.chain_ends, learner)
    return {
        "generator": fidelity.generator(learner),
        **{
            name: functools.partial(chain_ends, inverse_temperature=beta, **chain)
            for name, chain in chains.items()
        },
        **fidelity.by_ratio(learner),
    }


def reference(settings, data, space):
    """Statistics of the training set."""
    cache_dir, size = settings.cache_dir, settings.batch_size
    return fidelity.reference(data, space(), cache_dir, batch_size=size)
