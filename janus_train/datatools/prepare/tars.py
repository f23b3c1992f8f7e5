"""Reads the headers of tars, also of tars inside tars. Nothing is extracted, and no header is kept in memory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import IO

from janus_train.errors import UserError


def members(file: IO[bytes] | Slice, description: str, offset: int = 0) -> Iterator[tarfile.TarInfo]:
    """The tar's members from the header at ``offset`` on; their offsets count from the start of ``file``.

    Raises `UserError` for a compressed, damaged or truncated tar; ``tarfile`` itself takes a bad header for the end.
    """
    file.seek(offset)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined] # otherwise it keeps them all
                yield member
            end = tar.offset
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{description} is not a readable tar, or is compressed ({error})") from None
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        raise UserError(
            f"{description} is damaged or cut off at byte {end}: neither a header nor the tar's end follows"
        )


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
        num_left = max(0, self._size - self._at)
        self._file.seek(self._start + self._at)
        data = self._file.read(num_left if size < 0 else min(size, num_left))
        self._at += len(data)
        return data
