"""``webdataset``: tars in other layouts, rewritten into this project's layout.

A sample consists of consecutive members with the same key (`data.shards.names`), or with ``--sort`` of members anywhere in
the tar. Images, ``.txt`` (a caption; without an image a text), ``.json`` (a record in any of the known forms) and ``.cls``
(a class) are read; all other members, including pickles, are not opened, and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from tarfile import TarInfo
from typing import IO, Any

from janus_train.data.conversations import TALK_FIELDS
from janus_train.data.image_files import IMAGE_ENDINGS
from janus_train.data.image_folders import unread_reason
from janus_train.data.shards.names import RENAME, key_of, split_key
from janus_train.data.unused import is_hidden, not_used
from janus_train.datatools.prepare.classes import Classes
from janus_train.datatools.prepare.fields import (
    captioned_samples,
    check_number,
    conversation,
    embedded_images,
    question_answer,
    text,
)
from janus_train.datatools.prepare.inputs import expand, file_extent
from janus_train.datatools.prepare.items import Entry, Extent, InputFormat, Item, SkipRecord, Unit, split_into_units
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.tars import members
from janus_train.datatools.prepare.unused import TrackedRecord
from janus_train.errors import UserError

_IMAGES = (*(ending.removeprefix(".") for ending in IMAGE_ENDINGS), "image")
_TEXTS = ("txt", "caption", "text")
_WORDS = (*_TEXTS, "json", "cls")
_NAME = re.compile(rf"(?P<name>.+)\.(?P<ending>{'|'.join((*_IMAGES, *_WORDS))})", re.IGNORECASE)
_TWICE = "two members of the sample have one name"
_TEXT_ALONE = "a text without an image, in a tar with images (--min-pictures 1 leaves such texts out, --max-pictures 0 takes only them)"
_AMBIGUOUS = f"it is not clear which image belongs to which text: {RENAME}"


@dataclass(frozen=True)
class _Sample:
    """The places of a sample's members: ending -> (offset, size). ``problem``: the reason why it cannot be used."""

    key: str
    parts: dict[str, tuple[int, int]]
    problem: str = ""

    @property
    def has_image(self) -> bool:
        return any(_is_image(ending) for ending in self.parts)


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
        """A unit's ``place``: [tar, whether it has images, samples or (offset of the first key, number of a sample in it)]."""
        stamp = (file_extent(job) or Extent()).stamp
        has_images = False

        def sizes() -> Iterator[tuple[Any, Extent]]:
            nonlocal has_images
            for offset, number, sample in self._samples_to_plan(job):
                has_images |= sample.has_image
                place = asdict(sample) if self.options.sort else [offset, number]
                yield place, Extent(sum(size for _, size in sample.parts.values()), stamp)

        units = list(split_into_units(sizes(), lambda places: places if self.options.sort else places[0]))
        if not units:
            raise UserError(f"{job} contains no sample: no member is KEY.jpg|png|webp, KEY.json, KEY.txt or KEY.cls")
        yield from (replace(unit, place=[job, has_images, unit.place]) for unit in units)

    def _samples_to_plan(self, path: str) -> Iterator[tuple[int, int, _Sample]]:
        """(offset of the key's first member, number among the key's samples, sample); counts what is not used."""
        groups: Iterable[tuple[str, list[TarInfo]]] = _sorted_groups(path) if self.options.sort else _groups(path, 0)
        endings_of_key: dict[str, frozenset[str]] = {}
        known: dict[frozenset[str], frozenset[str]] = {}  # one object for all keys with the same endings
        for key, group in groups:
            samples, unused = _samples_of(key, group)
            for ending in unused:
                not_used(f"members .{ending} beside the sample's own")
            for number, sample in enumerate(samples):
                yield group[0].offset, number, sample
            endings = frozenset(member.name[len(key) :].lower() for member in group)
            if not endings & endings_of_key.get(key, endings):
                raise UserError(
                    f"{path}: the members of a sample do not stand together ({key}{min(endings_of_key[key])}, further on "
                    f"{key}{min(endings)}): --sort reads such tars"
                )
            endings_of_key[key] = known.setdefault(endings, endings)

    def entries(self, unit: Unit) -> Iterator[Entry]:
        path, has_images, place = unit.place
        if self.options.sort:
            samples: Iterator[_Sample] = (_Sample(**values) for values in place)
        else:
            offset, number = place
            groups = (_samples_of(key, group)[0] for key, group in _groups(path, offset))
            samples = islice((sample for group in groups for sample in group), number, number + unit.count)
        with Path(path).open("rb") as file:
            for sample in samples:
                parts = {} if sample.problem else _read(file, sample)
                yield Entry(f"{path}, {sample.key}", (sample, parts, has_images))

    def item(self, entry: Entry) -> Item:
        sample, parts, tar_has_images = entry.value
        if sample.problem:
            raise SkipRecord(sample.problem)
        endings = sorted((_number(ending), ending) for ending in filter(_is_image, parts))
        images = [parts[ending] for _, ending in endings]
        if images and not any(ending in parts for ending in _WORDS):
            raise SkipRecord("an image without a text")
        record = TrackedRecord(_record(parts))
        if self._is_talk(record):
            images = embedded_images(record, images)
        check_number(len(images), self.options)
        if tar_has_images and not images and not parts.keys() & {"json", "cls"} and self.options.max_pictures != 0:
            raise SkipRecord(_TEXT_ALONE)
        item = Item(self._fields(record, parts, len(images)), images, Path(sample.key).name)
        record.count_unread()
        if "cls" in parts and "class_name" not in item.samples[0]:
            not_used("members .cls of samples with words")
        for ending in [ending for ending in _TEXTS if ending in parts][1:]:
            not_used(f"members .{ending} beside the sample's own")
        return item

    def _is_talk(self, record: dict[str, Any]) -> bool:
        if self.options.text_field or "caption" in record:
            return False
        return any(record.get(field) for field in TALK_FIELDS)

    def _fields(self, record: dict[str, Any], parts: dict[str, bytes], num_images: int) -> list[dict[str, Any]]:
        if self._is_talk(record):
            return [conversation(record, num_images)]
        if not self.options.text_field:
            if record.get("question") and record.get("answer"):
                return [question_answer(record["question"], record["answer"])]
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
        words = next((parts[ending].decode() for ending in _TEXTS if ending in parts), None)
    except (ValueError, RecursionError) as error:
        raise SkipRecord("the .json or .txt cannot be read", str(error)) from None
    if not isinstance(record, dict):
        raise SkipRecord("the .json is not an object")
    return record | ({} if words is None else {"caption": words})


