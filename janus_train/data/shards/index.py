"""Indices of WebDataset tars: what makes a tar's samples random-access, and a folder's tars quick to open.

What scanning a tar finds (`data.shards.scan`) is kept in two places:

``NAME.tar.index.safetensors``  beside each tar: the tar's size and SHA-256, its samples' keys and where their members lie
``shards.json``                 in the tars' folder: each tar's name, size, SHA-256 and number of samples, read as one

An index is arrays and not JSON, because it is read again in every worker process: 10,000 samples open in a millisecond
and take 0.7 MB there, where parsed JSON takes 20 ms and 12 MB; and its size and count stand in the file's head, so that
they are read without the rest. Nothing here needs more memory than one tar's index.
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
from janus_train.data.storage.remote import MISSING, Location, folder_of, join, name_of, read_whole, retried
from janus_train.errors import UserError
from janus_train.files import file_sha256, open_regular, write_text

SCHEMA = 3
LISTING = "shards.json"
DIGEST_BYTES = 8
"""Members have their XXH3-64: enough against a bad disk, and twenty times as fast as a SHA-256. Whole tars have that."""
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
FIELD_ENDINGS = ("json", "txt")
CODES_ENDING = "codes.npy"
SHOWN = 5
"""So many keys or names stand in a message; it says how many more there are."""


@dataclass(frozen=True)
class Head:
    """What is known of a shard before anything of it is read."""

    size: int  # bytes of the tar
    sha256: str  # of the whole tar
    samples: int
    codes: str = ""  # where its cached codes come from (`data.shards.vq_codes`); empty: it has none


class Member(NamedTuple):
    """Where a part of a sample lies. ``ending``: json, txt, jpg, 0.jpg, codes.npy, 0.codes.npy, ..."""

    ending: str
    offset: int
    size: int
    digest: bytes


def member_digest(data: bytes) -> bytes:
    """What an index keeps of a member's bytes."""
    return xxh3_64_digest(data)


class ShardIndex:
    """The index of one tar: `Head`, and for each sample its key and members. About 70 bytes a sample."""

    def __init__(self, head: Head, endings: list[str], arrays: dict[str, np.ndarray]):
        self.head, self._endings, self._arrays = head, endings, arrays
        self._keys = StringArray(arrays["keys"], arrays["key_starts"])
        self._starts, self._offsets, self._sizes = arrays["member_starts"], arrays["offsets"], arrays["sizes"]
        self._ending, self._digests = arrays["endings"], arrays["digests"]

    @classmethod
    def of(cls, size: int, sha256: str, samples: dict[str, list[Member]], codes: str = "") -> ShardIndex:
        members = [member for of_key in samples.values() for member in of_key]
        endings = sorted({member.ending for member in members})
        number = {ending: i for i, ending in enumerate(endings)}
        keys = StringArray.of(samples)
        arrays = {
            "keys": keys.data,
            "key_starts": keys.starts,  # (N + 1,)
            "member_starts": np.cumsum([0, *map(len, samples.values())], dtype=np.uint64),  # (N + 1,)
            "endings": np.array([number[member.ending] for member in members], np.uint32),  # (M,), and so all below
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
        """A safetensors file; all that is no array is one JSON text in its metadata."""
        values = {"schema": SCHEMA, **asdict(self.head), "endings": self._endings}
        return save(self._arrays, metadata={"index": json.dumps(values)})

    @classmethod
    def from_bytes(cls, data: bytes, where: Location) -> ShardIndex:
        """Raises `UserError` naming ``where`` if it is no whole index of this schema."""
        head, endings = _parse_head(data, where)
        try:
            index = cls(head, endings, load(data))
            fits = index._consistent()
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(f"index {where} is damaged ({error}): make it again with janus-train index") from None
        if not fits:
            raise UserError(f"index {where} is damaged (its arrays do not fit each other): make it again")
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
    """Where a new index waits until the new tar has taken the old one's name (`data.shards.replace`)."""
    return tar.with_name(tar.name + ".index.safetensors.next")


def own_index(tar: Path) -> Path:
    """The index that belongs to ``tar`` as it is: a replacement that was cut short may have left it the waiting one."""
    waiting = next_index_path(tar)
    try:
        size, new = tar.stat().st_size, _head_of_file(waiting)
        if new.size != size:
            return index_path(tar)
        same_size = index_path(tar).is_file() and _head_of_file(index_path(tar)).size == size
        return waiting if not same_size or file_sha256(tar) == new.sha256 else index_path(tar)
    except OSError:  # no tar or, as nearly always, nothing that waits
        return index_path(tar)


def index_location(tar: Location) -> Location:
    """Where a shard's index is read from."""
    return own_index(tar) if isinstance(tar, Path) else join(folder_of(tar), name_of(tar) + ".index.safetensors")


def _parse_head(data: bytes, where: Location) -> tuple[Head, list[str]]:
    """From the first bytes of an index. safetensors: 8 bytes with the header's length, then the header as JSON."""
    try:
        values = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["index"])
        schema = values["schema"]
        if schema != SCHEMA:
            raise UserError(f"index {where} has schema {schema}, this version reads {SCHEMA}: make it again")
        return Head(values["size"], values["sha256"], values["samples"], values.get("codes", "")), values["endings"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"index {where} is damaged ({error}): make it again with janus-train index") from None


