"""What ``import janus_train`` gives, and how little it costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

import janus_train
from janus_train.errors import UserError
from janus_train.paths import ROOT


def test_every_public_name_is_there() -> None:
    for name in janus_train.__all__:
        assert getattr(janus_train, name) is not None
        assert name in dir(janus_train)
        assert name in (janus_train.__doc__ or "") or name == "__version__"


def test_public_names_are_the_internal_ones() -> None:
    assert janus_train.UserError is UserError
    with pytest.raises(janus_train.UserError, match="no such option"):
        janus_train.compose_config(["+stage=1", "optim.learning_rat=1"])


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = janus_train.nothing


def test_importing_the_package_alone_loads_no_library() -> None:
    code = "import sys, janus_train; print([m for m in ('torch', 'transformers', 'pydantic', 'hydra') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_the_version_stands_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "janus_train.__version__"}
