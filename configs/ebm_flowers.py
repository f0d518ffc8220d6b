"""An energy of Oxford flowers by persistent contrastive divergence, sampled by its own
learned proposal: Li, Chen and Sommer 2021 (proposal entropy), section 5.2.

python train.py --config=configs/ebm_flowers.py --config.data_dir=DIR
python train.py --config=configs/ebm_flowers.py:mala --config.data_dir=DIR

The paper says 28x28 and takes its images from code that makes them 32x32. The full
length needs an accelerator (docs/gpu.md); `ebm_digits` is the size for a CPU.
"""

import functools

from configs import base, ebm_digits
from megjax.evaluation import fidelity
from megjax.recipes import image_sets


def get_config(sampler="neural"):
    """5 bits, 10,000 chains, 40 transitions, acceptance 0.6; the rest is ours."""
    config = ebm_digits.ebm_config(sampler)
    config.data_dir = ""
    config.dataset, config.image_size = "oxford_flowers102", 32
    config.batch_size, config.width = 100, 64
    config.evaluation.update(
        {
            # A file; without it there is no FID.
            "inception_weights": "",
            "cache_dir": "~/.cache/megjax",
            "num_samples": 8189,
        }
    )
    config.train.update({"num_steps": 20_000, "evaluate_every": 2000})
    config.build = build
    return config


def build(config):
    """On all three splits, 8,189 images."""
    data = image_sets.data(config)
    built = ebm_digits.image_energy(config, data)
    if not config.evaluation.inception_weights:
        return built
    inception = fid(config.evaluation, data, built.learner)
    return built._replace(protocols={**built.protocols, "inception": inception})


def fid(settings, data, learner):
    """Chains of the buffer against the images without noise, in Inception's features."""
    base.at_least("evaluation.num_samples", settings.num_samples, 10)
    weights, cache_dir = settings.inception_weights, settings.cache_dir
    space = functools.cache(lambda: fidelity.inception_space(weights))
    return fidelity.fidelity(
        fidelity.generator(learner),
        space,
        functools.cache(lambda: fidelity.reference(data, space(), cache_dir)),
        num_samples=settings.num_samples,
    )
