"""WebDataset tars with an index beside each: any sample is read by its number, without scanning the tar.

In: ``NAME.tar`` with members ``KEY.json`` plus ``KEY.jpg|png|webp`` (or ``KEY.0.jpg``, ``KEY.1.jpg``, ...), optionally
``KEY.codes.npy``. Beside it ``NAME.tar.index.json``: the tar's own size and digest, and for every sample the offset,
size and digest of its members. Out: `Record`s. Members are read as raw bytes and never extracted; no pickle is opened.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from janus_train.config import UserError
from janus_train.data.sample import Record
from janus_train.files import file_sha256, write_text

SCHEMA = 1
PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp")
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP")
_MEMBER = re.compile(r"^(?P<key>.+?)\.(?P<ending>json|(?:\d+\.)?(?:jpg|jpeg|png|webp)|(?:\d+\.)?codes\.npy)$")
WHOLE_DIGEST_LIMIT = 64 << 20
"""Tars up to this many bytes are digested whole when opened (a second for all of a small data set); larger ones by size."""


def index_path(tar: Path) -> Path:
    return tar.with_name(tar.name + ".index.json")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def write_index(tar: Path) -> Path:
    """Write ``tar``'s index beside it and return its path. Raises `UserError` for a damaged tar or duplicate members."""
    samples: dict[str, dict[str, list[Any]]] = {}
    try:
        with tarfile.open(tar) as file:
            for member in file:
                match = _MEMBER.match(member.name)
                if not member.isfile() or match is None:
                    raise UserError(f"{tar}: member {member.name!r} is not KEY.json, KEY.jpg|png|webp or KEY.codes.npy")
                members = samples.setdefault(match["key"], {})
                if match["ending"] in members:
                    raise UserError(
                        f"{tar}: key {match['key']!r} has two members .{match['ending']}: keys must be unique"
                    )
                data = file.extractfile(member)
                assert data is not None
                members[match["ending"]] = [member.offset_data, member.size, _sha256(data.read())]
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{tar}: cannot be indexed, it is no readable tar ({error})") from None
    missing = [key for key, members in samples.items() if "json" not in members]
    if missing:
        raise UserError(f"{tar}: {len(missing)} samples have no .json, the first is {missing[0]!r}")
    content = {
        "schema": SCHEMA,
        "size": tar.stat().st_size,
        "sha256": file_sha256(tar),
        "samples": [{"key": key, "members": members} for key, members in samples.items()],
    }
    path = index_path(tar)
    write_text(path, json.dumps(content, separators=(",", ":")) + "\n")
    return path


@dataclass
class Shard:
    """One tar, opened through its index. Raises `UserError` naming the tar if it is not what the index says."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise UserError(f"shard {self.path} does not exist")
        if not index_path(self.path).exists():
            raise UserError(
                f"shard {self.path} has no index {index_path(self.path).name}: run janus-train index {self.path}"
            )
        try:
            content = json.loads(index_path(self.path).read_text(encoding="utf-8"))
            size, whole, self.samples, schema = (
                content["size"],
                content["sha256"],
                content["samples"],
                content["schema"],
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"index {index_path(self.path)} is damaged ({error}): make it again") from None
        if schema != SCHEMA:
            raise UserError(f"index {index_path(self.path)} has schema {schema}, this version reads {SCHEMA}")
        actual = self.path.stat().st_size
        if actual != size:
            raise UserError(f"shard {self.path} is damaged: {actual} bytes, its index says {size}")
        if size <= WHOLE_DIGEST_LIMIT and file_sha256(self.path) != whole:
            raise UserError(f"shard {self.path} is damaged: its SHA-256 is not the one in its index")
        self._file: int | None = None
        self._pid = 0

    def __len__(self) -> int:
        return len(self.samples)

    def member(self, number: int, ending: str) -> bytes | None:
        """The bytes of a sample's member, checked against its digest; None if the sample has no such member."""
        place = self.samples[number]["members"].get(ending)
        if place is None:
            return None
        offset, size, expected = place
        if self._file is None or self._pid != os.getpid():  # a worker process opens its own file
            self._file, self._pid = os.open(self.path, os.O_RDONLY), os.getpid()
        data = os.pread(self._file, size, offset)
        if _sha256(data) != expected:
            raise UserError(
                f"shard {self.path} is damaged: {self.samples[number]['key']}.{ending} differs from its digest"
            )
        return data

    def record(self, number: int) -> Record:
        """The sample ``number`` with its pictures opened (decoded when first used)."""
        key: str = self.samples[number]["key"]
        where = f"shard {self.path}, sample {key!r}"
        try:
            fields = json.loads((self.member(number, "json") or b"").decode("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UserError(f"{where}: its .json cannot be read ({error})") from None
        if not isinstance(fields, dict):
            raise UserError(f"{where}: its .json is not an object")
        pictures: list[Image.Image] = []
        codes: list[np.ndarray | None] = []
        for prefix, ending in self._pictures(number):
            try:
                data = self.member(number, f"{prefix}{ending}")
                assert data is not None
                pictures.append(Image.open(io.BytesIO(data), formats=PICTURE_FORMATS))
                cached = self.member(number, f"{prefix}codes.npy")
                codes.append(
                    None if cached is None else np.load(io.BytesIO(cached), allow_pickle=False).astype(np.int64)
                )
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise UserError(f"{where}: its picture or codes cannot be read ({error})") from None
        return Record(key, fields, pictures, codes)

    def _pictures(self, number: int) -> list[tuple[str, str]]:
        """(prefix, ending) of the sample's pictures in order: ``('', 'jpg')`` or ``('0.', 'jpg'), ('1.', 'jpg')``."""
        found = []
        for ending in self.samples[number]["members"]:
            prefix, _, last = ending.rpartition(".")
            if last in PICTURE_ENDINGS:
                found.append((int(prefix) if prefix else -1, f"{prefix}." if prefix else "", last))
        return [(prefix, last) for _, prefix, last in sorted(found)]


class ShardSource:
    """A folder or list of indexed tars as one random-access sequence of records."""

    def __init__(self, tars: list[Path]):
        if not tars:
            raise UserError("a shard source needs at least one .tar")
        self.shards = [Shard(path) for path in tars]
        self._starts = [0]
        for shard in self.shards:
            self._starts.append(self._starts[-1] + len(shard))
        if not len(self):
            raise UserError(f"shard {tars[0]} and its {len(tars) - 1} neighbours hold no sample")

    @property
    def shard_sizes(self) -> list[int]:
        return [len(shard) for shard in self.shards]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Record:
        shard = bisect_right(self._starts, index) - 1
        return self.shards[shard].record(index - self._starts[shard])
