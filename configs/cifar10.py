"""CIFAR-10: Kumar et al. 2019, table 2 and figure 1.

python train.py --config=configs/cifar10.py
python evaluate.py --workdir=runs/cifar10 --set=evaluation.inception_weights=PATH

The full length needs an accelerator (docs/gpu.md); 60 iterations at width 32 were run on
the real data. Without Inception weights a classifier's feature space gives distances
under other names: python -m megjax.evaluation.classifier --data=cifar10, then
--set=evaluation.classifier=runs/cifar10_classifier/classifier.npz.
"""

import functools

import numpy as np

from configs import base
from megjax.data import images
from megjax.evaluation import fidelity
from megjax.samplers import mala, rwm
from megjax.sampling import draw


def get_config():
    """The reference's settings."""
    config = base.image_config(32)
    config.evaluation = {
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
    config.build = build
    return config


def build(config):
    """MEG on the training split."""
    data = images.tfds_images("cifar10", data_dir=config.data_dir or None)
    built = base.image_meg(config, data)
    return built._replace(protocols=protocols(config.evaluation, data, built.learner))


def protocols(settings, data, learner):
    """Table 2 in each space there is a file for, and figure 1's chains.

    Without a file they say which one is missing.
    """
    spaces = {}
    if settings.classifier:
        spaces["classifier"] = functools.partial(
            base.classifier_space, settings.classifier, "cifar10"
        )
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
    return {"generator": fidelity.generator(learner)} | {
        name: functools.partial(walked, learner, inverse_temperature=beta, **chain)
        for name, chain in chains.items()
    }


def walked(learner, key, state, num, **chain):
    """Ends of chains that start at samples of the learner, and how they moved."""
    walk = draw.run(key, learner, state, num=num, num_snapshots=2, **chain)
    told = {
        "acceptance": float(np.mean(walk.acceptance_rate)),
        "energy_before": float(np.mean(walk.energy[:, 0])),
        "energy_after": float(np.mean(walk.energy[:, -1])),
        "rms_after": float(np.mean(walk.rms[:, -1])),
    }
    return fidelity.Draws(walk.x, told)


def reference(settings, data, space):
    """Statistics of the training set."""
    cache_dir, size = settings.cache_dir, settings.batch_size
    return fidelity.reference(data, space(), cache_dir, batch_size=size)
