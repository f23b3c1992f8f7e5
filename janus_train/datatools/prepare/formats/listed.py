"""Reads files of records with images in a folder, for the formats captions, conversations, interleaved and editing."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

from janus_train.data.conversations import image_name
from janus_train.data.embedded_images import ADDRESS, embedded_image
from janus_train.data.image_files import IMAGE_ENDINGS, ImageError
from janus_train.datatools.prepare.fields import check_number, name_of, pick
from janus_train.datatools.prepare.inputs import expand, file_extent, path_inside, read_file
from janus_train.datatools.prepare.items import Entry, Extent, InputFormat, Item, SkipRecord, Unit, split_into_units
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.records import ENDINGS, LocatedRecord, RecordPlace, forget_files, records
from janus_train.datatools.prepare.tables import forget_files as forget_tables
from janus_train.datatools.prepare.tables import parquet_rows, parquet_units
from janus_train.datatools.prepare.unused import TrackedRecord
from janus_train.errors import UserError

_FIRST_IMAGES = 100
"""If none of this many images exists, the folder is wrong."""
_FIRST_RECORDS = 100
"""If none of this many records has a field, no record is expected to have it."""
T = TypeVar("T")


class RecordFiles(InputFormat):
    """Records with image paths under ``--images``, by default under the folder of the records' file."""

    def __init__(self, options: PrepareOptions):
        super().__init__(options)
        forget_files()
        forget_tables()
        self.files = self.find_files()
        if options.images is not None and not Path(options.images).is_dir():
            raise UserError(f"--images {options.images}: there is no such folder")

    def find_files(self) -> list[Any]:
        """The jobs: the files of records that the inputs name."""
        return expand(self.options.inputs, ENDINGS, "file of records", beside=IMAGE_ENDINGS)

    def jobs(self) -> list[Any]:
        return self.files

    def plan(self, job: Any) -> Iterator[Unit]:
        if job.lower().endswith(".parquet"):
            return self.plan_parquet(job)
        located = ((record_at.place, record_at.location, record_at.value) for record_at in self._records(job))
        return split_into_units(
            self.record_sizes(job, located), lambda places: [job, places[0].offset, places[0].number]
        )

    def plan_parquet(self, file: str) -> Iterator[Unit]:
        """Units inside of row groups."""
        rows = (
            ((group, number), _row_location(file, group, number), row)
            for unit in parquet_units(file, None)
            for group in [unit.place[1]]
            for number, row in parquet_rows(unit.place)
        )
        for group, extents in groupby(self.record_sizes(file, rows), lambda pair: pair[0][0]):
            yield from split_into_units(extents, partial(_parquet_place, file, group))

    def _records(self, file: str) -> Iterator[LocatedRecord]:
        return records(file, columns=self.options.columns)

    def planned_files(self, job: Any) -> list[str]:
        return [job]

    def entries(self, unit: Unit) -> Iterator[Entry]:
        if isinstance(unit.place, dict):
            path, group, *_ = unit.place["parquet"]
            for number, row in parquet_rows(unit.place["parquet"]):
                yield Entry(_row_location(path, group, number), (path, row))
            return
        path, offset, number = unit.place
        for record_at in islice(records(path, RecordPlace(offset, number), self.options.columns), unit.count):
            yield Entry(record_at.location, (path, record_at.value))

    def place_of(self, name: str, file: str, location: str) -> str | bytes:
        """The path of the image that a record of ``file`` names, or the bytes if the name contains them.

        Raises `SkipRecord` for damaged base64, `UserError` for an address or a path outside the folder.
        """
        try:
            data = embedded_image(name)
        except ImageError as error:
            raise SkipRecord("the image does not open", str(error)) from None
        if data is not None:
            return data
        folder = self.options.images if self.options.images is not None else str(Path(file).parent)
        return path_inside(folder, name, location, str(Path(file).parent))

    @abstractmethod
    def images(self, record: dict[str, Any], file: str, location: str) -> list[str | bytes]:
        """The record's images: their paths, or the bytes of those that the record contains. Raises `SkipRecord`."""

    def record_sizes(
        self, file: str, located: Iterable[tuple[T, str, dict[str, Any] | SkipRecord]]
    ) -> Iterator[tuple[T, Extent]]:
        """The places of a file's records, each (place, location, record), with the bytes of their images.

        Raises `UserError` if the records lack the fields that they need, and early if no image exists.
        """
        num_images = num_existing = number = 0
        example, names = "", dict[str, None]()
        for number, (place, location, record) in enumerate(located, 1):
            if number <= _FIRST_RECORDS:
                names |= {} if isinstance(record, SkipRecord) else dict.fromkeys(record)
            if number == _FIRST_RECORDS:
                self.check_fields(file, list(names))
            total = Extent()
            for image in self._images_or_none(record, file, location):
                extent = extent_of(image)
                num_images, num_existing, example = (
                    num_images + 1,
                    num_existing + (extent is not None),
                    example or str(image)[:200],
                )
                total += extent or Extent()
            if num_images >= _FIRST_IMAGES and not num_existing:
                break
            yield place, total
        if number < _FIRST_RECORDS and names:
            self.check_fields(file, list(names))
        check_images_exist(num_images, num_existing, example)

    def check_fields(self, file: str, names: list[str]) -> None:
        """Raise `UserError` if records with these fields cannot be read; ``names`` are those of the first records."""

    def _images_or_none(self, record: dict[str, Any] | SkipRecord, file: str, location: str) -> list[str | bytes]:
        if isinstance(record, SkipRecord):
            return []
        try:
            return self.images(record, file, location)
        except SkipRecord:
            return []


