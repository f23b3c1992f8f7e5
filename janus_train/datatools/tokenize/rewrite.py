"""A tar to the same tar with codes: every member is copied as it is, checked on the way, and codes follow each sample.

    places of the members --> pixels (threads, some batches ahead) --> codes (the encoder) --> the new tar

The copy is byte for byte, headers included, so that nothing a tar may hold is lost; the codes of a sample come after its
last member, so that readers which take a tar from front to end find its members together.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import torch

from janus_train.data.images import generation_pixels, to_float
from janus_train.data.shards.index import CODES_ENDING, IMAGE_ENDINGS, Member, ShardIndex, member_digest
from janus_train.data.shards.scan import scan
from janus_train.data.shards.vq_codes import RECORD
from janus_train.data.sources.decode import SHARD_FORMATS, image_of
from janus_train.data.types import BadSample
from janus_train.errors import UserError
from janus_train.files import sync
from janus_train.model.vq import CodeEncoder

BATCH = 32
"""Images that are encoded at a time."""
AHEAD = 3
"""Batches that are read and resized before the encoder asks for them."""
_CHUNK = 4 << 20
_BLOCK, _RECORD_SIZE = tarfile.BLOCKSIZE, tarfile.RECORDSIZE


@dataclass(frozen=True)
class _Image:
    """A member that gets codes, and the name that they get in the tar."""

    key: str
    member: Member
    codes_name: str


@dataclass
class _TarStretch:
    """A stretch of the old tar: one member with its headers, or what stands between members."""

    start: int
    stop: int
    member: Member | None = None  # None: it is not read by anyone, and copied unchecked
    where: str = ""
    ends_sample: bool = False
    images: list[_Image] = field(default_factory=list)  # those whose codes come after this piece


@dataclass(frozen=True)
class RewriteCounts:
    """What was done with a tar."""

    images: int
    without: list[str]
    """Keys of samples of which an image cannot be decoded: it got no codes."""


def rewrite(
    tar: Path,
    index: ShardIndex,
    target: Path,
    encoder: CodeEncoder,
    threads: int,
    done: Callable[[int], None] = lambda number: None,
) -> tuple[ShardIndex, RewriteCounts]:
    """Write ``tar`` with codes to ``target``, complete and on the disk, and return its index; codes it had are left out.

    ``done`` is told how many more samples are through. Raises `UserError` naming the tar if any of its bytes are not
    those that were indexed.
    """
    pieces = _pieces(tar, index)
    images = [image for piece in pieces for image in piece.images]
    without: list[str] = []
    descriptor = os.open(tar, os.O_RDONLY)
    pool = ThreadPoolExecutor(threads)
    try:
        with target.open("r+b" if target.exists() else "w+b") as out:
            out.truncate(0)
            _add(out, RECORD, encoder.origin.record())
            made = _encoded(images, tar, descriptor, encoder, pool)
            for piece in pieces:
                _copy(descriptor, piece, out, tar)
                for image in piece.images:
                    codes = next(made)
                    if codes is None:
                        without.append(image.key)
                    else:
                        _add(out, image.codes_name, _npy(codes))
                if piece.ends_sample:
                    done(1)
            out.write(bytes(2 * _BLOCK))
            out.write(bytes(-out.tell() % _RECORD_SIZE))
        sync(target)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.close(descriptor)
    found = scan(target).index
    _check_same(tar, index, found)
    return found, RewriteCounts(len(images), without)


# ------------------------------------------------------------------------------------------------------------ the old tar


def _pieces(tar: Path, index: ShardIndex) -> list[_TarStretch]:
    """The old tar from front to end, without codes and their record."""
    places = {m.offset: (number, m) for number in range(len(index)) for m in index.members(number)}
    pieces: list[_TarStretch] = []
    names: dict[int, str] = {}  # offset of a member's data -> its name in the tar
    last: dict[int, _TarStretch] = {}  # sample -> the piece with its last member
    start = 0
    try:
        with tarfile.open(tar, "r:") as file:
            while (info := file.next()) is not None:
                file.members.clear()  # type: ignore[attr-defined] # tarfile keeps them all
                stop = file.offset
                number, member = places.get(info.offset_data, (-1, None))
                names[info.offset_data] = info.name
                is_codes = member is not None and member.ending.endswith(CODES_ENDING)
                if not is_codes and info.name != RECORD:
                    pieces.append(_TarStretch(start, stop, member, info.name))
                    if member is not None:
                        last[number] = pieces[-1]
                start = stop
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"shard {tar} cannot be read ({error})") from None
    for number, piece in last.items():
        piece.ends_sample, piece.images = True, _images(index, number, names)
    return pieces


def has_images(index: ShardIndex) -> bool:
    return any(
        member.ending.rpartition(".")[2] in IMAGE_ENDINGS for n in range(len(index)) for member in index.members(n)
    )


def _images(index: ShardIndex, number: int, names: dict[int, str]) -> list[_Image]:
    """The sample's images by their numbers. Codes are named after the image, in its spelling."""
    found = []
    for member in index.members(number):
        prefix, _, ending = member.ending.rpartition(".")
        if ending in IMAGE_ENDINGS:
            name = names[member.offset][: -len(ending)] + CODES_ENDING
            found.append((int(prefix) if prefix else -1, _Image(index.key(number), member, name)))
    return [image for _, image in sorted(found, key=lambda pair: pair[0])]


