"""Reads a tar once to make its index: which members belong to samples, their offsets, and whether the tar is complete.

In: members ``KEY.json`` (or ``KEY.txt``, a caption) plus ``KEY.jpg|png|webp`` (or ``KEY.0.jpg``, ``KEY.1.jpg``, ...),
optionally ``KEY.codes.npy`` (``KEY.0.codes.npy``), in any order. Other members are counted and ignored. Out: a `Scan`.
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
from janus_train.files import file_sha256, refuse_lfs_pointer, write_bytes

_MEMBER = re.compile(rf"(?P<stem>.+)\.(?P<ending>{'|'.join((*FIELD_ENDINGS, *IMAGE_ENDINGS, CODES_ENDING))})", re.I)
_NUMBERED = re.compile(r"(?P<key>.+)\.(?P<number>\d{1,6})")
_LONGEST_RECORD = 4096


@dataclass(frozen=True)
class Scan:
    """The result of scanning a tar."""

    index: ShardIndex
    ignored_counts: dict[str, int]
    """Members that are not read, counted by ending."""
    num_left_out: int
    """Samples with images but neither .json nor .txt."""


def write_index(tar: Path) -> Path:
    """Write ``tar``'s index beside it and return its path. Raises `UserError` as `scan` does."""
    path = index_path(tar)
    write_bytes(path, scan(tar).index.to_bytes())
    return path


def scan(tar: Path) -> Scan:
    """Read all of ``tar``. Raises `UserError` if it is damaged, has duplicate members, or contains no sample."""
    refuse_lfs_pointer(tar)
    try:
        members, ignored_counts, origin = _scan_members(tar)
        size, sha256 = tar.stat().st_size, file_sha256(tar)
    except tarfile.ReadError as error:
        raise UserError(f"{tar}: cannot be indexed, it is not a readable tar without compression ({error})") from None
    except (tarfile.TarError, OSError, ValueError) as error:  # ValueError: a header's number that is not one
        raise UserError(f"{tar}: cannot be indexed, it cannot be read ({error})") from None
    samples = _group(tar, members)
    for key, sample_members in samples.items():
        if "json" in sample_members and "txt" in sample_members:
            del sample_members["txt"]
            ignored_counts["txt beside a .json"] += 1
        samples[key] = sample_members
    complete_samples = {
        key: list(sample_members.values())
        for key, sample_members in samples.items()
        if sample_members.keys() & set(FIELD_ENDINGS)
    }
    if not complete_samples:
        raise UserError(f"{tar}: cannot be indexed, none of its {len(samples)} samples has a .json or a .txt")
    if not origin and any(
        member.ending.endswith(CODES_ENDING)
        for sample_members in complete_samples.values()
        for member in sample_members
    ):
        origin = UNKNOWN
    return Scan(
        ShardIndex.of(size, sha256, complete_samples, origin),
        dict(ignored_counts),
        len(samples) - len(complete_samples),
    )


def _scan_members(tar: Path) -> tuple[list[tuple[str, Member]], Counter[str], str]:
    """(path without its ending, member) of every usable member, the counts of the others, and the codes' origin."""
    members: list[tuple[str, Member]] = []
    ignored_counts: Counter[str] = Counter()
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
                    ignored_counts[_reason_to_ignore(info, base)] += 1
                continue
            data = file.extractfile(info)
            assert data is not None
            digest = member_digest(data.read())
            members.append((match["stem"], Member(match["ending"].lower(), info.offset_data, info.size, digest)))
        end = file.offset
    _check_end(tar, end)
    return members, ignored_counts, origins.pop() if len(origins) == 1 else UNKNOWN if origins else ""


def _reason_to_ignore(info: tarfile.TarInfo, base: str) -> str:
    if base.startswith("."):
        return "hidden file"
    if not info.isfile() or info.issparse():
        return "link or special file"
    return base.partition(".")[2].lower() or "no ending"


def _check_end(tar: Path, end: int) -> None:
    """Raise `ReadError` unless at least one block of zeros ends the tar: tarfile takes a damaged header for the end."""
    with tar.open("rb") as file:
        file.seek(end)
        num_zeros = 0
        while data := file.read(1 << 20):
            if data.count(0) != len(data):
                raise tarfile.ReadError(f"no header where one should be, at byte {end}")
            num_zeros += len(data)
    if num_zeros < tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it stops at byte {end} without an end mark: truncated")


def _group(tar: Path, members: list[tuple[str, Member]]) -> dict[str, dict[str, Member]]:
    """Key -> ending -> member. Raises `UserError` listing keys that have two members of one ending.

    ``a.0.jpg`` is image 0 of ``a``, or the one image of ``a.0`` if there is an ``a.0.json``.
    """
    described_stems = {stem for stem, member in members if member.ending in FIELD_ENDINGS}
    samples: dict[str, dict[str, Member]] = {}
    places: set[tuple[str, str]] = set()
    duplicate_keys: dict[str, None] = {}
    for stem, member in members:
        key, number = stem, ""
        number_match = _NUMBERED.fullmatch(stem)
        if number_match and stem not in described_stems and member.ending not in FIELD_ENDINGS:
            key, number = number_match["key"], f"{int(number_match['number'])}."
        place = f"{number}image" if member.ending in IMAGE_ENDINGS else f"{number}{member.ending}"
        if (key, place) in places:
            duplicate_keys[key] = None
        places.add((key, place))
        samples.setdefault(key, {})[number + member.ending] = member._replace(ending=number + member.ending)
    if duplicate_keys:
        raise UserError(
            f"{tar}: cannot be indexed, keys must be unique, two members of a kind have {some_of(list(duplicate_keys))}"
        )
    return samples
