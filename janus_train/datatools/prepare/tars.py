"""Headers of tars, read where they lie: nothing is extracted, and no header is kept."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import IO

from janus_train.data.shards.tars import Slice, next_member
from janus_train.errors import UserError


def members(file: IO[bytes] | Slice, where: str, offset: int = 0) -> Iterator[tarfile.TarInfo]:
    """The tar's members from the header at ``offset`` on; their offsets count from the start of ``file``.

    Raises `UserError` for a tar that is compressed, damaged or cut off: ``tarfile`` takes a bad header for the end.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(offset)
    try:
        with tarfile.open(fileobj=Slice(file, 0, size), mode="r:") as tar:
            while (member := next_member(tar, size)) is not None:
                tar.members = []  # type: ignore[attr-defined] # else it keeps them all
                yield member
            end = tar.offset
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{where} is no readable tar, or a compressed one ({error})") from None
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        raise UserError(f"{where} is damaged or cut off at byte {end}: no tar's header or end is there")
