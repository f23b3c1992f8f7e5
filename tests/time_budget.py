"""pytest's option ``--time-budget``: tests that would start after it are skipped by name, for CI's slow tests."""

from __future__ import annotations

import time

import pytest

_DEADLINE = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--time-budget", type=float, metavar="SECONDS", help="skip the tests that would start later than this"
    )


def pytest_configure(config: pytest.Config) -> None:
    budget = config.getoption("--time-budget")
    config.stash[_DEADLINE] = float("inf") if budget is None else time.monotonic() + budget


@pytest.hookimpl(tryfirst=True)  # before the test's fixtures, which may be what takes long
def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.monotonic() >= item.config.stash[_DEADLINE]:
        pytest.skip(f"no time left: {item.nodeid}")
