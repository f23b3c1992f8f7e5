"""Replaces an indexed tar by another one so that a kill at any point leaves the old pair or the new pair in place.

A shard is three things: the tar, its index beside it, and its line in the folder's ``shards.json``. No single rename
changes all three, so they change in this order:

1. the shard's line is removed from ``shards.json``: a shard without a line is opened by its own index
2. the new index is written beside the old one, as ``NAME.tar.index.safetensors.next``
3. the new tar takes the old one's name: from here on the shard is the new one, and ``own_index`` finds the index that
   belongs to the tar
4. the new index takes the old one's name
5. the shard's new line is added to ``shards.json``

Processes that work in the same folder take turns with a lock, which the operating system releases if a process dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from janus_train.data.shards.index import (
    LISTING,
    Head,
    ShardIndex,
    index_path,
    next_index_path,
    own_index,
    read_listing,
    write_heads,
    write_listing,
)
from janus_train.errors import UserError
from janus_train.files import sync, write_bytes

_LOCK = ".shards.lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)


def replace_shard(tar: Path, new_tar: Path, index: ShardIndex) -> None:
    """Put ``new`` in the place of ``tar``; ``index`` is the index of ``new``, which is complete and on the disk."""
    with file_lock(tar.parent / _LOCK):
        has_listing = _leave_listing(tar)
        write_bytes(next_index_path(tar), index.to_bytes())
        os.replace(new_tar, tar)
        sync(tar.parent)
        os.replace(next_index_path(tar), index_path(tar))
        sync(tar.parent)
        if has_listing:
            write_heads(tar.parent, read_listing(tar.parent) | {tar.name: index.head})


def finish_swap(tar: Path) -> None:
    """Finish or undo an interrupted replacement of ``tar``, if there was one."""
    with file_lock(tar.parent / _LOCK):
        next_path = next_index_path(tar)
        if not next_path.is_file():
            return
        if own_index(tar) == next_path:
            os.replace(next_path, index_path(tar))
        else:
            next_path.unlink()
        sync(tar.parent)


def relist(folder: Path) -> None:
    """Rewrite the folder's ``shards.json``, if there is one, so that removed lines come back."""
    with file_lock(folder / _LOCK):
        if (folder / LISTING).is_file():
            write_listing(folder)


def _leave_listing(tar: Path) -> bool:
    """Remove the shard's line from ``shards.json``; returns whether there is a ``shards.json``."""
    if not (tar.parent / LISTING).is_file():
        return False
    heads: dict[str, Head] = read_listing(tar.parent)
    if heads.pop(tar.name, None) is not None:
        write_heads(tar.parent, heads)
    return True


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def file_lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock on the file ``path``, which is removed afterwards. With ``wait`` false, raises `Busy` if it is taken.

    On file systems without locks nothing is locked: each process then needs its own folder.
    """
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Busy(str(path)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        if _is_lock_file(path, descriptor):
            break
        os.close(descriptor)  # its holder removed the file while we waited: lock the new one
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except PermissionError:
        raise UserError(f"{path.parent} cannot be written: no permission") from None
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error.strerror})") from None


def _is_lock_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
