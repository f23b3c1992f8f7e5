"""Indices of WebDataset tars, which give random access to a tar's samples and make a folder of tars quick to open.

The result of scanning a tar (`data.shards.scan`) is stored in two places:

``NAME.tar.index.safetensors``  beside each tar: the tar's size and SHA-256, its samples' keys and their members' offsets
``shards.json``                 in the tars' folder: each tar's name, size, SHA-256 and number of samples, in one file

An index consists of arrays, not JSON, because every worker process reads it again: 10,000 samples open in a millisecond
and take 0.7 MB, where parsed JSON takes 20 ms and 12 MB. Size and count are in the file's head, which can be read
without the rest. Nothing here needs more memory than one tar's index.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save
from xxhash import xxh3_64_digest

from janus_train.data.shards.string_array import StringArray
from janus_train.data.storage.remote import MISSING, Location, folder_of, join, name_of, read_all, with_retries
from janus_train.errors import UserError
from janus_train.files import LFS_POINTER, file_sha256, is_lfs_pointer, open_regular, write_text

SCHEMA = 3
LISTING = "shards.json"
DIGEST_BYTES = 8
"""Members are checked by XXH3-64: enough against a bad disk, and twenty times as fast as SHA-256, which whole tars have."""
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
FIELD_ENDINGS = ("json", "txt")
CODES_ENDING = "codes.npy"
MAX_SHOWN = 5
"""A message lists this many keys or names, and the number of further ones."""


@dataclass(frozen=True)
class Head:
    """The facts about a shard that are known before the shard is read."""

    size: int  # bytes of the tar
    sha256: str  # of the whole tar
    samples: int
    codes: str = ""  # the origin of its cached codes (`data.shards.vq_codes`); empty if it has none


class Member(NamedTuple):
    """The position of a part of a sample in the tar. ``ending``: json, txt, jpg, 0.jpg, codes.npy, 0.codes.npy, ..."""

    ending: str
    offset: int
    size: int
    digest: bytes


def member_digest(data: bytes) -> bytes:
    """The digest of a member's bytes in the index."""
    return xxh3_64_digest(data)


class ShardIndex:
    """The index of one tar: `Head`, and for each of N samples its key and members. About 70 bytes per sample."""

    def __init__(self, head: Head, endings: list[str], arrays: dict[str, np.ndarray]):
        self.head, self._endings, self._arrays = head, endings, arrays
        self._keys = StringArray(arrays["keys"], arrays["key_starts"])
        self._starts, self._offsets, self._sizes = arrays["member_starts"], arrays["offsets"], arrays["sizes"]
        self._ending, self._digests = arrays["endings"], arrays["digests"]

    @classmethod
    def of(cls, size: int, sha256: str, samples: dict[str, list[Member]], codes: str = "") -> ShardIndex:
        members = [member for of_key in samples.values() for member in of_key]
        endings = sorted({member.ending for member in members})
        number_of_ending = {ending: i for i, ending in enumerate(endings)}
        keys = StringArray.of(samples)
        arrays = {
            "keys": keys.data,
            "key_starts": keys.starts,  # (N + 1,)
            "member_starts": np.cumsum([0, *map(len, samples.values())], dtype=np.uint64),  # (N + 1,)
            "endings": np.array(
                [number_of_ending[member.ending] for member in members], np.uint32
            ),  # one entry per member, like all below
            "offsets": np.array([member.offset for member in members], np.uint64),
            "sizes": np.array([member.size for member in members], np.uint64),
            "digests": np.frombuffer(b"".join(m.digest for m in members), np.uint8).reshape(-1, DIGEST_BYTES),
        }
        return cls(Head(size, sha256, len(samples), codes), endings, arrays)

    def __len__(self) -> int:
        return self.head.samples

    def key(self, number: int) -> str:
        return self._keys[number]

    def members(self, number: int) -> list[Member]:
        """The sample's members in the tar's order."""
        part = slice(int(self._starts[number]), int(self._starts[number + 1]))
        digests = self._digests[part].tobytes()
        places = zip(self._ending[part].tolist(), self._offsets[part].tolist(), self._sizes[part].tolist(), strict=True)
        return [
            Member(self._endings[ending], offset, size, digests[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)])
            for i, (ending, offset, size) in enumerate(places)
        ]

    # -- as a file

    def to_bytes(self) -> bytes:
        """The index as a safetensors file; everything that is not an array is one JSON string in its metadata."""
        values = {"schema": SCHEMA, **asdict(self.head), "endings": self._endings}
        return save(self._arrays, metadata={"index": json.dumps(values)})

    @classmethod
    def from_bytes(cls, data: bytes, location: Location) -> ShardIndex:
        """Parse an index. Raises `UserError` naming ``location`` if it is not a complete index of this schema."""
        head, endings = _parse_head(data, location)
        try:
            index = cls(head, endings, load(data))
            is_consistent = index._consistent()
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"index {location} is damaged ({error}): make it again with janus-train index") from None
        if not is_consistent:
            raise UserError(f"index {location} is damaged (its arrays do not fit each other): make it again")
        return index

    def _consistent(self) -> bool:
        members = int(self._starts[-1])
        return (
            len(self._keys) + 1 == len(self._starts) == self.head.samples + 1
            and len(self._keys.data) == self._keys.starts[-1]
            and len(self._offsets) == len(self._sizes) == len(self._ending) == members
            and self._digests.shape == (members, DIGEST_BYTES)
            and (not members or int(self._ending.max()) < len(self._endings))
            and (not members or int((self._offsets + self._sizes).max()) <= self.head.size)
        )