def _read(file: IO[bytes], sample: _Sample) -> dict[str, bytes]:
    """Ending -> the member's bytes."""
    parts = {}
    for ending, (offset, size) in sample.parts.items():
        file.seek(offset)
        parts[ending] = file.read(size)
    return parts


def _is_image(ending: str) -> bool:
    return ending.rpartition(".")[2] in _IMAGES


def _number(ending: str) -> int:
    """``2.jpg`` -> 2; the one image of a sample comes first."""
    return int(ending.partition(".")[0]) if "." in ending else -1


# ------------------------------------------------------------------------------------------------------------ the tar


def _samples_of(key: str, group: list[TarInfo]) -> tuple[list[_Sample], list[str]]:
    """The samples of a key's members, and the endings of members that belong to none."""
    matches = [(match, member) for member in group if (match := _NAME.fullmatch(member.name)) is not None]
    named = [(match["name"], match["ending"].lower(), member) for match, member in matches]
    parts = split_key(key, named, _WORDS, _IMAGES)
    samples = [
        _Sample(
            name,
            {ending: (member.offset_data, member.size) for ending, member in of_sample.items()},
            _TWICE if name in parts.duplicates else "",
        )
        for name, of_sample in parts.samples.items()
    ]
    return samples + [_Sample(name, {}, _AMBIGUOUS) for name in parts.ambiguous], parts.unused


def _groups(path: str, offset: int) -> Iterator[tuple[str, list[TarInfo]]]:
    """(key, usable members) of the consecutive members with one key, from a member's header on."""
    key = ""
    group: list[TarInfo] = []
    for member in _usable_members(path, offset):
        member_key = key_of(member.name)
        if group and member_key != key:
            yield key, group
            group = []
        key = member_key
        group.append(member)
    if group:
        yield key, group


def _sorted_groups(path: str) -> Iterator[tuple[str, list[TarInfo]]]:
    """(key, usable members) of the members with one key anywhere in the tar, in the order of the first of each."""
    groups: dict[str, list[TarInfo]] = {}
    for member in _usable_members(path, 0):
        groups.setdefault(key_of(member.name), []).append(member)
    yield from groups.items()


def _usable_members(path: str, offset: int) -> Iterator[TarInfo]:
    with Path(path).open("rb") as file:
        for member in members(file, path, offset):
            if member.isdir():
                continue
            if is_hidden(member.name):
                not_used(unread_reason(member.name, "members"))
            elif not member.isreg() or member.issparse():
                not_used("members that are links or special files")
            elif _NAME.fullmatch(member.name) is None:
                not_used(unread_reason(member.name, "members"))
            else:
                yield member
