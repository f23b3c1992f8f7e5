"""What pyproject.toml allows is what is tested: constraints.txt at its newest, constraints-lowest.txt at its lowest."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from janus_train.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
DEVELOPMENT = [Requirement(text) for text in PROJECT["optional-dependencies"]["dev"]]


def pins(name: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(pinned): Version(version) for pinned, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt"])
def test_every_dependency_is_pinned_to_what_is_allowed(name: str) -> None:
    pinned = pins(name)
    for requirement in RUNTIME + DEVELOPMENT:
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_the_lowest_are_the_bounds_except_for_torch() -> None:
    lowest = pins("constraints-lowest.txt")
    for requirement in RUNTIME:
        [bound] = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
        if requirement.name != "torch":
            assert lowest[canonicalize_name(requirement.name)] == bound, requirement
    assert lowest["torch"] == pins("constraints.txt")["torch"]  # the one that a CPU has


def test_the_documentation_installs_the_torch_that_was_tested() -> None:
    for page in ("docs/clusters.md", "docs/quickstart.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert set(re.findall(r"torch==([\d.]+)", text)) == {str(pins("constraints.txt")["torch"])}, page
