from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TWO_TESTS = """
import time, pytest

@pytest.fixture
def costly():
    print("the fixture ran")

def test_first():
    time.sleep(0.6)

def test_second(costly):
    print("the test ran")
"""


@pytest.mark.parametrize(
    ("options", "passed"),
    [((), 2), (("--time-budget", "60"), 2), (("--time-budget", "0.5"), 1), (("--time-budget", "-9"), 0)],
)
def test_what_would_start_after_the_budget_is_skipped_by_name(
    pytester: pytest.Pytester, options: tuple[str, ...], passed: int
) -> None:
    pytester.makepyfile(TWO_TESTS)
    done = pytester.runpytest_inprocess("-p", "tests.time_budget", "-p", "no:cacheprovider", "-s", "-rs", *options)
    done.assert_outcomes(passed=passed, skipped=2 - passed)
    if passed < 2:
        done.stdout.fnmatch_lines(["SKIPPED * no time left: *.py::test_second"])
        done.stdout.no_fnmatch_line("*the fixture ran*")
