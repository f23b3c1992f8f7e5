"""What a conversion is told: one frozen record of options, checked before anything is read."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from janus_train.config import UserError

FormatName = Literal["imagefolder", "captions", "conversations", "parquet", "hf", "text", "webdataset"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)

_TABLES = ("parquet", "hf")
_TAKEN_BY: dict[str, tuple[str, ...]] = {
    "images": ("captions", "conversations"),
    "classes": ("imagefolder", *_TABLES, "webdataset"),
    "class_names": ("imagefolder", *_TABLES, "webdataset"),
    "image_field": ("captions", "conversations", *_TABLES),
    "text_field": ("captions", *_TABLES, "text", "webdataset"),
    "columns": ("captions", "text"),
    "captions": ("captions", *_TABLES, "webdataset"),
    "form": ("captions", *_TABLES, "webdataset"),
    "question": ("captions", *_TABLES, "webdataset"),
    "samples": _TABLES,
    "split": ("hf",),
    "url_encoded": ("captions", "text", *_TABLES, "webdataset"),
    "drop_empty": ("captions", "text", *_TABLES, "webdataset"),
    "min_pictures": ("captions", "conversations", *_TABLES, "webdataset"),
    "max_pictures": ("captions", "conversations", *_TABLES, "webdataset"),
    "max_side": ("imagefolder", "captions", "conversations", *_TABLES, "webdataset"),
}
"""Option -> the formats for which it means something; options that stand not here go with every format."""


@dataclass(frozen=True)
class PrepareOptions:
    """Everything the bytes of the shards depend on. Kept in the prepared folder, which other options do not touch."""

    format: FormatName
    inputs: tuple[str, ...]
    images: str | None = None
    """Folder that the records' picture paths start from; None: the folder of the file that holds the record."""
    classes: str | None = None
    """File with the classes' names."""
    class_names: Literal["first", "all"] = "first"
    """Of ``tench, Tinca tinca`` the first name or all."""
    image_field: str | None = None
    text_field: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """Names of the columns of a CSV without a line of names."""
    captions: Literal["first", "each", "longest"] = "first"
    """What becomes of several captions of a picture."""
    form: Literal["plain", "draw", "ask"] = "plain"
    """A caption as it is, as a conversation that asks for the picture, or as one that asks about it."""
    question: str | None = None
    samples: Literal["pairs", "conversation"] = "pairs"
    """A row with several questions and answers: a sample for each, or one conversation."""
    split: str | None = None
    url_encoded: bool = False
    drop_empty: bool = False
    min_pictures: int = 0
    max_pictures: int | None = None
    max_side: int | None = None
    shard_size: int = 256 << 20
    shard_samples: int | None = None

    def identity(self) -> dict[str, Any]:
        """JSON of all options."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def check(self) -> None:
        """Raises `UserError` for an option that means nothing here or contradicts another."""
        for field in fields(self):
            formats = _TAKEN_BY.get(field.name)
            if formats is not None and self.format not in formats and getattr(self, field.name) != field.default:
                raise UserError(
                    f"{flag(field.name)} means nothing for {self.format}: it is for {', '.join(formats)}; leave it out"
                )
        if self.form == "ask" and not self.question:
            raise UserError("--form ask needs --question: what is asked about each picture")
        if self.form != "ask" and self.question is not None:
            raise UserError("--question means nothing without --form ask")
        if self.max_pictures is not None and self.max_pictures < self.min_pictures:
            raise UserError(f"--max-pictures {self.max_pictures} is less than --min-pictures {self.min_pictures}")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def byte_count(text: str) -> int:
    """``256MB``, ``1.5 GiB`` or ``1000000`` in bytes. Raises `UserError`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", text, re.IGNORECASE)
    if match is None:
        raise UserError(f"--shard-size {text!r} is no size: write 256MB, 1GB or a number of bytes")
    size = int(float(match[1]) * _UNITS[(match[2] or "").lower()])
    if size < 1:
        raise UserError(f"--shard-size {text!r} is no size: it must be at least one byte")
    return size
