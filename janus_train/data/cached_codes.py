"""Checks that the cached codes in a recipe's shards come from the model's own VQ encoder."""

from __future__ import annotations

from typing import Any

from janus_train.data.recipe import Recipe
from janus_train.data.shards.vq_codes import CodesOrigin
from janus_train.data.sources.registry import template_of
from janus_train.errors import UserError


def check_codes(recipe: Recipe, model: CodesOrigin) -> None:
    """Raise `UserError` if a source that uses cached codes has codes of another encoder than this model's."""
    for config, source in [*recipe.sources.values(), *recipe.validation.values()]:
        origins: dict[str, Any] = getattr(source, "codes_origins", {}) if template_of(config).reads_codes else {}
        for origin, tar in origins.items():
            if origin not in ("", str(model)):
                raise UserError(
                    f"source {config.name!r}: the cached codes in {tar} come from another encoder or image size ({origin}; the "
                    f"model's: {model}): replace them with janus-train tokenize {tar} --model FOLDER --replace"
                )
