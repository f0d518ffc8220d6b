"""Float64 for every test here, and compilation that does not optimise: programs are
many and small.
"""

import jax
import pytest


@pytest.fixture(autouse=True)
def double():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", before)
