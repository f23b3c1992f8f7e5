"""Records in a file, their images in a folder: what captions and conversations share."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from janus_train.datatools.prepare.fields import check_number, name_of, pick
from janus_train.datatools.prepare.inputs import expand, file_size, inside, read_file
from janus_train.datatools.prepare.items import Entry, InputFormat, Item, SkipRecord, Unit, cut
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.records import ENDINGS, RecordPlace, records
from janus_train.errors import UserError

_FIRST_IMAGES = 100
"""If none of so many is there, the folder is wrong."""


class RecordListFormat(InputFormat):
    """Every record names its images by paths under ``--images``, by default the folder of the records' file."""

    image_fields: tuple[str, ...]
    """Where an image's path is looked for, unless the options name the field."""

    def __init__(self, options: PrepareOptions):
        super().__init__(options)
        self.files = expand(options.inputs, ENDINGS, "file of records")
        if options.images is not None and not Path(options.images).is_dir():
            raise UserError(f"--images {options.images}: there is no such folder")

    def jobs(self) -> list[str]:
        return self.files

    def plan(self, job: str) -> Iterator[Unit]:
        return cut(self._weighed(job), lambda places: [job, places[0].offset, places[0].number])

    def entries(self, unit: Unit) -> Iterator[Entry]:
        path, offset, number = unit.what
        for located in islice(records(path, RecordPlace(offset, number), self.options.columns), unit.count):
            yield Entry(located.where, (path, located.value))

    def item(self, entry: Entry) -> Item:
        path, record = entry.value
        if isinstance(record, SkipRecord):
            raise record
        paths = self.image_paths(record, path, entry.where)
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
        """What the record says of its pictures: a path, a list of them, or None."""
        field = self.options.image_field
        if field is not None and "{" in field:
            return re.sub(r"\{([^{}]+)\}", lambda match: _part(record, match[1]), field)
        if field is not None:
            return pick(record, field)
        return next((record[name] for name in self.image_fields if record.get(name)), None)

    def image_paths(self, record: dict[str, Any], file: str, where: str) -> list[str]:
        """Paths of the record's images. Raises `UserError` for an address or a path out of the folder."""
        named = self.named_images(record)
        folder = self.options.images if self.options.images is not None else str(Path(file).parent)
        paths = []
        for image in named if isinstance(named, list) else [] if named in (None, "") else [named]:
            name = (
                next((image[key] for key in ("path", "file_name", "image") if image.get(key)), None)
                if isinstance(image, dict)
                else image
            )
            if not isinstance(name, str) or not name:
                raise SkipRecord("the image's path is no text")
            paths.append(inside(folder, name, where))
        return paths

    def _weighed(self, file: str) -> Iterator[tuple[RecordPlace, int]]:
        """The places of all records with the bytes of their images. Stops early if the images are elsewhere."""
        seen = there = 0
        example = ""
        for located in records(file, columns=self.options.columns):
            size = 0
            for path in self._paths_or_none(located.value, file, located.where):
                bytes_there = file_size(path)
                seen, there, example = seen + 1, there + (bytes_there is not None), example or path
                size += bytes_there or 0
            if seen >= _FIRST_IMAGES and not there:
                break
            yield located.place, size
        check_found(seen, there, example)

    def _paths_or_none(self, record: dict[str, Any] | SkipRecord, file: str, where: str) -> list[str]:
        if isinstance(record, SkipRecord):
            return []
        try:
            return self.image_paths(record, file, where)
        except SkipRecord:
            return []


def check_found(seen: int, there: int, example: str) -> None:
    """Raises `UserError` if images are named and none of them is there."""
    if seen and not there:
        raise UserError(
            f"none of the {'first ' if seen >= _FIRST_IMAGES else ''}{seen} images is there, such as {example}: "
            "--images names the folder that their paths start from"
        )


def _part(record: dict[str, Any], name: str) -> str:
    value = pick(record, name)
    if not isinstance(value, (str, int)):
        raise SkipRecord("the image's path is no text", f"no field {name!r}")
    return str(value)
