from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from janus_train.train import provenance


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository with one commit, taken for the checkout; the commit."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), (*identity, "commit", "-q", "--allow-empty", "-m", "one")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_the_checkouts(repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.commit() == repository
    monkeypatch.setattr(provenance, "IS_CHECKOUT", False)  # installed somewhere inside another project's repository
    assert provenance.commit() is None


def test_without_git_there_is_no_commit(repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit() is None


def test_versions_are_those_of_this_package_python_and_what_is_named() -> None:
    named = provenance.versions("torch", "pytest")
    assert list(named) == ["janus_train", "torch", "pytest", "python"]
    assert named["torch"] == torch.__version__ and named["pytest"] == pytest.__version__


@pytest.mark.parametrize(
    ("before", "now", "warns"),
    [("12.3.0", "12.0.0", False), ("12.3.0", "13.0.0", True), ("13.1.0", "12.3.0", True), (None, "13.0.0", False)],
)
def test_another_major_version_of_pillow_is_said(
    monkeypatch: pytest.MonkeyPatch, before: str | None, now: str, warns: bool
) -> None:
    monkeypatch.setattr(provenance, "version", lambda package: now)
    warning = provenance.pillow_warning({"pillow": before} if before else {})
    assert (warning is not None) == warns
    assert not warning or (f"Pillow {before}" in warning and f"pip install pillow=={before}" in warning)
