"""Replacing an indexed tar by another one so that a kill at any point leaves the old pair or the new pair in place.

A shard is three things: the tar, its index beside it, and its line in the folder's ``shards.json``. No rename changes
all three, so the order does it:

1. its line leaves ``shards.json``: a shard without a line is opened by its own index
2. the new index is written beside the old one, as ``NAME.tar.index.safetensors.next``
3. the new tar takes the old one's name: from here on the shard is the new one, and ``own_index`` takes the index that
   belongs to the tar
4. the new index takes the old one's name
5. its new line enters ``shards.json``

Processes that work in one folder take turns by a lock, which a killed process does not keep.
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


def replace_shard(tar: Path, new: Path, index: ShardIndex) -> None:
    """Put ``new`` in the place of ``tar``; ``index`` is the index of ``new``, which is complete and on the disk."""
    with locked(tar.parent / _LOCK):
        listed = _leave_listing(tar)
        write_bytes(next_index_path(tar), index.to_bytes())
        os.replace(new, tar)
        sync(tar.parent)
        os.replace(next_index_path(tar), index_path(tar))
        sync(tar.parent)
        if listed:
            write_heads(tar.parent, read_listing(tar.parent) | {tar.name: index.head})


def finish_swap(tar: Path) -> None:
    """Clear up after a replacement of ``tar`` that was cut short; nothing to do if there was none."""
    with locked(tar.parent / _LOCK):
        waiting = next_index_path(tar)
        if not waiting.is_file():
            return
        if own_index(tar) == waiting:
            os.replace(waiting, index_path(tar))
        else:
            waiting.unlink()
        sync(tar.parent)


def relist(folder: Path) -> None:
    """Write the folder's ``shards.json`` anew, if it has one: lines that were taken out come back."""
    with locked(folder / _LOCK):
        if (folder / LISTING).is_file():
            write_listing(folder)


def _leave_listing(tar: Path) -> bool:
    """Take the shard's line out of ``shards.json``; was there a listing?"""
    if not (tar.parent / LISTING).is_file():
        return False
    heads: dict[str, Head] = read_listing(tar.parent)
    if heads.pop(tar.name, None) is not None:
        write_heads(tar.parent, heads)
    return True


class Busy(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file ``path``, which goes when it is given back. Raises `Busy` at once if ``wait`` is false.

    On file systems without locks there is none: several processes must then be given folders of their own.
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
        if _still_there(path, descriptor):
            break
        os.close(descriptor)  # its holder removed it while we waited: take the new one
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


def _still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
