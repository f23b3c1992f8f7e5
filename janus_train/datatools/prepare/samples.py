"""Encodes samples for a shard. In: a format's items. Out: keys, and the members of each sample with their bytes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from tarfile import BLOCKSIZE
from typing import Any

from xxhash import xxh3_128, xxh3_128_digest, xxh3_128_hexdigest

from janus_train.data.unused import counting
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


@dataclass(frozen=True)
class Outcome:
    """What became of a record. ``content``: a digest of what was read of it; ``unused``: counts of what was not used."""

    where: str
    result: RecordSamples | SkippedRecord
    content: bytes
    unused: Counter[str]


def convert(format_: InputFormat, unit: Unit) -> list[Outcome]:
    """Convert every record of a unit, in order. Raises `UserError` if the input itself cannot be read."""
    outcomes: list[Outcome] = []
    for record in _read(format_, unit):
        item = record.item
        try:
            if isinstance(item, SkipRecord):
                raise item
            samples = _encode_item(format_, unit.first_record + len(outcomes), item)
            outcomes.append(Outcome(record.location, RecordSamples(samples), record.content(), record.unused))
        except SkipRecord as skip:
            result = SkippedRecord(record.location, skip.reason, skip.detail, skip.left_out)
            outcomes.append(Outcome(record.location, result, record.content(), Counter()))
    return outcomes


def read_content(format_: InputFormat, unit: Unit) -> UnitContent:
    """Read a unit without converting it. Raises as `convert`."""
    records = [(record.location, record.content()) for record in _read(format_, unit)]
    return UnitContent(records[0][0], unit.stamp, digest_of([content for _, content in records]))


def digest_of(contents: list[bytes]) -> str:
    """One digest of the contents of records."""
    return xxh3_128_hexdigest(b"".join(contents))


@dataclass(frozen=True)
class UnitContent:
    """What a unit was made from: its first record's location, the stamp of its files, the digest of all it read."""

    where: str
    stamp: str
    digest: str


@dataclass(frozen=True)
class _ReadRecord:
    """A record as its format reads it."""

    location: str
    item: Item | SkipRecord
    unused: Counter[str]

    def content(self) -> bytes:
        """A digest of all that the samples are made from, 16 bytes."""
        if isinstance(self.item, SkipRecord):
            return xxh3_128_digest(json.dumps([self.item.reason, self.item.detail]).encode())
        values = [self.item.samples, self.item.name, list(map(len, self.item.images)), sorted(self.unused.items())]
        hasher = xxh3_128(json.dumps(values).encode())
        for data in self.item.images:
            hasher.update(data)
        return hasher.digest()


def _read(format_: InputFormat, unit: Unit) -> Iterator[_ReadRecord]:
    location, num_records = str(unit.place)[:80], 0
    try:
        for entry in format_.entries(unit):
            location, num_records = entry.location, num_records + 1
            with counting() as unused:
                try:
                    item: Item | SkipRecord = format_.item(entry)
                except SkipRecord as skip:
                    item = skip
            yield _ReadRecord(location, item, unused)
    except OSError as error:
        raise UserError(f"{location}: cannot be read ({error})") from None
    if num_records != unit.count:
        raise UserError(
            f"{location}: {unit.count} records were found here at first and now {num_records}: the input changed"
        )


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
