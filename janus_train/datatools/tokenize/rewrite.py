"""Copies a tar and adds codes: every member is checked and copied unchanged, and codes follow each sample.

    places of the members --> pixels (threads, some batches ahead) --> codes (the encoder) --> the new tar

The copy is byte for byte, including headers, so that nothing in the tar is lost. The codes of a sample come after its
last member, so that readers which read a tar from front to end find its members together.
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
"""Number of images to encode at a time."""
AHEAD = 3
"""Number of batches to read and resize before the encoder needs them."""
_CHUNK = 4 << 20
_BLOCK, _RECORD_SIZE = tarfile.BLOCKSIZE, tarfile.RECORDSIZE


@dataclass(frozen=True)
class _Image:
    """A member that gets codes, and the name of the codes in the tar."""

    key: str
    member: Member
    codes_name: str


@dataclass
class _TarStretch:
    """A stretch of the old tar: one member with its headers, or the bytes between members."""

    start: int
    stop: int
    member: Member | None = None  # None: not part of a sample, and copied unchecked
    member_name: str = ""
    ends_sample: bool = False
    images: list[_Image] = field(default_factory=list)  # the images whose codes come after this piece


@dataclass(frozen=True)
class RewriteCounts:
    """Counts of a rewritten tar."""

    images: int
    keys_without_codes: list[str]
    """Keys of samples with an image that cannot be decoded and got no codes."""


def rewrite(
    tar: Path,
    index: ShardIndex,
    target: Path,
    encoder: CodeEncoder,
    threads: int,
    on_samples: Callable[[int], None] = lambda number: None,
) -> tuple[ShardIndex, RewriteCounts]:
    """Write ``tar`` with codes to ``target``, complete and synced, and return its index; old codes are left out.

    ``on_samples`` gets the number of newly finished samples. Raises `UserError` naming the tar if any of its bytes differ
    from those that were indexed.
    """
    pieces = _pieces(tar, index)
    images = [image for piece in pieces for image in piece.images]
    keys_without_codes: list[str] = []
    descriptor = os.open(tar, os.O_RDONLY)
    pool = ThreadPoolExecutor(threads)
    try:
        with target.open("r+b" if target.exists() else "w+b") as out:
            out.truncate(0)
            _add(out, RECORD, encoder.origin.record())
            codes_of_images = _encode(images, tar, descriptor, encoder, pool)
            for piece in pieces:
                _copy(descriptor, piece, out, tar)
                for image in piece.images:
                    codes = next(codes_of_images)
                    if codes is None:
                        keys_without_codes.append(image.key)
                    else:
                        _add(out, image.codes_name, _npy(codes))
                if piece.ends_sample:
                    on_samples(1)
            out.write(bytes(2 * _BLOCK))
            out.write(bytes(-out.tell() % _RECORD_SIZE))
        sync(target)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.close(descriptor)
    new_index = scan(target).index
    _check_same(tar, index, new_index)
    return new_index, RewriteCounts(len(images), keys_without_codes)


# ------------------------------------------------------------------------------------------------------------ the old tar


def _pieces(tar: Path, index: ShardIndex) -> list[_TarStretch]:
    """The old tar from front to end, without codes and the record of their origin."""
    members_by_offset = {m.offset: (number, m) for number in range(len(index)) for m in index.members(number)}
    pieces: list[_TarStretch] = []
    names: dict[int, str] = {}  # offset of a member's data -> its name in the tar
    last_pieces: dict[int, _TarStretch] = {}  # sample -> the piece with its last member
    start = 0
    try:
        with tarfile.open(tar, "r:") as file:
            while (info := file.next()) is not None:
                file.members.clear()  # type: ignore[attr-defined] # tarfile keeps them all
                stop = file.offset
                number, member = members_by_offset.get(info.offset_data, (-1, None))
                names[info.offset_data] = info.name
                is_codes = member is not None and member.ending.endswith(CODES_ENDING)
                if not is_codes and info.name != RECORD:
                    pieces.append(_TarStretch(start, stop, member, info.name))
                    if member is not None:
                        last_pieces[number] = pieces[-1]
                start = stop
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"shard {tar} cannot be read ({error})") from None
    for number, piece in last_pieces.items():
        piece.ends_sample, piece.images = True, _images(index, number, names)
    return pieces


def has_images(index: ShardIndex) -> bool:
    return any(
        member.ending.rpartition(".")[2] in IMAGE_ENDINGS for n in range(len(index)) for member in index.members(n)
    )


def _images(index: ShardIndex, number: int, names: dict[int, str]) -> list[_Image]:
    """The sample's images, sorted by number. Codes get the image's name, in its spelling."""
    images = []
    for member in index.members(number):
        prefix, _, ending = member.ending.rpartition(".")
        if ending in IMAGE_ENDINGS:
            name = names[member.offset][: -len(ending)] + CODES_ENDING
            images.append((int(prefix) if prefix else -1, _Image(index.key(number), member, name)))
    return [image for _, image in sorted(images, key=lambda pair: pair[0])]


def _copy(descriptor: int, piece: _TarStretch, out: IO[bytes], tar: Path) -> None:
    if piece.member is not None:
        data = _read(descriptor, piece.start, piece.stop - piece.start, tar)
        offset = piece.member.offset - piece.start
        _check(data[offset : offset + piece.member.size], piece.member, tar, piece.member_name)
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


def _check(data: bytes, member: Member, tar: Path, member_name: str) -> None:
    if member_digest(data) != member.digest:
        raise UserError(
            f"shard {tar} is damaged: the bytes of {member_name} differ from those that were indexed; nothing is written"
        )


# --------------------------------------------------------------------------------------------------------------- codes


def _encode(
    images: list[_Image], tar: Path, descriptor: int, encoder: CodeEncoder, pool: ThreadPoolExecutor
) -> Iterator[np.ndarray | None]:
    """Codes (P,) uint16 of each image in order, None for one that cannot be decoded."""

    def pixels(member: _Image) -> np.ndarray | None:
        data = _read(descriptor, member.member.offset, member.member.size, tar)
        _check(data, member.member, tar, member.codes_name)
        try:
            decoded_image = image_of(data, SHARD_FORMATS, member.key)
            return to_float(generation_pixels(decoded_image, encoder.image_size))
        except BadSample:
            return None

    futures: deque[list[Future[np.ndarray | None]]] = deque()
    batches = iter([images[i : i + BATCH] for i in range(0, len(images), BATCH)])
    while True:
        while len(futures) < AHEAD and (batch := next(batches, None)) is not None:
            futures.append([pool.submit(pixels, member) for member in batch])
        if not futures:
            return
        batch_pixels = [future.result() for future in futures.popleft()]
        readable_pixels = [values for values in batch_pixels if values is not None]
        codes = iter(encoder.codes(torch.from_numpy(np.stack(readable_pixels))) if readable_pixels else ())
        for values in batch_pixels:
            yield None if values is None else next(codes)


# ------------------------------------------------------------------------------------------------------------ the new tar


def _npy(codes: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, codes, allow_pickle=False)
    return buffer.getvalue()


def _add(out: IO[bytes], name: str, data: bytes) -> None:
    """Add a member without owner and time, so that the same codes make the same tar.

    webdataset's `TarWriter` cannot do this: it only writes its own members, and here they alternate with copied bytes.
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    out.write(data + bytes(-len(data) % _BLOCK))


def _check_same(tar: Path, old_index: ShardIndex, new_index: ShardIndex) -> None:
    """Raise `UserError` unless the new tar contains the same as the old one, except for codes."""

    def content(index: ShardIndex, number: int) -> tuple[str, dict[str, bytes]]:
        digests = {m.ending: m.digest for m in index.members(number) if not m.ending.endswith(CODES_ENDING)}
        return index.key(number), digests

    if len(old_index) != len(new_index) or any(
        content(old_index, n) != content(new_index, n) for n in range(len(old_index))
    ):
        raise UserError(f"shard {tar} cannot be rewritten: its copy with codes reads differently; nothing is changed")
