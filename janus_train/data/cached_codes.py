"""Whether the codes that a recipe's shards hold are those that a model's own encoder would make."""

from __future__ import annotations

from typing import Any

from janus_train.data.recipe import Recipe
from janus_train.data.shards.vq_codes import CodesOrigin
from janus_train.data.templates import get_template
from janus_train.errors import UserError


def check_codes(recipe: Recipe, model: CodesOrigin) -> None:
    """Raises `UserError` if a source that is drawn from has codes that this model's encoder did not make."""
    for config, source in recipe.sources.values():
        origins: dict[str, Any] = (
            getattr(source, "codes_origins", {}) if get_template(config.template).reads_codes else {}
        )
        for origin, tar in origins.items():
            if origin not in ("", str(model)):
                raise UserError(
                    f"source {config.name!r}: the cached codes in {tar} are of another encoder or image size ({origin}; the "
                    f"model's: {model}): make them anew with janus-train tokenize {tar} --model FOLDER --replace"
                )
