"""What pip installs: one list of ranges, in two files, and a tested set within them."""

import pathlib
import re
import tomllib

from packaging import requirements

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CORE = {
    *("jax", "jaxlib", "flax", "optax", "chex", "numpy", "orbax-checkpoint"),
    *("ml_collections", "absl-py", "tqdm"),
}


def listed(name):
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_core_is_small():
    names = {requirements.Requirement(line).name for line in PROJECT["dependencies"]}
    assert names == CORE


def test_one_file_installs_everything():
    groups = [g for name, g in EXTRAS.items() if name not in ("all", "docs")]
    everything = {*PROJECT["dependencies"], *(line for g in groups for line in g)}
    assert sorted(listed("requirements.txt")) == sorted(everything)


def test_all_extras_are_in_all():
    (line,) = EXTRAS["all"]
    assert requirements.Requirement(line).extras == set(EXTRAS) - {"all", "dev", "docs"}


def test_the_tested_set_is_within_the_ranges():
    def normal(name):
        return re.sub(r"[-_.]+", "-", name).lower()

    pinned = [requirements.Requirement(line) for line in listed("constraints.txt")]
    versions = {normal(one.name): str(one.specifier)[2:] for one in pinned}
    for line in listed("requirements.txt"):
        wanted = requirements.Requirement(line)
        assert wanted.specifier.contains(versions[normal(wanted.name)]), line