def index_path(tar: Path) -> Path:
    return tar.with_name(tar.name + ".index.safetensors")


def next_index_path(tar: Path) -> Path:
    """The path of a new index until the new tar has taken the old one's name (`data.shards.replace`)."""
    return tar.with_name(tar.name + ".index.safetensors.next")


def own_index(tar: Path) -> Path:
    """The index that belongs to ``tar``; after an interrupted replacement that may be the one at `next_index_path`."""
    next_path = next_index_path(tar)
    try:
        size, new_head = tar.stat().st_size, _head_of_file(next_path)
        if new_head.size != size:
            return index_path(tar)
        old_index_fits = index_path(tar).is_file() and _head_of_file(index_path(tar)).size == size
        return next_path if not old_index_fits or file_sha256(tar) == new_head.sha256 else index_path(tar)
    except OSError:  # no tar or, nearly always, no second index
        return index_path(tar)


def index_location(tar: Location) -> Location:
    """The location to read a shard's index from."""
    return own_index(tar) if isinstance(tar, Path) else join(folder_of(tar), name_of(tar) + ".index.safetensors")


def _parse_head(data: bytes, location: Location) -> tuple[Head, list[str]]:
    """Head and endings from the first bytes of a safetensors file: the header's length in 8 bytes, then the header as JSON."""
    if is_lfs_pointer(data):
        raise UserError(f"index {location} {LFS_POINTER}")
    try:
        values = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["index"])
        schema = values["schema"]
        if schema != SCHEMA:
            raise UserError(f"index {location} has schema {schema}, this version reads {SCHEMA}: make it again")
        return Head(values["size"], values["sha256"], values["samples"], values.get("codes", "")), values["endings"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"index {location} is damaged ({error}): make it again with janus-train index") from None


def _head_of_file(path: Path) -> Head:
    with open_regular(path) as file:
        length = file.read(8)
        return _parse_head(length + file.read(min(int.from_bytes(length, "little"), 1 << 24)), path)[0]


def read_head(tar: Location) -> Head:
    """Read size, digest and count from a shard's own index. Raises `UserError` if there is none."""
    location = index_location(tar)
    try:
        if isinstance(location, Path):
            return with_retries(location, lambda path=location: _head_of_file(path))  # type: ignore[misc]
        return _parse_head(read_all(location), location)[0]
    except MISSING:
        raise UserError(f"shard {tar} has no index {name_of(location)}: run janus-train index {tar}") from None


# -------------------------------------------------------------------------------------------------------------- folders


def some_of(names: list[str]) -> str:
    """The first names of a list, and the number of further ones, for a message."""
    first_names = ", ".join(map(repr, names[:MAX_SHOWN]))
    return f"{first_names} and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else first_names


def write_listing(folder: Path) -> Path | None:
    """Write ``shards.json`` for the tars of ``folder`` that have an index; None if there are none.

    A tar without an index, or one that has changed since it was indexed, is not listed: opening it reads its index.
    """
    heads = {}
    for tar in sorted(folder.glob("*.tar")):
        if own_index(tar).is_file():
            head = read_head(tar)
            if head.size == tar.stat().st_size:
                heads[tar.name] = head
    return write_heads(folder, heads) if heads else None


def write_heads(folder: Path, heads: dict[str, Head]) -> Path:
    """Write ``shards.json`` with these shards, sorted by name, one per line; in ASCII, because names need not be UTF-8."""
    lines = ",\n".join(json.dumps({"name": name, **asdict(heads[name])}) for name in sorted(heads))
    write_text(folder / LISTING, f'{{"schema": {SCHEMA}, "shards": [\n{lines}\n]}}\n')
    return folder / LISTING


def read_listing(folder: Location) -> dict[str, Head]:
    """The shards in the folder's ``shards.json``; empty if there is none. Raises `UserError` if the file is damaged."""
    location = join(folder, LISTING)
    try:
        data = read_all(location)
        if is_lfs_pointer(data):
            raise UserError(f"{location} {LFS_POINTER}")
        content = json.loads(data.decode("utf-8"))
        if content["schema"] != SCHEMA:
            raise UserError(f"{location} has schema {content['schema']}, this version reads {SCHEMA}: make it again")
        heads = {
            s["name"]: Head(int(s["size"]), str(s["sha256"]), int(s["samples"]), str(s.get("codes", "")))
            for s in content["shards"]
        }
    except MISSING:
        return {}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{location} is damaged ({error}): make it again with janus-train index") from None
    bad_names = [name for name in heads if "/" in name or not name.endswith(".tar")]
    if bad_names:
        raise UserError(f"{location} names {some_of(bad_names)}, which is not a tar in its folder: make it again")
    return heads
