"""Whose codes a shard holds: codes are only of use to a model with the very encoder, and the image size, that made them.

``janus-train tokenize`` adds ``KEY.codes.npy`` members to a tar, and before them one hidden member, `RECORD`, that says
where they come from. A shard's index repeats it in its head (``codes``), so that training knows it when it opens the shard.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from janus_train.data.templates import get_template
from janus_train.errors import UserError

if TYPE_CHECKING:
    from janus_train.data.recipe import Recipe

RECORD = ".codes.json"
"""The tar's member; a hidden file, so that no reader takes it for a sample."""
UNKNOWN = "unknown"
"""The origin of codes without a record."""
VERSION = 1
"""Version of the way from an image to codes: its pixels (`data.images.generation_pixels`) and the rule (`model.vq`)."""


@dataclass(frozen=True)
class CodesOrigin:
    """What codes depend on besides the image."""

    encoder: str
    """SHA-256 of the encoder's weights (model/vq.py)."""
    image_size: int
    version: int = VERSION

    def __str__(self) -> str:
        """As it stands in an index; 64 bits of the digest tell encoders apart."""
        return f"vq {self.encoder[:16]}, images of {self.image_size}, rule {self.version}"

    def record(self) -> bytes:
        """The content of the tar's `RECORD`."""
        values = {"encoder": self.encoder, "image_size": self.image_size, "version": self.version}
        return json.dumps(values).encode()


def origin_in(record: bytes) -> str:
    """The origin that a tar's `RECORD` names, as a text; `UNKNOWN` if it cannot be read."""
    try:
        values: Any = json.loads(record)
        encoder, size, version = values["encoder"], values["image_size"], values["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return UNKNOWN
    fits = isinstance(encoder, str) and type(size) is int and type(version) is int
    return str(CodesOrigin(encoder, size, version)) if fits else UNKNOWN


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
