"""Every test here is in float64, and compiles many small programs."""

import pytest


@pytest.fixture(autouse=True)
def exact_and_quick(float64, quick_compilation):
    pass
