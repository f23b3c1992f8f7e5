"""Reads local paths and URLs in the same way, by ranges and with retries.

A recipe's path is a local path or a URL of an object store (`SCHEMES`); it becomes a `Location`. Readers return the bytes
of a range. A failing read is tried again with growing pauses; if it keeps failing, the run ends with a `UserError`: no data
is skipped. Ranges of remote files are kept in a bounded cache on the local disk (`data.storage.disk_cache`).

Credentials come only from the environment, in the store's own variables (``AWS_ACCESS_KEY_ID``,
``GOOGLE_APPLICATION_CREDENTIALS``, ...). A URL that contains any is refused, since recipes and messages show URLs.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from janus_train import paths
from janus_train.data.storage.disk_cache import BlockCache, block_cache
from janus_train.errors import UserError, one_line
from janus_train.files import NotRegularError, open_regular, read_regular

Location = Path | str
"""A local path, or a URL as a string."""

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "hf", "http", "https", "memory")
"""The schemes that a URL may have. fsspec knows more, some of which run commands or chain others: they are refused."""
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
TRIES = 5
FIRST_PAUSE_S = 0.5
"""Pauses between tries are 0.5, 1, 2 and 4 seconds."""
THREADS = 32
"""Number of requests at a time when many small files are read at the start."""
MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""Errors that are not retried; callers may handle them."""

_LOGIN = "set HF_TOKEN, or run: hf auth login"
_ACCESS = f"accept its terms on its page on the hub, and {_LOGIN}"

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class Reader(Protocol):
    """Random access to the bytes of one file."""

    def read(self, offset: int, size: int, bypass_cache: bool = False) -> bytes:
        """Read up to ``size`` bytes from ``offset``. ``bypass_cache``: from the store itself, not from a cached copy."""
        ...


# ------------------------------------------------------------------------------------------------------------ locations


def is_remote(location: Location) -> bool:
    return isinstance(location, str)


def locate(text: str, base: Path) -> Location:
    """The location of a recipe's path: a URL stays as it is, anything else is a path relative to ``base``.

    Raises `UserError` for a scheme that is not in `SCHEMES`, and for a URL with a password or a query.
    """
    scheme, separator, _ = text.partition("://")
    if not separator:
        return paths.checked_path(base / Path(text).expanduser())
    if scheme == "file":
        return paths.checked_path(Path(text.removeprefix("file://")))
    if scheme not in SCHEMES:
        raise UserError(f"{text!r} cannot be read: URLs may begin with {', '.join(f'{s}://' for s in SCHEMES)}")
    parts = urlsplit(text)
    if parts.password is not None or (scheme.startswith("http") and (parts.username or parts.query or parts.fragment)):
        redacted_url = f"{scheme}://...{parts.path}"
        raise UserError(f"{redacted_url!r} has a password or a query in its URL: credentials come from the environment")
    return text


def name_of(location: Location) -> str:
    """The last part of the location."""
    return location.rpartition("/")[2] if isinstance(location, str) else location.name


def folder_of(location: Location) -> Location:
    return location.rpartition("/")[0] if isinstance(location, str) else location.parent


def join(folder: Location, name: str) -> Location:
    return f"{folder.rstrip('/')}/{name}" if isinstance(folder, str) else folder / name


def find(pattern: Location) -> list[Location]:
    """The files and folders that a location matches, sorted; it may contain ``*``, ``?`` or ``[...]``."""
    if isinstance(pattern, str):
        scheme, files = pattern.partition("://")[0], file_system(pattern)
        try:
            paths = with_retries(pattern, lambda: as_os_error(lambda: files.glob(pattern)))
        except MISSING as error:
            if scheme != "hf":
                return []
            raise _no_repository(pattern, error) from None
        return [f"{scheme}://{path.lstrip('/')}" for path in sorted(paths)]
    if pattern.exists():
        return [pattern]
    root = Path(pattern.anchor)  # empty for a relative one
    return sorted(root.glob(str(pattern.relative_to(root))))


def _no_repository(url: str, error: OSError) -> UserError:
    """Why the hub says that there is nothing: it does not tell what is missing from what is hidden."""
    parts = url.removeprefix("hf://").split("/")
    name = "/".join(parts[: 3 if parts[0] in ("datasets", "spaces") else 2])
    if type(error.__cause__).__name__ == "RevisionNotFoundError":
        return UserError(f"hf://{name}: the hub has no such revision of it")
    if type(error.__cause__).__name__ == "GatedRepoError":
        return UserError(f"hf://{name} cannot be read: {_ACCESS}")
    return UserError(f"hf://{name}: the hub has no such repository, or it is a private one: then {_LOGIN}")


# -------------------------------------------------------------------------------------------------------------- reading


