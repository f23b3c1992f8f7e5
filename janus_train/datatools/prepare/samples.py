"""Encodes samples for a shard. In: a format's items. Out: keys, and the members of each sample with their bytes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from tarfile import BLOCKSIZE
from typing import Any

from janus_train.datatools.prepare.images import keep
from janus_train.datatools.prepare.items import InputFormat, Item, SkipRecord, Unit
from janus_train.errors import UserError

_NAME_CHARACTERS = 48


@dataclass(frozen=True)
class SkippedRecord:
    """A record without a sample."""

    where: str
    reason: str
    detail: str
    left_out: bool


@dataclass(frozen=True)
class EncodedSample:
    """A sample ready to be written: its key, and its members as (ending, bytes) in their order."""

    key: str
    members: list[tuple[str, bytes]]

    @property
    def tar_bytes(self) -> int:
        """Its size in a tar: a header and whole blocks for each member."""
        return sum(BLOCKSIZE + len(data) + -len(data) % BLOCKSIZE for _, data in self.members)


@dataclass(frozen=True)
class RecordSamples:
    """The samples of a record."""

    samples: list[EncodedSample]


def convert(format_: InputFormat, unit: Unit) -> list[RecordSamples | SkippedRecord]:
    """Convert every record of a unit, in order. Raises `UserError` if the input itself cannot be read."""
    outcomes: list[RecordSamples | SkippedRecord] = []
    location = str(unit.place)[:80]
    try:
        for number, entry in enumerate(format_.entries(unit)):
            location = entry.location
            try:
                outcomes.append(RecordSamples(_encode_item(format_, unit.first_record + number, format_.item(entry))))
            except SkipRecord as skip:
                outcomes.append(SkippedRecord(location, skip.reason, skip.detail, skip.left_out))
    except OSError as error:
        raise UserError(f"{location}: cannot be read ({error})") from None
    if len(outcomes) != unit.count:
        raise UserError(
            f"{location}: {unit.count} records were found here at first and now {len(outcomes)}: the input changed"
        )
    return outcomes


def _encode_item(format_: InputFormat, number: int, item: Item) -> list[EncodedSample]:
    images = [keep(data, format_.options.max_side) for data in item.images]
    return [
        encode(key(number, part if format_.several else None, item.name), fields, images)
        for part, fields in enumerate(item.samples)
    ]


def key(number: int, part: int | None, name: str) -> str:
    """A key without dots and slashes: the record's number, the sample's number in the record, the source's name."""
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:_NAME_CHARACTERS].strip("-")
    return f"{number:09d}" + ("" if part is None else f"_{part}") + (f"-{words}" if words else "")


def encode(key: str, fields: dict[str, Any], images: list[tuple[str, bytes]]) -> EncodedSample:
    """Encode ``KEY.json`` with ``KEY.jpg``, or with ``KEY.0.jpg``, ``KEY.1.jpg``, ... Raises `SkipRecord`."""
    try:
        words = json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise SkipRecord("the text is not valid Unicode", error.reason) from None
    members = [("json", words)]
    for number, (ending, data) in enumerate(images):
        members.append((ending if len(images) == 1 else f"{number}.{ending}", data))
    return EncodedSample(key, members)
