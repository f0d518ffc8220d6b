"""A spread of the bad inputs of `tests.robustness.fuzz`, and that it notices a bad answer."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.robustness import bad_input, fuzz

ROOT = pathlib.Path(__file__).resolve().parents[2]
CASE = bad_input.Case("kind", "name", "train.py", [])
TRACEBACK = "Traceback (most recent call last):\n  ...\nKeyError: 3\n"


def test_every_case_has_its_own_title():
    titles = [case.title for case in bad_input.cases()]
    assert len(titles) == len(set(titles)) >= 300
    assert len({case.kind for case in bad_input.cases()}) >= 14


@pytest.mark.slow
def test_a_spread_of_mistakes_is_told_in_one_line():
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.fuzz", "--quick", "--num=15"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split()[:3] == ["all", "15", "0"]


@pytest.mark.parametrize(
    ("answer", "case", "fault"),
    [
        ((1, "", "error: no such file\n"), CASE, None),
        ((1, "", "12:00:00 step 1/2\nerror: no\n"), CASE, None),
        ((1, "", "error: no\n"), CASE._replace(says="yes"), "did not say"),
        ((0, "", ""), CASE, "was accepted"),
        ((1, "", "error: no\n"), CASE._replace(refused=False), "was refused"),
        ((0, "", ""), CASE._replace(refused=False), None),
        ((None, "", ""), CASE, "did not end in time"),
        ((1, "", TRACEBACK), CASE, "traceback"),
        ((-6, "", "error: no\n"), CASE, "traceback, status -6"),
        ((1, "", "warning: no\nerror: no\n"), CASE, "more, or less, than one line"),
        ((1, "half a table\n", "error: no\n"), CASE, "more, or less, than one line"),
        ((1, "half a table\n", "error: no\n"), CASE._replace(writes=True), None),
        ((1, "", ""), CASE, "more, or less, than one line"),
        ((1, "", "error: 'NoneType' object\n"), CASE, "a person's words"),
    ],
)
def test_answers_are_judged(answer, case, fault):
    found = fuzz.fault(case, fuzz.Answer(*answer, seconds=1.0), {}, {})
    assert found is None if fault is None else fault in found


def test_a_refusal_must_leave_every_file_as_it_was():
    refusal = fuzz.Answer(1, "", "error: no\n", 1.0)
    before = {"run/a": "1", "run/b": "2"}
    for after in ({"run/a": "1"}, before | {"run/b": "3"}, before | {"c": "4"}):
        assert "changed" in fuzz.fault(CASE, refusal, before, after)
    writes = CASE._replace(writes=True)
    assert fuzz.fault(writes, refusal, before, before | {"c": "4"}) is None
    assert "run/b" in fuzz.fault(writes, refusal, before, {"run/a": "1"})