def with_retries(location: Location, attempt: Callable[[], Result]) -> Result:
    """The result of ``attempt``, which is tried up to `TRIES` times.

    `MISSING` errors are raised at once and unchanged, missing permission and a pipe or device at once as `UserError`; any
    other `OSError` becomes a `UserError` that names ``location`` after the last try.
    """
    for number in range(TRIES):
        try:
            return attempt()
        except MISSING:
            raise
        except PermissionError:
            hint = f": {_ACCESS}" if str(location).startswith("hf://") else ""
            raise UserError(f"{location} cannot be read: no permission{hint}") from None
        except NotRegularError as error:
            raise UserError(f"{location} cannot be read: {error.strerror}") from None
        except OSError as error:
            last_error = error
        if number + 1 < TRIES:
            pause = FIRST_PAUSE_S * 2**number
            _log.warning("%s: %s; try %d of %d in %.1f s", location, one_line(last_error), number + 2, TRIES, pause)
            time.sleep(pause)
    raise UserError(f"{location} cannot be read, {TRIES} tries failed: {one_line(last_error)}")


def as_os_error(attempt: Callable[[], Result]) -> Result:
    """Turn the errors of remote file systems, which come from many libraries, into `OSError`, so that they are retried.

    A server's refusal (401, 403) becomes `PermissionError` and a missing file (404) `FileNotFoundError`, which are not.
    """
    try:
        return attempt()
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
        if status in (401, 403):
            raise PermissionError(str(error)) from error
        if status == 404 and not isinstance(error, MISSING):
            raise FileNotFoundError(str(error)) from error
        if isinstance(error, OSError):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error


def file_system(location: str) -> Any:
    """The fsspec file system of a URL. Each process has its own: they do not survive a fork."""
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
        self._opened = with_retries(path, lambda: open_regular(path))
        self._file = self._opened.fileno()

    def read(self, offset: int, size: int, bypass_cache: bool = False) -> bytes:
        return with_retries(self._path, lambda: self._pread(offset, size))

    def _pread(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file, size, offset)
        while len(data) < size:  # a network file system may return fewer bytes than requested before the end
            next_bytes = os.pread(self._file, size - len(data), offset + len(data))
            if not next_bytes:
                break
            data += next_bytes
        return data


class _RemoteReader:
    """Reads whole blocks into the cache and ranges from it; without a cache it reads the ranges directly."""

    def __init__(self, url: str, total: int, version: str):
        self._url, self._total, self._name = url, total, f"{url} {version}"

    def read(self, offset: int, size: int, bypass_cache: bool = False) -> bytes:
        size = max(0, min(size, self._total - offset))
        cache = block_cache()
        if cache is None:
            return self._fetch(offset, size)
        block = cache.block_bytes
        numbers = range(offset // block, -(-(offset + size) // block))
        return b"".join(self._from_block(cache, number, offset, offset + size, bypass_cache) for number in numbers)

    def _from_block(self, cache: BlockCache, number: int, low: int, high: int, bypass_cache: bool) -> bytes:
        """The bytes ``low .. high`` of the file that are in block ``number``."""
        start = number * cache.block_bytes
        length = min(cache.block_bytes, self._total - start)
        low, high = max(low - start, 0), min(high - start, length)
        name = f"{self._name} {number}"
        if bypass_cache:
            cache.drop(name)
        return cache.read(name, low, high - low, length, lambda: self._fetch(start, length))

    def _fetch(self, offset: int, size: int) -> bytes:
        return read_range(self._url, offset, size)


def open_reader(location: Location, total: int, version: str) -> Reader:
    """Open a file of ``total`` bytes for random access. ``version`` distinguishes a remote file's contents in the cache."""
    return _RemoteReader(location, total, version) if isinstance(location, str) else _LocalReader(location)


def read_range(url: str, offset: int, size: int) -> bytes:
    """Read a range of a remote file that is known to be there, never from the cache."""

    def request() -> bytes:
        data: bytes = file_system(url).cat_file(url, start=offset, end=offset + size, **_exactly(url))
        if len(data) != size:
            raise OSError(f"the store returned {len(data)} bytes where {size} were requested (does it serve ranges?)")
        return data

    return with_retries(url, lambda: as_os_error(request))


def _exactly(url: str) -> dict[str, str]:
    """The hub's file system would read 5 MB ahead of each range."""
    return {"cache_type": "none"} if url.startswith("hf://") else {}


def read_all(location: Location) -> bytes:
    """Read all bytes of a file, never from the cache. Raises `MISSING` errors unchanged."""
    if isinstance(location, str):
        return with_retries(location, lambda: as_os_error(lambda: file_system(location).cat_file(location)))
    return with_retries(location, lambda: read_regular(location))


def read_copy(location: Location, version: str, bypass_cache: bool = False) -> bytes:
    """Read all bytes of a file that only changes with its ``version``; a remote one is cached."""
    cache = block_cache() if isinstance(location, str) else None
    if cache is None:
        return read_all(location)
    name = f"{location} {version}"
    if bypass_cache:
        cache.drop(name)
    return cache.read(name, 0, None, None, lambda: read_all(location))
