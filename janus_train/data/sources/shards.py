"""Indexed WebDataset tars as one random-access sequence of records, from a local disk or from an object store.

    shards.json (or each index's head) -> sizes        a shard's index, on first use -> places        ranges -> records

Opening reads one small file per folder and compares each tar's size. An index (`data.shards.index`) is read when one of its
samples is needed, and only a few are kept, so memory does not grow with the data. Members are read as raw bytes, checked
against their digests and never extracted.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import lru_cache
from glob import has_magic
from pathlib import Path
from typing import Any

from janus_train.data.shards.index import (
    CODES_ENDING,
    IMAGE_ENDINGS,
    Head,
    Member,
    ShardIndex,
    index_location,
    member_digest,
    read_head,
    read_listing,
)
from janus_train.data.sources.decode import SHARD_FORMATS, caption_of, codes_of, fields_of, image_of
from janus_train.data.sources.registry import SourceConfig, register_source
from janus_train.data.storage.file_states import file_sizes
from janus_train.data.storage.remote import (
    MISSING,
    THREADS,
    Location,
    Reader,
    find,
    folder_of,
    is_remote,
    join,
    name_of,
    open_reader,
    read_copy,
)
from janus_train.data.types import BadSample, Record, digest
from janus_train.data.unused import file_reason, is_counting, not_used
from janus_train.errors import UserError
from janus_train.files import refuse_lfs_pointer

WHOLE_DIGEST_LIMIT = 64 << 20
"""Sources up to this many bytes are checked by their SHA-256 when they are opened (below a second); larger ones by size."""
OPEN_SHARDS = 8
"""Number of indices and files to keep open: two windows of the reading order (`data.shuffle`), as an epoch's end needs."""
GAP = 64 << 10
"""Members of a sample that are at most this many bytes apart are read in one piece."""
_CHUNK = 8 << 20
_BESIDE_TARS = (".index.safetensors", "shards.json", "prepared.json", "skipped.jsonl", "inputs.jsonl")
"""The endings of files that this project writes beside tars."""


def find_tars(pattern: Location) -> list[Location]:
    """The tars that a recipe's path matches: a tar, a pattern, or a folder.

    What stands beside them on a local disk and is no tar is counted (`data.unused`).
    HTTP servers cannot list folders: there a pattern or a folder matches the tars in the folder's ``shards.json``.
    """
    if isinstance(pattern, str) and pattern.startswith("http"):
        folder, name_pattern = folder_of(pattern), name_of(pattern)
        if not name_pattern.endswith(".tar") and not has_magic(name_pattern):
            folder, name_pattern = pattern, "*.tar"
        if not has_magic(name_pattern):
            return [pattern]
        return [join(folder, name) for name in sorted(read_listing(folder)) if fnmatchcase(name, name_pattern)]
    locations = find(pattern)
    tars = [location for location in locations if name_of(location).endswith(".tar")]
    if not tars:
        return [tar for folder in locations for tar in _tars_in(folder)]
    _count_others(location for location in locations if isinstance(location, Path))
    return tars


def _tars_in(folder: Location) -> list[Location]:
    if not isinstance(folder, Path):
        return find(join(folder, "*.tar"))
    if folder.is_dir():
        _count_others(folder.iterdir())
    return list(sorted(folder.glob("*.tar")))


def _count_others(paths: Iterable[Path]) -> None:
    for path in paths if is_counting() else ():
        if path.is_dir() and any(path.glob("*.tar")):
            not_used("folders with tars inside a folder or pattern of tars")
        elif path.is_file() and path.name[0] != "." and not path.name.endswith((".tar", *_BESIDE_TARS)):
            not_used(file_reason(path.name))


