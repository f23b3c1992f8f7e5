"""``captions``: images in a folder, their captions in JSON lines, a JSON list, CSV, TSV or COCO's JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from janus_train.datatools.prepare.fields import IMAGE_FIELDS, captioned_samples
from janus_train.datatools.prepare.formats.listed import RecordListFormat, check_images_exist, extent_of
from janus_train.datatools.prepare.items import Entry, Extent, SkipRecord, Unit, split_into_units
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.records import OBJECT, kind_of, load_object
from janus_train.errors import UserError


class CaptionsFormat(RecordListFormat):
    """One image per record. In COCO's layout (``images`` and ``annotations``) an image's captions are collected."""

    image_fields = IMAGE_FIELDS

    def __init__(self, options: PrepareOptions):
        super().__init__(options)
        self.several = options.captions == "each"

    def samples(self, record: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
        if num_images == 0:
            raise SkipRecord("the record names no image")
        return captioned_samples(record, self.options, num_images)

    def plan(self, job: str) -> Iterator[Unit]:
        if kind_of(job) != OBJECT:
            return super().plan(job)
        return split_into_units(self._coco_sizes(job), lambda records: {"file": job, "records": records})

    def entries(self, unit: Unit) -> Iterator[Entry]:
        if not isinstance(unit.place, dict):
            yield from super().entries(unit)
            return
        for record in unit.place["records"]:
            yield Entry(f"{unit.place['file']}, image {record['id']}", (unit.place["file"], record))

    def _coco_sizes(self, file: str) -> Iterator[tuple[dict[str, Any], Extent]]:
        num_images = num_existing = 0
        example = ""
        for record in _coco(file):
            location = f"{file}, image {record['id']}"
            total = Extent()
            for image in self._images_or_none(record, file, location):
                extent = extent_of(image)
                num_images, num_existing, example = (
                    num_images + 1,
                    num_existing + (extent is not None),
                    example or str(image)[:200],
                )
                total += extent or Extent()
            yield record, total
        check_images_exist(num_images, num_existing, example)


def _coco(file: str) -> list[dict[str, Any]]:
    """COCO's images in order, each with its captions. Raises `UserError` for another layout."""
    content = load_object(file)
    images, annotations = content.get("images"), content.get("annotations")
    try:
        assert images is not None and annotations is not None
        records = {image["id"]: {"id": image["id"], "file_name": image["file_name"], "caption": []} for image in images}
        for annotation in annotations:
            if annotation["image_id"] in records:
                records[annotation["image_id"]]["caption"].append(annotation["caption"])
    except (AssertionError, KeyError, TypeError):
        raise UserError(
            f"{file} is one JSON object but not COCO's captions: 'images' with 'id' and 'file_name', and 'annotations' "
            "with 'image_id' and 'caption', are needed"
        ) from None
    return list(records.values())
