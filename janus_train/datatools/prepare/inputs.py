"""Finds and reads the files that the command line and records name."""

from __future__ import annotations

import errno
import os
import re
from glob import has_magic
from pathlib import Path, PurePosixPath

from janus_train.data.image_files import ImageError, read_image_file
from janus_train.data.image_folders import unread_reason
from janus_train.data.unused import is_hidden, not_used
from janus_train.datatools.prepare.items import Extent, SkipRecord
from janus_train.errors import UserError

_MISSING_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_SCHEME = re.compile(r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*://|data:)")
_WINDOWS_DRIVE = re.compile(r"[a-zA-Z]:[\\/]")


def expand(
    inputs: tuple[str, ...], endings: tuple[str, ...], description: str, beside: tuple[str, ...] = ()
) -> list[str]:
    """The files that ``inputs`` name: files, patterns, and folders, of which files with one of ``endings`` are taken.

    The files of each input are sorted. A folder's other files count as not used, except for those with an ending of
    ``beside``, which records may name. Raises `UserError` for a missing input or a folder without such a file.
    """
    paths: list[str] = []
    for name in inputs:
        if has_magic(name) and not Path(name).exists():
            matches = _matches(Path(name))
            if not matches:
                raise UserError(f"nothing is at {name}")
            paths += matches
        elif Path(name).is_dir():
            matches = _files_in(name, endings, beside)
            if not matches:
                raise UserError(f"folder {name} contains no {description} ({', '.join(endings)})")
            paths += matches
        elif Path(name).is_file():
            if not name.lower().endswith(endings):
                raise UserError(f"{name} is not a {description}: its name should end in {', '.join(endings)}")
            paths.append(name)
        else:
            raise UserError(f"{name}: there is no such file or folder")
    if len(set(paths)) < len(paths):
        raise UserError(f"{next(path for path in paths if paths.count(path) > 1)} is named twice")
    return paths


def _files_in(folder: str, endings: tuple[str, ...], beside: tuple[str, ...]) -> list[str]:
    """The folder's files with one of ``endings`` at any depth, sorted; the others are counted (see `expand`)."""
    matches = []
    for path in Path(folder).rglob("*"):
        inside = path.relative_to(folder).as_posix()
        if path.is_dir():
            if path.is_symlink():
                not_used("links to folders")
        elif not path.is_file():
            not_used("links to nothing, pipes or devices")
        elif path.name.lower().endswith(endings) and not is_hidden(inside):
            matches.append(str(path))
        elif is_hidden(inside) or not path.name.lower().endswith(beside):
            not_used(unread_reason(inside))
    return sorted(matches)


def _matches(pattern: Path) -> list[str]:
    root = Path(pattern.anchor)
    matches = list(root.glob(str(pattern.relative_to(root))))
    files = sorted(str(path) for path in matches if path.is_file())
    if len(files) < len(matches):
        not_used("folders that a pattern matches", len(matches) - len(files))
    return files


def path_inside(folder: str, name: str, location: str, records_folder: str | None = None) -> str:
    """The path of a record's image. Raises `UserError` if ``name`` is an address or leaves ``folder``.

    A relative name starts from ``folder``; with ``..`` it may also start from ``records_folder``, where the file of records
    is, and an absolute one is taken as it is: both if they lead into ``folder``. Windows' separators count where no file
    has the name with them.
    """
    if _SCHEME.match(name):
        raise UserError(
            f"{location}: the image is an address ({name[:60]}): download the images first, prepare downloads nothing"
        )
    path = _inside(folder, name, records_folder)
    if "\\" in name and (path is None or file_extent(path) is None):
        if _WINDOWS_DRIVE.match(name):
            raise UserError(
                f"{location}: the image's path {name[:80]!r} is one of a Windows machine: write paths that start from "
                f"the image folder {folder}"
            )
        name = name.replace("\\", "/")
        path = _inside(folder, name, records_folder)
    if path is None:
        raise UserError(
            f"{location}: the image's path {name[:80]!r} leaves the image folder {folder}: "
            + _remedy(folder, name, records_folder)
        )
    return path


def _inside(folder: str, name: str, records_folder: str | None) -> str | None:
    """The path of ``name`` if it is in ``folder``. Only the way there is looked at: links in the folder may lead anywhere."""
    parts = PurePosixPath(name).parts
    if not parts or "\0" in name:
        return None
    if not PurePosixPath(name).is_absolute() and ".." not in parts:
        return os.path.normpath(Path(folder) / name)
    for start in (folder, records_folder):
        path = os.path.normpath(Path(folder if start is None else start) / name)
        if _absolute(folder) in Path(_absolute(path)).parents:
            return path
    if PurePosixPath(name).is_absolute():  # by way of links to the folder
        path = os.path.normpath(name)
        if Path(folder).resolve() in [place := Path(path).parent.resolve(), *place.parents]:
            return path
    return None


def _absolute(path: str) -> Path:
    return Path(os.path.normpath(Path(path).absolute()))


def _remedy(folder: str, name: str, records_folder: str | None) -> str:
    """What to do about a name that leaves the folder: it depends on whether the file is there."""
    target = "" if "\0" in name else os.path.normpath(Path(folder if records_folder is None else records_folder) / name)
    if not target or file_extent(target) is None:
        return "write paths that start from there, or pass the folder that they start from as --images"
    parent = Path(os.path.commonpath([_absolute(folder), _absolute(target).parent]))
    return f"pass --images {parent if parent != Path(parent.anchor) else _absolute(target).parent}"


def file_extent(path: str) -> Extent | None:
    """The file's size, and a stamp of its size and times; None if the file does not exist.

    The time of the last change of the inode is part of it, because nobody can set it: another file of the same size may
    be moved here with the same time of modification.
    """
    try:
        status = Path(path).stat()
        return Extent(status.st_size, f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}")
    except OSError as error:
        if error.errno in _MISSING_ERRORS:
            return None
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def read_file(path: str) -> bytes:
    """Read an image file. Raises `SkipRecord` if it is missing or not a regular file, `UserError` if it cannot be read."""
    try:
        return read_image_file(Path(path))
    except ImageError as error:
        raise SkipRecord("the image is not a regular file that can be read", f"{path} {error}") from None
    except OSError as error:
        if error.errno in _MISSING_ERRORS:
            raise SkipRecord("the image is missing", path) from None
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
