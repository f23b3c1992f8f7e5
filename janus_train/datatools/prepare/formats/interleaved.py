"""``interleaved``: documents with images in them, in JSON lines, a JSON list or Parquet; their images are files in a folder.

An image that is not here, or only an address, is left out of its document and counted. The document stays, unless it loses
all of its images.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from PIL import Image

from janus_train.data.conversations import image_name
from janus_train.data.embedded_images import ADDRESS
from janus_train.data.image_files import IMAGE_ENDINGS
from janus_train.data.templates import get_template
from janus_train.data.types import BadSample, Record
from janus_train.data.unused import counting, not_used
from janus_train.datatools.prepare.fields import check_number, name_of
from janus_train.datatools.prepare.formats.listed import RecordFiles, extent_of, picked_image
from janus_train.datatools.prepare.inputs import expand, read_file
from janus_train.datatools.prepare.items import Entry, Item, SkipRecord
from janus_train.datatools.prepare.layouts import ImagePart, LayoutReader, Part
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.records import ENDINGS
from janus_train.datatools.prepare.unused import TrackedRecord

_ENDINGS = (*(ending for ending in ENDINGS if "sv" not in ending), ".parquet")
"""A table of text cannot have lists."""
_STUB = Image.new("RGB", (1, 1))


class InterleavedFormat(RecordFiles):
    """One document per record (`layouts`)."""

    def __init__(self, options: PrepareOptions):
        self._reader = LayoutReader(options, picked_image)
        super().__init__(options)

    def find_files(self) -> list[str]:
        return expand(self.options.inputs, _ENDINGS, "file of documents", beside=IMAGE_ENDINGS)

    def check_fields(self, file: str, names: list[str]) -> None:
        self._reader.check_fields(file, names)

    def images(self, record: dict[str, Any], file: str, location: str) -> list[str | bytes]:
        """The document's images, with addresses as they are: for planning, which compares them with what is there."""
        with counting():
            parts = self._reader.read(record).parts
            places = [self._image(part, file, location) for part in parts if isinstance(part, ImagePart)]
        return [place for place in places if place is not None]

    def item(self, entry: Entry) -> Item:
        file, record = entry.value
        if isinstance(record, SkipRecord):
            raise record
        record = TrackedRecord(record)
        content = self._reader.read(record)
        parts: list[Part] = []
        images: list[str | bytes] = []
        for part in content.parts:
            if isinstance(part, ImagePart):
                image = self._image(part, file, entry.location)
                reason = _why_not_here(image)
                if reason is not None:
                    not_used(reason)
                    continue
                assert image is not None
                images.append(image)
            parts.append(part)
        if not images:
            num_named = sum(isinstance(part, ImagePart) for part in content.parts)
            reason = "no image of the document is here" if num_named else "the document has no image"
            raise SkipRecord(reason, f"{num_named} named" if num_named else "", left_out=True)
        check_number(len(images), self.options)
        fields = {"text": replace(content, parts=parts).text}
        _check(fields, len(images))
        name = name_of(record)
        record.count_unread()
        return Item([fields], [image if isinstance(image, bytes) else read_file(image) for image in images], name)

    def _image(self, part: ImagePart, file: str, location: str) -> str | bytes | None:
        """The image's bytes, its path, or its address; None if its value is none of these."""
        name = image_name(part.value)
        if not isinstance(name, str) or ADDRESS.match(name):
            return name
        return self.place_of(name, file, location)


def _why_not_here(image: str | bytes | None) -> str | None:
    """The reason to count for an image that cannot be read; None if it is here."""
    if image is None:
        return "images without a name"
    if isinstance(image, str) and ADDRESS.match(image):
        return "links to images (nothing is downloaded)"
    return None if extent_of(image) is not None else "images without a file in the folder"


def _check(fields: dict[str, Any], num_images: int) -> None:
    """Raises `SkipRecord` for a document that the template does not take."""
    try:
        get_template("interleaved").build(Record("", fields, [_STUB] * num_images))
    except BadSample as error:
        raise SkipRecord(str(error)) from None
