"""``webdataset``: tars in other layouts, rewritten into this project's layout.

A sample consists of consecutive members with the same key (the name up to its first dot). Images, ``.txt`` (a caption;
without an image a text), ``.json`` (a record in any of the known forms) and ``.cls`` (a class) are read; all other members,
including pickles, are ignored and not opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tarfile import TarInfo
from typing import Any

from janus_train.data.conversations import TALK_FIELDS
from janus_train.datatools.prepare.classes import Classes
from janus_train.datatools.prepare.fields import captioned_samples, check_number, conversation, text
from janus_train.datatools.prepare.inputs import expand, file_extent
from janus_train.datatools.prepare.items import Entry, Extent, InputFormat, Item, SkipRecord, Unit, split_into_units
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.tars import members
from janus_train.datatools.prepare.unused import TrackedRecord
from janus_train.errors import UserError

_NAME = re.compile(r"^(?P<key>(?:.*/)?[^/.]+)\.(?P<ending>[^/]+)$")
_IMAGE = re.compile(r"^(?:(?P<number>\d+)\.)?(?:jpe?g|png|webp|gif|bmp|tiff?|image)$", re.IGNORECASE)
_WORDS = ("txt", "caption", "text")
_USABLE = re.compile(rf"{_IMAGE.pattern}|^(?:{'|'.join(_WORDS)}|json|cls)$", re.IGNORECASE)


class WebDatasetFormat(InputFormat):
    """The record of a sample is its ``.json``, with ``.txt`` as ``caption``; ``--text-field`` chooses another field."""

    def __init__(self, options: PrepareOptions):
        super().__init__(options)
        self.files = expand(options.inputs, (".tar",), "tar")
        self._classes = Classes(options.classes, options.class_names)
        self.several = options.captions == "each"

    def jobs(self) -> list[str]:
        return self.files

    def plan(self, job: str) -> Iterator[Unit]:
        return split_into_units(self._sample_sizes(job), lambda offsets: [job, offsets[0]])

    def _sample_sizes(self, path: str) -> Iterator[tuple[int, Extent]]:
        is_empty, stamp = True, (file_extent(path) or Extent()).stamp
        for _, sample_members in _samples(path, 0):
            is_empty = False
            yield sample_members[0].offset, Extent(sum(member.size for member in sample_members), stamp)
        if is_empty:
            raise UserError(f"{path} contains no sample: no member is KEY.jpg|png|webp, KEY.json, KEY.txt or KEY.cls")

    def entries(self, unit: Unit) -> Iterator[Entry]:
        path, offset = unit.place
        with Path(path).open("rb") as file:
            for key, sample_members in islice(_samples(path, offset), unit.count):
                parts: dict[str, bytes] = {}
                for member in sample_members:
                    file.seek(member.offset_data)
                    parts[member.name[len(key) + 1 :].lower()] = file.read(member.size)
                yield Entry(f"{path}, {key}", (key, parts, len(sample_members)))

    def item(self, entry: Entry) -> Item:
        key, parts, num_members = entry.value
        if len(parts) < num_members:
            raise SkipRecord("two members of the sample have one name")
        image_matches = {ending: _IMAGE.match(ending) for ending in parts}
        endings = sorted((int(m["number"] or -1), ending) for ending, m in image_matches.items() if m is not None)
        images = [parts[ending] for _, ending in endings]
        check_number(len(images), self.options)
        record = TrackedRecord(_record(parts))
        item = Item(self._fields(record, parts, len(images)), images, Path(key).name)
        record.count_unread()
        return item

    def _fields(self, record: dict[str, Any], parts: dict[str, bytes], num_images: int) -> list[dict[str, Any]]:
        if not self.options.text_field:
            if any(record.get(field) for field in TALK_FIELDS) and "caption" not in record:
                return [conversation(record, num_images)]
            if record.get("question") and record.get("answer"):
                return [{"question": record["question"], "answer": record["answer"]}]
            if "cls" in parts:
                return [{"class_name": self._classes.name(parts["cls"].decode("utf-8", "replace").strip())}]
            if record.get("class_name"):
                return [{"class_name": record["class_name"]}]
        if num_images:
            return captioned_samples(record, self.options, num_images)
        has_text = self.options.text_field or "text" in record
        return [{"text": text(record if has_text else {"text": record.get("caption")}, self.options)}]


def _record(parts: dict[str, bytes]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    try:
        if "json" in parts:
            record = json.loads(parts["json"])
        words = next((parts[ending].decode() for ending in _WORDS if ending in parts), None)
    except (ValueError, RecursionError) as error:
        raise SkipRecord("the .json or .txt cannot be read", str(error)) from None
    if not isinstance(record, dict):
        raise SkipRecord("the .json is not an object")
    return record | ({} if words is None else {"caption": words})


def _samples(path: str, offset: int) -> Iterator[tuple[str, list[TarInfo]]]:
    """(key, usable members) of the samples from a sample's header on."""
    key = ""
    sample_members: list[TarInfo] = []
    with Path(path).open("rb") as file:
        for member in members(file, path, offset):
            match = _NAME.match(member.name)
            if match is None or not member.isreg() or member.issparse() or not _USABLE.match(match["ending"]):
                continue
            if sample_members and match["key"] != key:
                yield key, sample_members
                sample_members = []
            key = match["key"]
            sample_members.append(member)
    if sample_members:
        yield key, sample_members
