"""Where data lies: local paths and URLs read in the same way, by ranges, with patience.

A recipe's path is a local path or a URL of an object store (`SCHEMES`); it becomes a `Location`. Readers give the bytes
of a range. A failing read is tried again with growing pauses and then ends the run with a `UserError`: it is never
skipped. Ranges of remote files are kept in a bounded cache on the local disk (`data.storage.disk_cache`).

Credentials come from the environment alone, in the store's own variables (``AWS_ACCESS_KEY_ID``,
``GOOGLE_APPLICATION_CREDENTIALS``, ...). A URL that holds any is refused, since URLs stand in recipes and messages.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from janus_train.data.storage.disk_cache import BlockCache, block_cache
from janus_train.errors import UserError, one_line
from janus_train.files import NotRegularError, open_regular, read_regular

Location = Path | str
"""A local path, or a URL as text."""

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "hf", "http", "https", "memory")
"""What a URL may begin with. fsspec knows more, some of which run commands or chain others: they are not taken."""
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
TRIES = 5
FIRST_PAUSE_S = 0.5
"""Pauses between tries are 0.5, 1, 2 and 4 seconds."""
THREADS = 32
"""Requests at a time when many small things are asked for at the start."""
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""Errors that no second try mends and that a caller may have an answer to."""

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class Reader(Protocol):
    """Random access to the bytes of one file."""

    def read(self, offset: int, size: int, fresh: bool = False) -> bytes:
        """Up to ``size`` bytes from ``offset``. ``fresh``: from the store itself, not from a cached copy."""
        ...


# ------------------------------------------------------------------------------------------------------------ locations


def is_remote(location: Location) -> bool:
    return isinstance(location, str)


def locate(text: str, base: Path) -> Location:
    """What a recipe's path means: a URL as it is, anything else a path relative to ``base``.

    Raises `UserError` for a scheme that is not in `SCHEMES`, and for a URL that carries a password or a query.
    """
    scheme, found, _ = text.partition("://")
    if not found:
        return base / Path(text).expanduser()
    if scheme == "file":
        return Path(text.removeprefix("file://"))
    if scheme not in SCHEMES:
        raise UserError(f"{text!r} cannot be read: URLs may begin with {', '.join(f'{s}://' for s in SCHEMES)}")
    parts = urlsplit(text)
    if parts.password is not None or (scheme.startswith("http") and (parts.username or parts.query or parts.fragment)):
        hidden = f"{scheme}://...{parts.path}"
        raise UserError(f"{hidden!r} has a password or a query in its URL: credentials come from the environment")
    return text


def name_of(location: Location) -> str:
    """The last part of the location."""
    return location.rpartition("/")[2] if isinstance(location, str) else location.name


def folder_of(location: Location) -> Location:
    return location.rpartition("/")[0] if isinstance(location, str) else location.parent


def join(folder: Location, name: str) -> Location:
    return f"{folder.rstrip('/')}/{name}" if isinstance(folder, str) else folder / name


def find(pattern: Location) -> list[Location]:
    """The files and folders that a location stands for, sorted: it may have ``*``, ``?`` or ``[...]`` in it."""
    if isinstance(pattern, str):
        scheme, files = pattern.partition("://")[0], file_system(pattern)
        found = retried(pattern, lambda: _as_os_error(lambda: files.glob(pattern)))
        return [f"{scheme}://{path.lstrip('/')}" for path in sorted(found)]
    if pattern.exists():
        return [pattern]
    root = Path(pattern.anchor)  # empty for a relative one
    return sorted(root.glob(str(pattern.relative_to(root))))


# -------------------------------------------------------------------------------------------------------------- reading


def retried(what: Location, attempt: Callable[[], Result]) -> Result:
    """The result of ``attempt``, tried `TRIES` times.

    `MISSING` errors are raised at once as they are, missing permission and a pipe or device as `UserError`; any other `OSError` as a
    `UserError` that names ``what`` after the last try.
    """
    for number in range(TRIES):
        try:
            return attempt()
        except MISSING:
            raise
        except PermissionError:
            raise UserError(f"{what} cannot be read: no permission") from None
        except NotRegularError as error:
            raise UserError(f"{what} cannot be read: {error.strerror}") from None
        except OSError as error:
            last = error
        if number + 1 < TRIES:
            pause = FIRST_PAUSE_S * 2**number
            _log.warning("%s: %s; try %d of %d in %.1f s", what, one_line(last), number + 2, TRIES, pause)
            time.sleep(pause)
    raise UserError(f"{what} cannot be read, {TRIES} tries failed: {one_line(last)}")


def _as_os_error(attempt: Callable[[], Result]) -> Result:
    """Remote file systems have errors of many libraries; here each is an `OSError`, to be tried again."""
    try:
        return attempt()
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def file_system(location: str) -> Any:
    """The fsspec file system of a URL. One a process: they do not survive a fork."""
    return _file_system(location.partition("://")[0], os.getpid())