class RecordListFormat(RecordFiles):
    """Records that name their images in a field."""

    image_fields: tuple[str, ...]
    """The fields with an image's path, unless the options name the field."""

    def item(self, entry: Entry) -> Item:
        path, record = entry.value
        if isinstance(record, SkipRecord):
            raise record
        record = TrackedRecord(record)
        images = self.images(record, path, entry.location)
        check_number(len(images), self.options)
        samples = self.samples(record, len(images))
        name = name_of(record) or _stem(images[0]) if images else ""
        record.count_unread()
        return Item(samples, [image if isinstance(image, bytes) else read_file(image) for image in images], name)

    @abstractmethod
    def samples(self, record: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
        """The fields of the record's samples. Raises `SkipRecord`."""

    def named_images(self, record: dict[str, Any]) -> Any:
        """The record's value for its images: a path, a list of paths, or None."""
        field = self.options.image_field
        if field is not None:
            return picked_image(record, field)
        return next((record[name] for name in self.image_fields if record.get(name)), None)

    def images(self, record: dict[str, Any], file: str, location: str) -> list[str | bytes]:
        """The record's images: their paths, or the bytes of those that the record contains.

        Raises `UserError` for an address or a path outside the folder.
        """
        value = self.named_images(record)
        images: list[str | bytes] = []
        for element in value if isinstance(value, list) else [] if value in (None, "") else [value]:
            name = image_name(element)
            if not isinstance(name, str):
                raise SkipRecord("the image's path is not a string")
            images.append(self.place_of(name, file, location))
        return images


def _parquet_place(path: str, group: int, places: list[tuple[int, int]]) -> dict[str, Any]:
    return {"parquet": [path, group, places[0][1], places[-1][1] + 1, None]}


def _row_location(path: str, group: int, number: int) -> str:
    return f"{path}, row group {group}, row {number}"


def extent_of(image: str | bytes) -> Extent | None:
    """The extent of an image; None if its file does not exist."""
    return Extent(len(image)) if isinstance(image, bytes) else file_extent(image)


def _stem(image: str | bytes) -> str:
    return "" if isinstance(image, bytes) else Path(image).stem


def check_images_exist(num_images: int, num_existing: int, example: str) -> None:
    """Raise `UserError` if records name images and none of them exists."""
    if num_images and not num_existing and ADDRESS.match(example):
        raise UserError(
            f"the images are addresses, such as {example}, and none is a file here: download them first and write the "
            "files' names instead; prepare downloads nothing"
        )
    if num_images and not num_existing:
        raise UserError(
            f"none of the {'first ' if num_images >= _FIRST_IMAGES else ''}{num_images} images exists, such as {example}: "
            "--images names the folder that their paths start from"
        )


def picked_image(record: dict[str, Any], field: str) -> Any:
    """The value of ``--image-field``: at a path of names, or a pattern filled in from the record."""
    if "{" in field:
        return re.sub(r"\{([^{}]+)\}", lambda match: _part(record, match[1]), field)
    return pick(record, field)


def _part(record: dict[str, Any], name: str) -> str:
    value = pick(record, name)
    if not isinstance(value, (str, int)):
        raise SkipRecord("the image's path is not a string", f"no field {name!r}")
    return str(value)
