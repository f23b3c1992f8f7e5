"""``imagefolder``: a folder, or a tar, with a folder or an inner tar of images for each class (ILSVRC-2012's train tar).

Tars are not extracted: their headers contain the offset of every image. Images are dealt to the shards in turn, so that
each shard has its share of every class, because training shuffles only inside a few shards at a time.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from janus_train.data.image_files import has_image_ending, missing_decoder
from janus_train.data.image_folders import images_under, unread_reason
from janus_train.data.unused import counting, is_hidden, not_used, summary_of
from janus_train.datatools.prepare.classes import Classes
from janus_train.datatools.prepare.inputs import file_extent, read_file
from janus_train.datatools.prepare.items import Entry, Extent, InputFormat, Item, SkipRecord, Unit, split_into_units
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
        places: list[tuple[ImagePlace, Extent]] = []
        for number, path in enumerate(self.options.inputs):
            input_places = list(_in_folder(number, path) if Path(path).is_dir() else _in_tar(number, path))
            if not input_places:
                raise UserError(
                    f"{path} contains no image in a folder or inner tar of its class (prepare captions reads images with "
                    "captions)"
                )
            places += input_places
        for class_id in sorted({place[1] for place, _ in places}):
            self._classes.name(class_id)  # raises for a class without a name before anything is written
        return split_into_units(self._deal(places), list)

    def _deal(self, places: list[tuple[ImagePlace, Extent]]) -> Iterator[tuple[ImagePlace, Extent]]:
        limit = self.options.shard_samples
        by_samples = 1 if limit is None else -(-len(places) // limit)
        piles = max(by_samples, -(-sum(extent.size for _, extent in places) // self.options.shard_size))
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


def _in_folder(number: int, root: str) -> Iterator[tuple[ImagePlace, Extent]]:
    """Images under ``root/CLASS/``, at any depth, sorted by name. Raises `UserError` for a class without an image."""
    for class_folder in sorted(Path(root).iterdir()):
        if is_hidden(class_folder.name):
            not_used("hidden folders" if class_folder.is_dir() else "hidden files")
        elif not class_folder.is_dir():
            not_used("files in no class's folder")
        else:
            with counting() as unread:
                paths = list(images_under(class_folder))
            _count_class(root, class_folder.name, unread, bool(paths))
            for path in paths:
                extent = file_extent(str(path)) or Extent()
                yield (number, class_folder.name, str(path.relative_to(root)), -1, extent.size), extent


def _count_class(root: str, class_id: str, unread: Counter[str], has_image: bool) -> None:
    """Count what is not read of a class. Raises `UserError` if nothing of it is an image that can be read."""
    if not has_image:
        raise UserError(
            f"{root}: the class {class_id!r} has no image that can be read, it contains {summary_of(unread) or 'no file'}"
        )
    for reason, count in unread.items():
        not_used(f"{reason} of the class {class_id!r}", count)


def _in_tar(number: int, path: str) -> Iterator[tuple[ImagePlace, Extent]]:
    """Images in inner tars ``CLASS.tar``, or in folders whose last part is the class."""
    stamp = (file_extent(path) or Extent()).stamp
    unread_of: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with_image: set[str] = set()
    classes: set[str] = set()  # not of a folder without anything that looks like an image: a tar's notes stay in it
    with Path(path).open("rb") as outer:
        for member in members(outer, path):
            is_tar = member.isreg() and member.name.lower().endswith(".tar")
            class_id = Path(member.name).stem if is_tar else Path(member.name).parent.name
            inner = Slice(outer, member.offset_data, member.size)
            for image in members(inner, f"{member.name} in {path}") if is_tar else [member]:
                name = f"{member.name}/{image.name}" if is_tar else image.name
                if image.isdir():
                    continue
                if not class_id:
                    not_used("members in no class's folder")
                elif image.isreg() and not image.issparse() and _is_image(image.name):
                    with_image.add(class_id)
                    offset = image.offset_data + (member.offset_data if is_tar else 0)
                    yield (number, class_id, name, offset, image.size), Extent(image.size, stamp)
                else:
                    unread_of[class_id][unread_reason(image.name, "members")] += 1
                    if missing_decoder(Path(image.name).suffix):
                        classes.add(class_id)
            if is_tar:
                classes.add(class_id)
    for class_id in sorted({*unread_of, *classes}):
        _count_class(path, class_id, unread_of[class_id], class_id in with_image or class_id not in classes)


def _is_image(name: str) -> bool:
    return not is_hidden(name) and has_image_ending(name)
