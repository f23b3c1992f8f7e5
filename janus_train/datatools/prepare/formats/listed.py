"""Reads files of records with images in a folder, for the formats captions and conversations."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from janus_train.data.image_files import IMAGE_ENDINGS
from janus_train.datatools.prepare.fields import check_number, name_of, pick
from janus_train.datatools.prepare.inputs import expand, file_extent, path_inside, read_file
from janus_train.datatools.prepare.items import Entry, Extent, InputFormat, Item, SkipRecord, Unit, split_into_units
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.records import ENDINGS, RecordPlace, records
from janus_train.errors import UserError

_FIRST_IMAGES = 100
"""If none of this many images exists, the folder is wrong."""


class RecordListFormat(InputFormat):
    """Records with image paths under ``--images``, by default under the folder of the records' file."""

    image_fields: tuple[str, ...]
    """The fields with an image's path, unless the options name the field."""

    def __init__(self, options: PrepareOptions):
        super().__init__(options)
        self.files = expand(options.inputs, ENDINGS, "file of records", beside=IMAGE_ENDINGS)
        if options.images is not None and not Path(options.images).is_dir():
            raise UserError(f"--images {options.images}: there is no such folder")

    def jobs(self) -> list[str]:
        return self.files

    def plan(self, job: str) -> Iterator[Unit]:
        return split_into_units(self._record_sizes(job), lambda places: [job, places[0].offset, places[0].number])

    def planned_files(self, job: str) -> list[str]:
        return [job]

    def entries(self, unit: Unit) -> Iterator[Entry]:
        path, offset, number = unit.place
        for record_at in islice(records(path, RecordPlace(offset, number), self.options.columns), unit.count):
            yield Entry(record_at.location, (path, record_at.value))

    def item(self, entry: Entry) -> Item:
        path, record = entry.value
        if isinstance(record, SkipRecord):
            raise record
        paths = self.image_paths(record, path, entry.location)
        check_number(len(paths), self.options)
        samples = self.samples(record, len(paths))
        return Item(
            samples,
            [read_file(image_path) for image_path in paths],
            name_of(record) or Path(paths[0]).stem if paths else "",
        )

    @abstractmethod
    def samples(self, record: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
        """The fields of the record's samples. Raises `SkipRecord`."""

    def named_images(self, record: dict[str, Any]) -> Any:
        """The record's value for its images: a path, a list of paths, or None."""
        field = self.options.image_field
        if field is not None and "{" in field:
            return re.sub(r"\{([^{}]+)\}", lambda match: _part(record, match[1]), field)
        if field is not None:
            return pick(record, field)
        return next((record[name] for name in self.image_fields if record.get(name)), None)

    def image_paths(self, record: dict[str, Any], file: str, location: str) -> list[str]:
        """Paths of the record's images. Raises `UserError` for an address or a path outside the folder."""
        images = self.named_images(record)
        folder = self.options.images if self.options.images is not None else str(Path(file).parent)
        paths = []
        for image in images if isinstance(images, list) else [] if images in (None, "") else [images]:
            name = (
                next((image[key] for key in ("path", "file_name", "image") if image.get(key)), None)
                if isinstance(image, dict)
                else image
            )
            if not isinstance(name, str) or not name:
                raise SkipRecord("the image's path is not a string")
            paths.append(path_inside(folder, name, location, str(Path(file).parent)))
        return paths

    def _record_sizes(self, file: str) -> Iterator[tuple[RecordPlace, Extent]]:
        """The places of all records with the bytes of their images. Stops early if no image exists."""
        num_images = num_existing = 0
        example = ""
        for record_at in records(file, columns=self.options.columns):
            total = Extent()
            for path in self._paths_or_none(record_at.value, file, record_at.location):
                extent = file_extent(path)
                num_images, num_existing, example = (
                    num_images + 1,
                    num_existing + (extent is not None),
                    example or path,
                )
                total += extent or Extent()
            if num_images >= _FIRST_IMAGES and not num_existing:
                break
            yield record_at.place, total
        check_images_exist(num_images, num_existing, example)

    def _paths_or_none(self, record: dict[str, Any] | SkipRecord, file: str, location: str) -> list[str]:
        if isinstance(record, SkipRecord):
            return []
        try:
            return self.image_paths(record, file, location)
        except SkipRecord:
            return []


def check_images_exist(num_images: int, num_existing: int, example: str) -> None:
    """Raise `UserError` if records name images and none of them exists."""
    if num_images and not num_existing:
        raise UserError(
            f"none of the {'first ' if num_images >= _FIRST_IMAGES else ''}{num_images} images exists, such as {example}: "
            "--images names the folder that their paths start from"
        )


def _part(record: dict[str, Any], name: str) -> str:
    value = pick(record, name)
    if not isinstance(value, (str, int)):
        raise SkipRecord("the image's path is not a string", f"no field {name!r}")
    return str(value)
