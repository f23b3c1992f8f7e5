"""Shapes for tests: the project's own model files, with some keys changed."""

from __future__ import annotations

import yaml

from janus_train.config import ModelConfig
from janus_train.paths import ROOT


def model_config(name: str, **changes: object) -> ModelConfig:
    """configs/model/``name``.yaml; a dict among ``changes`` replaces only its own keys of that group."""
    values = yaml.safe_load((ROOT / "configs" / "model" / f"{name}.yaml").read_text())
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return ModelConfig(**values)
