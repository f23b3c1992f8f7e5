"""Provenance of the cached VQ codes: they only fit a model with the same encoder and image size that made them.

``janus-train tokenize`` adds ``KEY.codes.npy`` members to a tar, and before them one hidden member, `RECORD`, with their
origin. A shard's index repeats the origin in its head (``codes``), so that training knows it when it opens the shard.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

RECORD = ".codes.json"
"""The member with the origin; a hidden file, so that no reader takes it for a sample."""
UNKNOWN = "unknown"
"""The origin of codes without a record."""
VERSION = 1
"""Version of the conversion from images to codes: the pixels (`data.images.generation_pixels`) and the rule (`model.vq`)."""


@dataclass(frozen=True)
class CodesOrigin:
    """Everything that codes depend on besides the image."""

    encoder: str
    """SHA-256 of the encoder's weights (model/vq.py)."""
    image_size: int
    version: int = VERSION

    def __str__(self) -> str:
        """The origin as an index stores it; 64 bits of the digest distinguish encoders."""
        return f"vq {self.encoder[:16]}, images of {self.image_size}, rule {self.version}"

    def record(self) -> bytes:
        """The content of the tar's `RECORD`."""
        values = {"encoder": self.encoder, "image_size": self.image_size, "version": self.version}
        return json.dumps(values).encode()


def origin_in(record: bytes) -> str:
    """The origin in a tar's `RECORD`, as a string; `UNKNOWN` if it cannot be read."""
    try:
        values: Any = json.loads(record)
        encoder, size, version = values["encoder"], values["image_size"], values["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return UNKNOWN
    is_valid = isinstance(encoder, str) and type(size) is int and type(version) is int
    return str(CodesOrigin(encoder, size, version)) if is_valid else UNKNOWN