@lru_cache(maxsize=16)
def _file_system(scheme: str, process: int) -> Any:
    import fsspec

    options: dict[str, Any] = {}
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=300, sock_connect=15, sock_read=30)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}  # trust_env: proxies of the environment
    try:
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        package = PACKAGES.get(scheme)
        hint = f"pip install {package}" if package else one_line(error)
        raise UserError(f"{scheme}:// cannot be read here: {hint}") from None


class _LocalReader:
    def __init__(self, path: Path):
        self._path = path
        self._opened = retried(path, lambda: open_regular(path))
        self._file = self._opened.fileno()

    def read(self, offset: int, size: int, fresh: bool = False) -> bytes:
        return retried(self._path, lambda: self._pread(offset, size))

    def _pread(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file, size, offset)
        while len(data) < size:  # a network's file system may give less than was asked for before the end
            more = os.pread(self._file, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


class _RemoteReader:
    """Reads whole blocks into the cache and ranges out of it; without a cache it reads the ranges themselves."""

    def __init__(self, url: str, total: int, version: str):
        self._url, self._total, self._name = url, total, f"{url} {version}"

    def read(self, offset: int, size: int, fresh: bool = False) -> bytes:
        size = max(0, min(size, self._total - offset))
        cache = block_cache()
        if cache is None:
            return self._fetch(offset, size)
        block = cache.block_bytes
        numbers = range(offset // block, -(-(offset + size) // block))
        return b"".join(self._from_block(cache, number, offset, offset + size, fresh) for number in numbers)

    def _from_block(self, cache: BlockCache, number: int, low: int, high: int, fresh: bool) -> bytes:
        """What bytes ``low .. high`` of the file have in common with block ``number``."""
        start = number * cache.block_bytes
        length = min(cache.block_bytes, self._total - start)
        low, high = max(low - start, 0), min(high - start, length)
        name = f"{self._name} {number}"
        if fresh:
            cache.drop(name)
        return cache.read(name, low, high - low, length, lambda: self._fetch(start, length))

    def _fetch(self, offset: int, size: int) -> bytes:
        return retried(self._url, lambda: _as_os_error(lambda: self._request(offset, size)))

    def _request(self, offset: int, size: int) -> bytes:
        data: bytes = file_system(self._url).cat_file(self._url, start=offset, end=offset + size)
        if len(data) != size:
            raise OSError(f"the store gave {len(data)} bytes where {size} were asked for (does it serve ranges?)")
        return data


def open_reader(location: Location, total: int, version: str) -> Reader:
    """Random access to a file of ``total`` bytes. ``version`` tells a remote file's contents apart in the cache."""
    return _RemoteReader(location, total, version) if isinstance(location, str) else _LocalReader(location)


def read_whole(location: Location) -> bytes:
    """All bytes of a file, never from the cache. Raises `MISSING` errors as they are."""
    if isinstance(location, str):
        return retried(location, lambda: _as_os_error(lambda: file_system(location).cat_file(location)))
    return retried(location, lambda: read_regular(location))


def read_copy(location: Location, version: str, fresh: bool = False) -> bytes:
    """All bytes of a file that does not change while its ``version`` is the same: a remote one comes from the cache."""
    cache = block_cache() if isinstance(location, str) else None
    if cache is None:
        return read_whole(location)
    name = f"{location} {version}"
    if fresh:
        cache.drop(name)
    return cache.read(name, 0, None, None, lambda: read_whole(location))


def file_sizes(locations: Sequence[Location]) -> list[int | None]:
    """The size of each file in bytes; None where there is no such file."""
    if not any(map(is_remote, locations)):
        return [_size(location) for location in locations]
    listed = _listed_sizes([location for location in locations if isinstance(location, str)])
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda one: listed[one] if one in listed else _size(one), locations))


def _size(location: Location) -> int | None:
    try:
        if isinstance(location, str):
            found = retried(location, lambda: _as_os_error(lambda: file_system(location).info(location)["size"]))
            return None if found is None else int(found)
        return retried(location, lambda: location.stat().st_size)
    except MISSING:
        return None


def _listed_sizes(urls: Sequence[str]) -> dict[str, int]:
    """Sizes by listing each folder once, for the stores that can list (the web cannot)."""
    found: dict[str, int] = {}
    for folder in dict.fromkeys(str(folder_of(url)) for url in urls if not url.startswith("http")):
        files = file_system(folder)
        files.invalidate_cache(folder)
        try:
            entries = retried(folder, lambda f=files, at=folder: _as_os_error(lambda: f.ls(at, detail=True)))  # type: ignore[misc]
        except MISSING:
            continue
        for entry in entries:
            if entry["type"] == "file":
                found[f"{folder}/{name_of(entry['name'])}"] = int(entry["size"])
    return found
