"""Parts of a record for templates: its texts and its images, or a `BadSample` that says what is wrong with them."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from janus_train.data.conversations import unread_tag
from janus_train.data.special_tokens import SPECIAL_TOKENS
from janus_train.data.types import BadSample, Record, Segment

_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


def text_of(record: Record, name: str) -> str:
    """The text in a field. Raises `BadSample` if it is empty or has a special token."""
    value = string_of(record, name)
    check_special(name, value)
    return value


def string_of(record: Record, name: str) -> str:
    """The string in a field, whatever is in it but white space. Raises `BadSample`."""
    value = record.fields.get(name)
    if isinstance(value, list) and value:
        raise BadSample(
            f"field {name!r} has {len(value)} values where the template takes one text: make a sample of each, or one "
            "conversation of all"
        )
    if not isinstance(value, str):
        raise BadSample(f"field {name!r} is missing or not a string")
    if not value.strip():
        raise BadSample(f"field {name!r} is empty")
    return value


def words_of(record: Record, name: str) -> str:
    """A text beside an image, in which no tag of other layouts may stand for the image."""
    words = text_of(record, name)
    check_tags(name, words)
    return words


def check_special(name: str, words: str) -> None:
    """Raises `BadSample` for words of the field ``name`` with a special token."""
    special = _SPECIAL.search(words)
    if special:
        raise BadSample(f"field {name!r} contains the special token {special[0]}")


def check_tags(name: str, words: str) -> None:
    """Raises `BadSample` for words with a tag that stands for an image elsewhere."""
    tag = unread_tag(words)
    if tag:
        raise BadSample(f"field {name!r} has the tag {tag}: it would be learned as words")


def images_and_codes(record: Record) -> list[tuple[Image.Image, np.ndarray | None]]:
    """The record's images, each with its cached codes if there are any."""
    return list(zip(record.images, record.codes or [None] * len(record.images), strict=True))


def images_in(record: Record) -> list[Segment]:
    """All of the record's images, to look at. Raises `BadSample` if it has none."""
    if not record.images:
        raise BadSample("0 images where the template takes 1 or more")
    return [Segment("image_in", image=image) for image in record.images]


def image_out(record: Record) -> Segment:
    """The record's one image, to generate. Raises `BadSample` for another number of images."""
    if len(record.images) != 1:
        hint = ": several images are drawn in a conversation or an interleaved document" if record.images else ""
        raise BadSample(f"{len(record.images)} images where the template takes 1{hint}")
    image, codes = images_and_codes(record)[0]
    return Segment("image_out", image=image, codes=codes)