class ShardSource:
    """Tars, with an index beside each, as one sequence of records.

    Raises `UserError` naming the shard if one is missing, has no index or does not match its index.
    """

    def __init__(self, tars: Sequence[Location]):
        if not tars:
            raise UserError("a shard source needs at least one .tar")
        self.tars = list(tars)
        self._heads = _heads(self.tars)
        self._check()
        self.shard_sizes = [head.samples for head in self._heads]
        self._starts = [0]
        for samples in self.shard_sizes:
            self._starts.append(self._starts[-1] + samples)
        if not len(self):
            raise UserError(f"shard {self.tars[0]} and its {len(self.tars) - 1} neighbours contain no sample")
        self._open_caches()

    def _open_caches(self) -> None:
        self._index = lru_cache(OPEN_SHARDS)(self._read_index)
        self._reader = lru_cache(OPEN_SHARDS)(self._open_reader)

    def __getstate__(self) -> dict[str, Any]:
        """A source is sent to worker processes without its open files and indices."""
        return {name: value for name, value in vars(self).items() if name not in ("_index", "_reader")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_caches()

    def __len__(self) -> int:
        return self._starts[-1]

    def data_digest(self) -> str:
        """Changes with any byte of any shard."""
        return digest([head.sha256 for head in self._heads])

    def __getitem__(self, index: int) -> Record:
        """Read a sample. Raises `BadSample` if it is unusable, `UserError` if its shard cannot be read at all."""
        shard, number = self._place(index)
        places = self._index(shard)
        key = places.key(number)
        parts = self._members(shard, key, places.members(number))
        fields = fields_of(parts["json"], key) if "json" in parts else caption_of(parts["txt"], key)
        images, codes = [], []
        for prefix, ending in _images(parts):
            images.append(image_of(parts[prefix + ending], SHARD_FORMATS, key))
            code_bytes = parts.get(prefix + CODES_ENDING)
            codes.append(None if code_bytes is None else codes_of(code_bytes, key))
        return Record(key, fields, images, codes)

    def key(self, index: int) -> str:
        shard, number = self._place(index)
        return self._index(shard).key(number)

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of a sample, and its number in it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect_right(self._starts, index) - 1
        return shard, index - self._starts[shard]

    @property
    def codes_origins(self) -> dict[str, Location]:
        """The origins of the shards' cached codes (`data.shards.vq_codes`), and the first tar of each origin."""
        return {head.codes: tar for tar, head in zip(self.tars[::-1], self._heads[::-1], strict=True) if head.codes}

    # -- opening

    def _check(self) -> None:
        """Raise `UserError` unless every tar has the size in its index, and the SHA-256 too if the source is small."""
        for tar, head, size in zip(self.tars, self._heads, file_sizes(self.tars), strict=True):
            if size is None:
                raise UserError(f"shard {tar} does not exist (its index says {head.size} bytes)")
            if size != head.size:
                if isinstance(tar, Path):
                    refuse_lfs_pointer(tar)
                raise UserError(
                    f"shard {tar} is damaged: it has {size} bytes, its index says {head.size} (changed on purpose? run janus-train index {tar})"
                )
        if sum(head.size for head in self._heads) > WHOLE_DIGEST_LIMIT:
            return
        for tar, head in zip(self.tars, self._heads, strict=True):
            hasher, reader = hashlib.sha256(), open_reader(tar, head.size, head.sha256)
            for offset in range(0, head.size, _CHUNK):
                hasher.update(reader.read(offset, min(_CHUNK, head.size - offset)))
            if hasher.hexdigest() != head.sha256:
                raise UserError(f"shard {tar} is damaged: its SHA-256 is not the one in its index")

    # -- reading

    def _read_index(self, shard: int) -> ShardIndex:
        tar, head = self.tars[shard], self._heads[shard]
        location = index_location(tar)
        try:
            try:
                index = ShardIndex.from_bytes(read_copy(location, head.sha256), location)
            except UserError:
                index = ShardIndex.from_bytes(read_copy(location, head.sha256, bypass_cache=True), location)
        except MISSING:
            raise UserError(f"shard {tar} has no index {name_of(location)}: run janus-train index {tar}") from None
        if index.head != head:
            raise UserError(
                f"index {location} does not match its folder's shards.json: run janus-train index {folder_of(tar)}"
            )
        return index

    def _open_reader(self, shard: int) -> Reader:
        head = self._heads[shard]
        try:
            return open_reader(self.tars[shard], head.size, head.sha256)
        except MISSING:
            raise UserError(f"shard {self.tars[shard]} has gone") from None

    def _members(self, shard: int, key: str, members: list[Member]) -> dict[str, bytes]:
        """Read members: ending -> bytes, each checked against its digest."""
        start = min(member.offset for member in members)
        end = max(member.offset + member.size for member in members)
        if end - start > sum(member.size for member in members) + GAP * len(members):
            return {member.ending: self._read_checked(shard, key, member) for member in members}
        block = self._read(shard, start, end - start)
        data_of_ending = {}
        for member in members:
            data = block[member.offset - start : member.offset - start + member.size]
            is_intact = member_digest(data) == member.digest
            data_of_ending[member.ending] = (
                data if is_intact else self._read_checked(shard, key, member, bypass_cache=True)
            )
        return data_of_ending

    def _read_checked(self, shard: int, key: str, member: Member, bypass_cache: bool = False) -> bytes:
        """Read a member and check its digest; if it is wrong, read once more without the cache."""
        data = self._read(shard, member.offset, member.size, bypass_cache)
        if member_digest(data) == member.digest:
            return data
        if not bypass_cache:
            return self._read_checked(shard, key, member, bypass_cache=True)
        raise BadSample(
            f"shard {self.tars[shard]}: the bytes of its .{member.ending} are not those indexed", key=key, damaged=True
        )

    def _read(self, shard: int, offset: int, size: int, bypass_cache: bool = False) -> bytes:
        try:
            data = self._reader(shard).read(offset, size, bypass_cache)
        except MISSING:
            raise UserError(f"shard {self.tars[shard]} has gone") from None
        if len(data) < size:
            raise UserError(
                f"shard {self.tars[shard]} is damaged: it ends before byte {offset + size}, its index says {self._heads[shard].size} bytes"
            )
        return data


def _heads(tars: list[Location]) -> list[Head]:
    """Read size, digest and count of each tar from its folder's ``shards.json``, else from its own index."""
    listings = {folder: read_listing(folder) for folder in dict.fromkeys(map(folder_of, tars))}
    listed_heads = [listings[folder_of(tar)].get(name_of(tar)) for tar in tars]
    unlisted_tars = [tar for tar, head in zip(tars, listed_heads, strict=True) if head is None]
    if any(map(is_remote, unlisted_tars)):
        with ThreadPoolExecutor(THREADS) as pool:
            own_heads = iter(list(pool.map(read_head, unlisted_tars)))
    else:
        own_heads = map(read_head, unlisted_tars)
    return [head or next(own_heads) for head in listed_heads]


def _images(parts: dict[str, bytes]) -> list[tuple[str, str]]:
    """(prefix, ending) of the sample's images in order: ``('', 'jpg')`` or ``('0.', 'jpg'), ('1.', 'jpg')``."""
    images = []
    for name in parts:
        prefix, _, ending = name.rpartition(".")
        if ending in IMAGE_ENDINGS:
            images.append((int(prefix) if prefix else -1, f"{prefix}." if prefix else "", ending))
    return [(prefix, ending) for _, prefix, ending in sorted(images)]


@register_source("shards", tars="samples", urls=True)
def open_shards(config: SourceConfig, places: list[Location], image_size: int) -> ShardSource:
    return ShardSource(places)
