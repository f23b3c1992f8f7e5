"""What matters of the Dockerfile; no Docker engine builds it here, and hadolint (`make check`) reads it for the rest."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch

import yaml

from janus_train.paths import ROOT

NEEDED = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "train.py", "janus_train", "configs", "launch")
"""What building the package and a run with the manifest's command read; the recipes and measurements beside them."""


def instructions() -> list[tuple[str, str]]:
    """(KEYWORD, arguments), with lines that go on joined and comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.split()[0], " ".join(line.split()[1:])) for line in joined if line.strip()]


def arguments(keyword: str) -> list[str]:
    return [rest for word, rest in instructions() if word == keyword]


def pod() -> dict:
    [replicated] = yaml.safe_load((ROOT / "launch/kubernetes/train.yaml").read_text())["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]["template"]["spec"]


def test_the_base_is_nvidias_and_pinned() -> None:
    [base] = arguments("FROM")
    [version] = [rest.removeprefix("CUDA=") for rest in arguments("ARG") if rest.startswith("CUDA=")]
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu24\.04", base.replace("${CUDA}", version))


def test_it_runs_under_tini_and_not_as_root_and_the_manifest_agrees() -> None:
    [user] = arguments("USER")
    security = pod()["securityContext"]
    assert int(user) == security["runAsUser"] == security["fsGroup"] > 0 and security["runAsNonRoot"]
    assert any(f"useradd --create-home --uid {user} " in rest for rest in arguments("RUN"))
    keywords = [word for word, _ in instructions()]
    assert keywords[keywords.index("USER") :] == ["USER", "ENTRYPOINT", "CMD"]  # nothing is installed as the user
    [entrypoint] = arguments("ENTRYPOINT")
    assert json.loads(entrypoint) == ["tini", "--"] == pod()["containers"][0]["command"][:2]
    assert any(" tini " in f"{rest} " for rest in arguments("RUN"))


def test_the_manifest_names_it_and_starts_in_its_folder() -> None:
    [container] = pod()["containers"]
    assert f"docker build -t {container['image']} ." in (ROOT / "Dockerfile").read_text()
    assert [container["workingDir"]] == arguments("WORKDIR")


def test_everything_is_installed_by_the_constraints() -> None:
    installs = [rest for rest in arguments("RUN") if "pip install" in rest]
    assert len(installs) == 2 and all("-c constraints.txt" in rest for rest in installs)


def test_what_is_copied_exists_and_is_not_left_out() -> None:
    sources = [rest.split()[0] for rest in arguments("COPY")]
    assert sources == ["constraints.txt", "."]
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    needed = [*NEEDED, "constraints.txt", "data_recipes", "benchmarks"]
    assert all((ROOT / name).exists() for name in needed)
    assert not [name for name in needed if any(fnmatch(name, pattern) for pattern in ignored)]
    for name in (".git", ".venv", "outputs"):  # gigabytes, and other people's weights
        assert any(fnmatch(name, pattern) for pattern in ignored)
