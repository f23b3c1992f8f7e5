"""Headers of tars, read where they lie: nothing is extracted, and no header is kept."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import IO

from janus_train.errors import UserError


def members(file: IO[bytes] | Slice, where: str, offset: int = 0) -> Iterator[tarfile.TarInfo]:
    """The tar's members from the header at ``offset`` on; their offsets count from the start of ``file``.

    Raises `UserError` for a tar that is compressed, damaged or cut off: ``tarfile`` takes a bad header for the end.
    """
    file.seek(offset)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # else it keeps them all
                yield member
            end = tar.offset
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:  # ValueError: a number in a header that is none
        raise UserError(f"{where} is no readable tar, or a compressed one ({error})") from None
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        raise UserError(f"{where} is damaged or cut off at byte {end}: no tar's header or end is there")


class Slice(io.RawIOBase):
    """A file inside a file: ``size`` bytes of ``file`` from ``start`` on."""

    def __init__(self, file: IO[bytes], start: int, size: int):
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._file.seek(self._start + self._at)
        data = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data
