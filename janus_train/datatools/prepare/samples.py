"""From an item to the bytes that stand in a shard: keys, members, headers that say nothing of when and who."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from tarfile import BLOCKSIZE, USTAR_FORMAT, TarInfo
from typing import Any

from janus_train.config import UserError
from janus_train.datatools.prepare.items import InputFormat, Item, SkipRecord, Unit
from janus_train.datatools.prepare.pictures import keep

_NAME_CHARACTERS = 48


@dataclass(frozen=True)
class SkippedRecord:
    """A record that gave no sample."""

    where: str
    reason: str
    detail: str
    left_out: bool


@dataclass(frozen=True)
class Packed:
    """The samples of a record: the bytes of their members, one after the other, for each."""

    samples: list[bytes]


def convert(format_: InputFormat, unit: Unit) -> list[Packed | SkippedRecord]:
    """What every record of the unit gives, in order. Raises `UserError` if the input itself cannot be read."""
    outcomes: list[Packed | SkippedRecord] = []
    where = str(unit.what)[:80]
    try:
        for number, entry in enumerate(format_.entries(unit)):
            where = entry.where
            try:
                outcomes.append(Packed(_packed(format_, unit.first + number, format_.item(entry))))
            except SkipRecord as skip:
                outcomes.append(SkippedRecord(where, skip.reason, skip.detail, skip.left_out))
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error})") from None
    if len(outcomes) != unit.count:
        raise UserError(
            f"{where}: {unit.count} records were found here at first and now {len(outcomes)}: the input changed"
        )
    return outcomes


def _packed(format_: InputFormat, number: int, item: Item) -> list[bytes]:
    pictures = [keep(data, format_.options.max_side) for data in item.pictures]
    return [
        members(key(number, part if format_.several else None, item.name), fields, pictures)
        for part, fields in enumerate(item.samples)
    ]


def key(number: int, part: int | None, name: str) -> str:
    """A key without dots and slashes: the record's number in the input, the sample's in the record, the source's name."""
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:_NAME_CHARACTERS].strip("-")
    return f"{number:09d}" + ("" if part is None else f"_{part}") + (f"-{words}" if words else "")


def members(key: str, fields: dict[str, Any], pictures: list[tuple[str, bytes]]) -> bytes:
    """``KEY.json`` and ``KEY.jpg``, or ``KEY.0.jpg``, ``KEY.1.jpg``, as they stand in a tar. Raises `SkipRecord`."""
    try:
        words = json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise SkipRecord("the text is no valid Unicode", error.reason) from None
    blocks = [_member(f"{key}.json", words)]
    for number, (ending, data) in enumerate(pictures):
        blocks.append(_member(f"{key}.{ending}" if len(pictures) == 1 else f"{key}.{number}.{ending}", data))
    return b"".join(blocks)


def _member(name: str, data: bytes) -> bytes:
    info = TarInfo(name)  # mode 0644; no time, no owner
    info.size = len(data)
    return info.tobuf(USTAR_FORMAT) + data + b"\0" * (-len(data) % BLOCKSIZE)
