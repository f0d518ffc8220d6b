"""What configs that still hold their wiring start from."""

from megjax.recipes.base import (  # noqa: F401
    at_least,
    choice,
    compiler_options,
    compute_dtype,
    optimizer,
    positive,
    rates_of_decay,
)
from megjax.recipes.base import config as get_config  # noqa: F401
