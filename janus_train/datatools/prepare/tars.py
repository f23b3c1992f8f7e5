"""Reads the headers of tars, also of tars inside tars. Nothing is extracted, and no header is kept in memory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import IO

from janus_train.data.shards.tars import Slice, next_member
from janus_train.errors import UserError
from janus_train.files import LFS_POINTER, is_lfs_pointer


def members(file: IO[bytes] | Slice, description: str, offset: int = 0) -> Iterator[tarfile.TarInfo]:
    """The tar's members from the header at ``offset`` on; their offsets count from the start of ``file``.

    Raises `UserError` for a compressed, damaged or truncated tar; ``tarfile`` itself takes a bad header for the end.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if is_lfs_pointer(file.read(tarfile.BLOCKSIZE)):
        raise UserError(f"{description} {LFS_POINTER}")
    file.seek(offset)
    try:
        with tarfile.open(fileobj=Slice(file, 0, size), mode="r:") as tar:
            while (member := next_member(tar, size)) is not None:
                tar.members = []  # type: ignore[attr-defined] # otherwise it keeps them all
                yield member
            end = tar.offset
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:  # ValueError: a header's number that is not one
        raise UserError(f"{description} is not a readable tar, or is compressed ({error})") from None
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        raise UserError(
            f"{description} is damaged or cut off at byte {end}: neither a header nor the tar's end follows"
        )
