"""Energy-based models with fast samplers, in JAX and Flax."""

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "EnergyDetector": "megjax.estimators.detector",
    "PyODEnergyDetector": "megjax.estimators.detector",
    "RBM": "megjax.estimators.rbm",
}


def __getattr__(name: str):
    # On demand, so that `import megjax` is quick and takes neither JAX nor sklearn.
    if name not in _EXPORTS:
        raise AttributeError(f"module 'megjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__():
    return sorted([*globals(), *_EXPORTS])