def _head_of_file(path: Path) -> Head:
    with open_regular(path) as file:
        length = file.read(8)
        return _parse_head(length + file.read(min(int.from_bytes(length, "little"), 1 << 24)), path)[0]


def read_head(tar: Location) -> Head:
    """Size, digest and count from a shard's own index. Raises `UserError` if there is none."""
    where = index_location(tar)
    try:
        if isinstance(where, Path):
            return retried(where, lambda path=where: _head_of_file(path))  # type: ignore[misc]
        return _parse_head(read_whole(where), where)[0]
    except MISSING:
        raise UserError(f"shard {tar} has no index {name_of(where)}: run janus-train index {tar}") from None


# -------------------------------------------------------------------------------------------------------------- folders


def some_of(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(map(repr, names[:SHOWN]))
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def write_listing(folder: Path) -> Path | None:
    """Write ``shards.json`` for the tars of ``folder`` that have an index; None if there are none.

    A tar without an index, or that has changed since, is left out of it: its index is asked for when it is opened.
    """
    heads = {}
    for tar in sorted(folder.glob("*.tar")):
        if own_index(tar).is_file():
            head = read_head(tar)
            if head.size == tar.stat().st_size:
                heads[tar.name] = head
    return write_heads(folder, heads) if heads else None


def write_heads(folder: Path, heads: dict[str, Head]) -> Path:
    """Write ``shards.json`` with these shards, by name and a line each."""
    lines = ",\n".join(json.dumps({"name": name, **asdict(heads[name])}, ensure_ascii=False) for name in sorted(heads))
    write_text(folder / LISTING, f'{{"schema": {SCHEMA}, "shards": [\n{lines}\n]}}\n')
    return folder / LISTING


def read_listing(folder: Location) -> dict[str, Head]:
    """The shards that the folder's ``shards.json`` names; empty without one. Raises `UserError` if it is damaged."""
    where = join(folder, LISTING)
    try:
        content = json.loads(read_whole(where).decode("utf-8"))
        if content["schema"] != SCHEMA:
            raise UserError(f"{where} has schema {content['schema']}, this version reads {SCHEMA}: make it again")
        found = {
            s["name"]: Head(int(s["size"]), str(s["sha256"]), int(s["samples"]), str(s.get("codes", "")))
            for s in content["shards"]
        }
    except MISSING:
        return {}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{where} is damaged ({error}): make it again with janus-train index") from None
    wrong = [name for name in found if "/" in name or not name.endswith(".tar")]
    if wrong:
        raise UserError(f"{where} names {some_of(wrong)}, which is no tar of its folder: make it again")
    return found
