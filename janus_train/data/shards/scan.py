"""A tar, read once, to its index: which members are samples' parts, where they lie, and whether the tar is whole.

In: members ``KEY.json`` (or ``KEY.txt``, a caption) plus ``KEY.jpg|png|webp`` (or ``KEY.0.jpg``, ``KEY.1.jpg``, ...),
optionally ``KEY.codes.npy`` (``KEY.0.codes.npy``), in any order. Other members are counted and left alone. Out: a `Scan`.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from janus_train.data.shards.index import (
    CODES_ENDING,
    FIELD_ENDINGS,
    IMAGE_ENDINGS,
    Member,
    ShardIndex,
    index_path,
    member_digest,
    some_of,
)
from janus_train.data.shards.tars import Slice, next_member
from janus_train.data.shards.vq_codes import RECORD, UNKNOWN, origin_in
from janus_train.errors import UserError
from janus_train.files import file_sha256, write_bytes

_MEMBER = re.compile(rf"(?P<stem>.+)\.(?P<ending>{'|'.join((*FIELD_ENDINGS, *IMAGE_ENDINGS, CODES_ENDING))})", re.I)
_NUMBERED = re.compile(r"(?P<key>.+)\.(?P<number>\d{1,6})")
_LONGEST_RECORD = 4096


@dataclass(frozen=True)
class Scan:
    """What indexing a tar found."""

    index: ShardIndex
    ignored: dict[str, int]
    """Members that are not read, counted by ending."""
    left_out: int
    """Samples with images but neither .json nor .txt."""


def write_index(tar: Path) -> Path:
    """Write ``tar``'s index beside it and return its path. Raises `UserError` as `scan` does."""
    path = index_path(tar)
    write_bytes(path, scan(tar).index.to_bytes())
    return path


def scan(tar: Path) -> Scan:
    """Read all of ``tar``. Raises `UserError` if it is damaged, has duplicate members, or holds no sample."""
    try:
        members, ignored, origin = _scan_members(tar)
        size, sha256 = tar.stat().st_size, file_sha256(tar)
    except tarfile.ReadError as error:
        raise UserError(f"{tar}: cannot be indexed, it is no readable tar without compression ({error})") from None
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{tar}: cannot be indexed, it cannot be read ({error})") from None
    samples = _group(tar, members)
    for key, found in samples.items():
        if "json" in found and "txt" in found:
            del found["txt"]
            ignored["txt beside a .json"] += 1
        samples[key] = found
    whole = {key: list(found.values()) for key, found in samples.items() if found.keys() & set(FIELD_ENDINGS)}
    if not whole:
        raise UserError(f"{tar}: cannot be indexed, none of its {len(samples)} samples has a .json or a .txt")
    if not origin and any(member.ending.endswith(CODES_ENDING) for found in whole.values() for member in found):
        origin = UNKNOWN
    return Scan(ShardIndex.of(size, sha256, whole, origin), dict(ignored), len(samples) - len(whole))


def _scan_members(tar: Path) -> tuple[list[tuple[str, Member]], Counter[str], str]:
    """(path without its ending, place) of every member that is read, how many others there are, and the codes' origin."""
    members: list[tuple[str, Member]] = []
    ignored: Counter[str] = Counter()
    origins: set[str] = set()
    size = tar.stat().st_size
    with tar.open("rb") as raw, tarfile.open(fileobj=Slice(raw, 0, size), mode="r:") as file:
        while (info := next_member(file, size)) is not None:
            file.members.clear()  # type: ignore[attr-defined] # tarfile keeps them all: a kilobyte each
            name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").removeprefix("./")
            match = _MEMBER.fullmatch(name)
            base = name.rpartition("/")[2]
            if base == RECORD and info.isfile() and info.size < _LONGEST_RECORD:
                record = file.extractfile(info)
                assert record is not None
                origins.add(origin_in(record.read()))
                continue
            if not info.isfile() or info.issparse() or match is None or base.startswith("."):
                if not info.isdir():
                    ignored[_what_is_ignored(info, base)] += 1
                continue
            data = file.extractfile(info)
            assert data is not None
            digest = member_digest(data.read())
            members.append((match["stem"], Member(match["ending"].lower(), info.offset_data, info.size, digest)))
        end = file.offset
    _check_end(tar, end)
    return members, ignored, origins.pop() if len(origins) == 1 else UNKNOWN if origins else ""


def _what_is_ignored(info: tarfile.TarInfo, base: str) -> str:
    if base.startswith("."):
        return "hidden file"
    if not info.isfile() or info.issparse():
        return "link or special file"
    return base.partition(".")[2].lower() or "no ending"


def _check_end(tar: Path, end: int) -> None:
    """tarfile takes a damaged header for the archive's end: there must be zeros from there on, and at least a block."""
    with tar.open("rb") as file:
        file.seek(end)
        found = 0
        while data := file.read(1 << 20):
            if data.count(0) != len(data):
                raise tarfile.ReadError(f"no header where one should be, at byte {end}")
            found += len(data)
    if found < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it stops at byte {end} without an end mark: truncated")


def _group(tar: Path, members: list[tuple[str, Member]]) -> dict[str, dict[str, Member]]:
    """Key -> ending -> member. Raises `UserError` listing keys that have two of a kind.

    ``a.0.jpg`` is image 0 of ``a``, or the one image of ``a.0`` if there is an ``a.0.json``.
    """
    described = {stem for stem, member in members if member.ending in FIELD_ENDINGS}
    samples: dict[str, dict[str, Member]] = {}
    places: set[tuple[str, str]] = set()
    twice: dict[str, None] = {}
    for stem, member in members:
        key, number = stem, ""
        numbered = _NUMBERED.fullmatch(stem)
        if numbered and stem not in described and member.ending not in FIELD_ENDINGS:
            key, number = numbered["key"], f"{int(numbered['number'])}."
        place = f"{number}image" if member.ending in IMAGE_ENDINGS else f"{number}{member.ending}"
        if (key, place) in places:
            twice[key] = None
        places.add((key, place))
        samples.setdefault(key, {})[number + member.ending] = member._replace(ending=number + member.ending)
    if twice:
        raise UserError(
            f"{tar}: cannot be indexed, keys must be unique, two members of a kind have {some_of(list(twice))}"
        )
    return samples
