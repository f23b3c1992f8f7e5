"""Reads a tar once to make its index: which members belong to samples, their offsets, and whether the tar is complete.

In: members ``KEY.json`` (or ``KEY.txt``, a caption) plus ``KEY.jpg|png|webp`` (or ``KEY.0.jpg``, ``KEY.1.jpg``, ...),
optionally ``KEY.codes.npy`` (``KEY.0.codes.npy``), in any order. Other members are counted and ignored. Out: a `Scan`.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from dataclasses import dataclass, field
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
from janus_train.data.shards.names import key_of, split_key
from janus_train.data.shards.tars import Slice, next_member
from janus_train.data.shards.vq_codes import RECORD, UNKNOWN, origin_in
from janus_train.errors import UserError
from janus_train.files import file_sha256, refuse_lfs_pointer, write_bytes

_MEMBER = re.compile(rf"(?P<stem>.+)\.(?P<ending>{'|'.join((*FIELD_ENDINGS, *IMAGE_ENDINGS, CODES_ENDING))})", re.I)
_LONGEST_RECORD = 4096


@dataclass
class _Samples:
    """A tar's samples by name; the keys whose members do not stand together, and those with several images for a text."""

    samples: dict[str, dict[str, Member]] = field(default_factory=dict)
    scattered_keys: list[str] = field(default_factory=list)
    ambiguous_keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scan:
    """The result of scanning a tar."""

    index: ShardIndex
    ignored_counts: dict[str, int]
    """Members that are not read, counted by ending."""
    num_left_out: int
    """Samples with images but neither .json nor .txt."""
    scattered_keys: list[str]
    """Keys whose members do not stand together in the tar: reading such a sample means reading several places."""
    ambiguous_keys: list[str]
    """Keys left out because it is not clear which of their images belongs to which text."""


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
    groups = _group(tar, members, ignored_counts)
    samples = groups.samples
    for sample_members in samples.values():
        if "json" in sample_members and "txt" in sample_members:
            del sample_members["txt"]
            ignored_counts["txt beside a .json"] += 1
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
        groups.scattered_keys,
        groups.ambiguous_keys,
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


def _group(tar: Path, members: list[tuple[str, Member]], ignored_counts: Counter[str]) -> _Samples:
    """Group the members by key (`data.shards.names`). Raises `UserError` listing keys that have two members of one kind."""
    members_of_key: dict[str, list[tuple[str, str, Member]]] = {}
    scattered_keys: set[str] = set()
    last_key = ""
    for stem, member in members:
        key = key_of(stem)
        if key != last_key and key in members_of_key:
            scattered_keys.add(key)
        members_of_key.setdefault(key, []).append((stem, member.ending, member))
        last_key = key
    result = _Samples(scattered_keys=sorted(scattered_keys))
    duplicates: list[str] = []
    for key, of_key in members_of_key.items():
        parts = split_key(key, of_key, FIELD_ENDINGS, IMAGE_ENDINGS)
        duplicates += parts.duplicates
        result.ambiguous_keys += parts.ambiguous
        ignored_counts.update(parts.unused)
        for name, sample in parts.samples.items():
            result.samples[name] = {ending: member._replace(ending=ending) for ending, member in sample.items()}
    if duplicates:
        raise UserError(
            f"{tar}: cannot be indexed, keys must be unique, two members of a kind have {some_of(duplicates)}"
        )
    return result
