from __future__ import annotations

from pathlib import Path

import pytest

from janus_train.paths import CONFIGS, IS_CHECKOUT, ROOT, resolve


def test_a_checkout_is_read_where_it_stands() -> None:
    assert IS_CHECKOUT
    assert (ROOT / "pyproject.toml").is_file() and (CONFIGS / "train.yaml").is_file()


def test_what_stands_in_the_working_directory_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("data_recipes/stage1.yaml") == ROOT / "data_recipes/stage1.yaml"
    (tmp_path / "data_recipes").mkdir()
    (tmp_path / "data_recipes/stage1.yaml").touch()
    assert resolve("data_recipes/stage1.yaml") == Path("data_recipes/stage1.yaml")
    assert resolve(str(tmp_path / "none")) == tmp_path / "none"
