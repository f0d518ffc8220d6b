"""The samplers' tests once more under JAX_ENABLE_X64=1, in a process of their own."""

import os
import pathlib
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parent


@pytest.mark.parametrize(
    "names",
    [
        ("test_rwm.py",),
        pytest.param((), marks=pytest.mark.slow, id="all"),
    ],
)
def test_samplers_in_64_bits(names):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "not slow"]
    command += ["-p", "no:cacheprovider", f"--ignore={__file__}"]
    paths = [FOLDER / name for name in names] or [FOLDER]
    found = subprocess.run(
        [*command, *map(str, paths)],
        cwd=FOLDER.parents[1],
        env=os.environ | {"JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-3000:]
