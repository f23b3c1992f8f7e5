"""Files as they are named on the command line and in records."""

from __future__ import annotations

import errno
import os
import re
from glob import has_magic
from pathlib import Path

from janus_train.data.image_files import ImageError, read_image_file
from janus_train.datatools.prepare.items import SkipRecord
from janus_train.errors import UserError

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_SCHEME = re.compile(r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*://|data:)")


def expand(inputs: tuple[str, ...], endings: tuple[str, ...], what: str) -> list[str]:
    """The files that ``inputs`` name: files, patterns, and folders for all in them that end so. Sorted within each.

    Raises `UserError` for an input that is not there or a folder without such a file.
    """
    paths: list[str] = []
    for name in inputs:
        if has_magic(name) and not Path(name).exists():
            matches = _matches(Path(name))
            if not matches:
                raise UserError(f"nothing is at {name}")
            paths += matches
        elif Path(name).is_dir():
            inside = sorted(
                str(path) for path in Path(name).rglob("*") if path.is_file() and path.name.lower().endswith(endings)
            )
            if not inside:
                raise UserError(f"folder {name} holds no {what} ({', '.join(endings)})")
            paths += inside
        elif Path(name).is_file():
            if not name.lower().endswith(endings):
                raise UserError(f"{name} is no {what}: its name should end in {', '.join(endings)}")
            paths.append(name)
        else:
            raise UserError(f"{name}: there is no such file or folder")
    if len(set(paths)) < len(paths):
        raise UserError(f"{next(path for path in paths if paths.count(path) > 1)} is given twice")
    return paths


def _matches(pattern: Path) -> list[str]:
    root = Path(pattern.anchor)
    return sorted(str(path) for path in root.glob(str(pattern.relative_to(root))) if path.is_file())


def inside(folder: str, name: str, where: str) -> str:
    """The path of a record's image. Raises `UserError` if it is an address or leaves ``folder``."""
    if _SCHEME.match(name):
        raise UserError(
            f"{where}: the image is an address ({name[:60]}): download the images first, prepare fetches nothing"
        )
    root, path = os.path.normpath(folder), os.path.normpath(Path(folder) / name)
    try:
        parts = Path(path).relative_to(root).parts
    except ValueError:
        parts = ()
    if not parts or ".." in parts or "\0" in name:
        raise UserError(f"{where}: the image's path {name[:80]!r} leaves the image folder {folder}")
    return path


def file_size(path: str) -> int | None:
    """In bytes; None if there is no such file."""
    try:
        return Path(path).stat().st_size
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def read_file(path: str) -> bytes:
    """The bytes of an image. Raises `SkipRecord` if there is no such file or no regular one, `UserError` if it cannot be read."""
    try:
        return read_image_file(Path(path))
    except ImageError as error:
        raise SkipRecord("the image is no regular file that can be read", f"{path} {error}") from None
    except OSError as error:
        if error.errno in _MISSING:
            raise SkipRecord("the image is missing", path) from None
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
