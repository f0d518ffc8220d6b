"""What pyproject.toml cannot say: packages found by themselves and one from elsewhere."""

import setuptools

FOUND = setuptools.find_packages(include=["megjax", "megjax.*"])
setuptools.setup(packages=[*FOUND, "megjax.configs"])
