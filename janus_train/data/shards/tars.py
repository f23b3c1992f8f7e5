"""Tars from anybody, read within their own bounds: a header may claim any number of bytes."""

from __future__ import annotations

import io
import tarfile
from typing import IO


def next_member(tar: tarfile.TarFile, size: int) -> tarfile.TarInfo | None:
    """The next member of a tar of ``size`` bytes, None at its end.

    Raises `tarfile.ReadError` for one that claims more bytes than there are, or fewer than none, with which ``tarfile``
    would go in circles.
    """
    info = tar.next()
    if info is None:
        return None
    if info.size < 0:
        raise tarfile.ReadError(f"its member {info.name!r} claims {info.size:,} bytes")
    if info.isfile() and not info.issparse() and info.offset_data + info.size > size:
        raise tarfile.ReadError(f"its member {info.name!r} claims {info.size:,} bytes, the whole tar has {size:,}")
    return info


class Slice(io.RawIOBase):
    """A file inside a file: ``size`` bytes of ``file`` from ``start`` on. A read never asks for more than is there."""

    def __init__(self, file: IO[bytes] | Slice, start: int, size: int):
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
