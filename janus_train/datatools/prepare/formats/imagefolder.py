"""``imagefolder``: a folder, or a tar, with a folder or an inner tar of images for each class (ILSVRC-2012's train tar).

Tars are not extracted: their headers contain the offset of every image. Images are dealt to the shards in turn, so that
each shard has its share of every class, because training shuffles only inside a few shards at a time.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from tarfile import TarInfo
from typing import Any

from janus_train.data.image_files import has_image_ending
from janus_train.data.image_folders import describe, ending_of, images_under
from janus_train.datatools.prepare.classes import Classes
from janus_train.datatools.prepare.inputs import file_size, read_file
from janus_train.datatools.prepare.items import Entry, InputFormat, Item, SkipRecord, Unit, split_into_units
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.tars import Slice, members
from janus_train.errors import UserError

ImagePlace = tuple[int, str, str, int, int]
"""Input, class, name (a path under the input), offset (-1: a file of its own), size."""


class ImageFolderFormat(InputFormat):
    """The classes' names come from ``--classes``, else from their folders."""

    def __init__(self, options: PrepareOptions):
        super().__init__(options)
        for path in options.inputs:
            if not Path(path).exists():
                raise UserError(f"{path}: there is no such folder or tar")
        if len(set(options.inputs)) < len(options.inputs):
            raise UserError(f"{max(options.inputs, key=options.inputs.count)} is named twice")
        self._classes = Classes(options.classes, options.class_names)
        self._open: dict[int, int] = {}

    def jobs(self) -> list[Any]:
        return [None]

    def plan(self, job: Any) -> Iterator[Unit]:
        places: list[ImagePlace] = []
        for number, path in enumerate(self.options.inputs):
            input_places = list(_in_folder(number, path) if Path(path).is_dir() else _in_tar(number, path))
            if not input_places:
                raise UserError(f"{path} contains no image in a folder or inner tar of its class")
            places += input_places
        for class_id in sorted({place[1] for place in places}):
            self._classes.name(class_id)  # raises for a class without a name before anything is written
        return split_into_units(((place, place[4]) for place in self._deal(places)), list)

    def _deal(self, places: list[ImagePlace]) -> Iterator[ImagePlace]:
        limit = self.options.shard_samples
        by_samples = 1 if limit is None else -(-len(places) // limit)
        piles = max(by_samples, -(-sum(place[4] for place in places) // self.options.shard_size))
        for pile in range(piles):
            yield from places[pile::piles]

    def entries(self, unit: Unit) -> Iterator[Entry]:
        for place in unit.place:
            yield Entry(str(Path(self.options.inputs[place[0]]) / place[2]), place)

    def item(self, entry: Entry) -> Item:
        number, class_id, name, offset, size = entry.value
        if offset < 0:
            data = read_file(entry.location)
        else:
            if number not in self._open:
                self._open[number] = os.open(self.options.inputs[number], os.O_RDONLY)
            data = os.pread(self._open[number], size, offset)
        if len(data) != size:
            raise SkipRecord("the image is cut off", f"{len(data)} of {size} bytes")
        return Item([{"class_name": self._classes.name(class_id)}], [data], Path(name).stem)


def _in_folder(number: int, root: str) -> Iterator[ImagePlace]:
    """Images under ``root/CLASS/``, at any depth, sorted by name."""
    for class_folder in sorted(path for path in Path(root).iterdir() if path.is_dir() and path.name[0] != "."):
        for folder, subfolders, files in os.walk(class_folder, onerror=_fail):
            subfolders.sort()
            for name in sorted(files):
                path = Path(folder) / name
                if _is_image(name):
                    yield number, class_folder.name, str(path.relative_to(root)), -1, file_size(str(path)) or 0


def _fail(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read ({error.strerror})")


def _in_tar(number: int, path: str) -> Iterator[ImagePlace]:
    """Images in inner tars ``CLASS.tar``, or in folders whose last part is the class."""
    with Path(path).open("rb") as outer:
        for member in members(outer, path):
            if member.isreg() and member.name.lower().endswith(".tar"):
                inner = Slice(outer, member.offset_data, member.size)
                for image in members(inner, f"{member.name} in {path}"):
                    if _is_image_member(image):
                        name = f"{member.name}/{image.name}"
                        yield number, Path(member.name).stem, name, member.offset_data + image.offset_data, image.size
            elif _is_image_member(member) and Path(member.name).parent.name:
                yield number, Path(member.name).parent.name, member.name, member.offset_data, member.size


def _is_image_member(member: TarInfo) -> bool:
    return member.isreg() and not member.issparse() and _is_image(Path(member.name).name)


def _is_image(name: str) -> bool:
    return name[0] != "." and name.lower().endswith(ENDINGS)
