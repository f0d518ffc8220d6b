"""Energy-based models with fast samplers, in JAX and Flax."""

__version__ = "0.1.0"
