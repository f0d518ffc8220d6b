"""Energy-based models with fast samplers, in JAX and Flax.

Names are imported when they are first used, so `import megjax` costs nothing.
"""

import importlib

__version__ = "0.2.0"

_MODULES = (
    *("data", "densities", "energies", "errors", "evaluation", "learners", "losses"),
    *("metrics", "networks", "recipes", "samplers", "sampling", "training"),
)
_NAMES = {
    "megjax.api": (
        *("Model", "evaluate", "fit", "load", "load_pretrained", "load_weights"),
        "train",
    ),
    "megjax.data.dataset": ("Dataset",),
    "megjax.densities.targets": ("Target",),
    "megjax.estimators.detector": ("EnergyDetector", "PyODEnergyDetector"),
    "megjax.estimators.rbm": ("RBM",),
    "megjax.learners.base": ("Learner", "Player"),
    "megjax.learners.contrastive": ("contrastive",),
    "megjax.learners.deep_directed": ("deep_directed",),
    "megjax.learners.meg": ("meg",),
    "megjax.learners.noise_contrastive": ("noise_contrastive",),
    "megjax.learners.proposal": ("proposal",),
    "megjax.learners.replay": ("replay",),
    "megjax.learners.wgan_gp": ("wgan_gp",),
    "megjax.losses": (
        *("batch_norm_entropy", "donsker_varadhan", "energy_contrast"),
        *("gradient_penalty", "info_nce", "jensen_shannon", "penalised_energy"),
        *("norm_deviation", "pixel_norm_deviation", "squared_score", "variational"),
    ),
    "megjax.metrics.energy_distance": ("energy_distance",),
    "megjax.metrics.mcmc": ("effective_sample_size", "r_hat"),
    "megjax.networks.heads": ("Energy", "Posterior", "Statistics"),
    "megjax.samplers.bijectors": ("Bijector", "interval", "positive"),
    "megjax.samplers.gibbs": ("gibbs",),
    "megjax.samplers.hmc": ("hmc",),
    "megjax.samplers.kernel": ("Info", "Kernel"),
    "megjax.samplers.mala": ("mala",),
    "megjax.samplers.rwm": ("rwm",),
    "megjax.sampling.density": ("sample",),
    "megjax.training.experiment": ("Experiment", "Recipe"),
    "megjax.types": ("Report",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted([*_MODULES, *_HOME])  # noqa: PLE0605


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"megjax.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'megjax' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