def _copy(descriptor: int, piece: _TarStretch, out: IO[bytes], tar: Path) -> None:
    if piece.member is not None:
        data = _read(descriptor, piece.start, piece.stop - piece.start, tar)
        inside = piece.member.offset - piece.start
        _check(data[inside : inside + piece.member.size], piece.member, tar, piece.where)
        out.write(data)
        return
    for start in range(piece.start, piece.stop, _CHUNK):
        out.write(_read(descriptor, start, min(_CHUNK, piece.stop - start), tar))


def _read(descriptor: int, start: int, size: int, tar: Path) -> bytes:
    try:
        data = os.pread(descriptor, size, start)
    except OSError as error:
        raise UserError(f"shard {tar} cannot be read ({error.strerror})") from None
    if len(data) < size:
        raise UserError(f"shard {tar} is damaged: it ends before byte {start + size}")
    return data


def _check(data: bytes, member: Member, tar: Path, what: str) -> None:
    if member_digest(data) != member.digest:
        raise UserError(f"shard {tar} is damaged: the bytes of {what} are not those indexed; nothing is written")


# --------------------------------------------------------------------------------------------------------------- codes


def _encoded(
    images: list[_Image], tar: Path, descriptor: int, encoder: CodeEncoder, pool: ThreadPoolExecutor
) -> Iterator[np.ndarray | None]:
    """Codes (P,) uint16 of each image in order, None for one that cannot be decoded."""

    def pixels(member: _Image) -> np.ndarray | None:
        data = _read(descriptor, member.member.offset, member.member.size, tar)
        _check(data, member.member, tar, member.codes_name)
        try:
            decoded = image_of(data, SHARD_FORMATS, member.key)
            return to_float(generation_pixels(decoded, encoder.image_size))
        except BadSample:
            return None

    waiting: deque[list[Future[np.ndarray | None]]] = deque()
    batches = iter([images[i : i + BATCH] for i in range(0, len(images), BATCH)])
    while True:
        while len(waiting) < AHEAD and (batch := next(batches, None)) is not None:
            waiting.append([pool.submit(pixels, member) for member in batch])
        if not waiting:
            return
        found = [future.result() for future in waiting.popleft()]
        good = [values for values in found if values is not None]
        codes = iter(encoder.codes(torch.from_numpy(np.stack(good))) if good else ())
        for values in found:
            yield None if values is None else next(codes)


# ------------------------------------------------------------------------------------------------------------ the new tar


def _npy(codes: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, codes, allow_pickle=False)
    return buffer.getvalue()


def _add(out: IO[bytes], name: str, data: bytes) -> None:
    """A member with neither owner nor time, so that the same codes make the same tar.

    Not by webdataset's `TarWriter`: it writes members of its own alone, and here they stand between copied bytes.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    out.write(data + bytes(-len(data) % _BLOCK))


def _check_same(tar: Path, old: ShardIndex, new: ShardIndex) -> None:
    """The new tar holds what the old one held, codes apart: before it takes its place."""

    def content(index: ShardIndex, number: int) -> tuple[str, dict[str, bytes]]:
        kept = {m.ending: m.digest for m in index.members(number) if not m.ending.endswith(CODES_ENDING)}
        return index.key(number), kept

    if len(old) != len(new) or any(content(old, n) != content(new, n) for n in range(len(old))):
        raise UserError(f"shard {tar} cannot be rewritten: its copy with codes reads differently; nothing is changed")
