"""Reads text, JSON and YAML with one-line errors, and writes files and folders by staging, syncing and renaming.

An interrupted write never leaves a partial file under the final name. Files may come from anybody: a pipe is refused,
because it may never end, and so are values that are nested too deeply and YAML whose aliases expand to billions of values.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from janus_train.errors import UserError, one_line

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What an `OSError` says when there is no room for what is written: a full disk, a quota."""
MAX_ALIASED = 100_000
"""Values that the aliases of a YAML file may stand for; a recipe has hundreds."""
_TOO_DEEP = "it is nested too deeply"
_LFS_VERSION = b"version https://git-lfs.github.com/spec/"
LFS_POINTER = "is a git-lfs pointer, not the file itself: run git lfs pull"
"""The end of a message, after a file's name: what a repository holds in a large file's place until that is fetched."""


class NotRegularError(OSError):
    """A pipe would block, and neither it nor a device need ever end."""

    def __init__(self) -> None:
        super().__init__(errno.EINVAL, "it is a device or a pipe, not a regular file")


def open_regular(path: Path) -> BinaryIO:
    """A regular file, to read. Raises `OSError` if it cannot be opened, `NotRegularError` for a pipe or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would block
    except OSError as error:
        if error.errno == errno.ENXIO:  # what a socket says
            raise NotRegularError from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise NotRegularError


def is_lfs_pointer(start: bytes) -> bool:
    """Whether a file that begins with ``start`` is a git-lfs pointer."""
    return start.startswith(_LFS_VERSION)


def refuse_lfs_pointer(*paths: Path) -> None:
    """Raises `UserError` if one of the files is a git-lfs pointer; files that cannot be read are passed over."""
    for path in paths:
        with suppress(OSError), open_regular(path) as file:
            if is_lfs_pointer(file.read(len(_LFS_VERSION))):
                raise UserError(f"{path} {LFS_POINTER}")


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file. Raises as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: Path) -> str:
    """The UTF-8 text in a regular file, without a byte order mark.

    Raises:
        UserError: the file cannot be read, is a git-lfs pointer, or is not UTF-8.
        FileNotFoundError: there is no such file.
    """
    try:
        data = read_regular(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if is_lfs_pointer(data):
        raise UserError(f"{path} {LFS_POINTER}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None


def lines_of(text: str) -> list[str]:
    """The lines that are not blank, without the space around them. A newline alone ends one: U+2028 may be in a line."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``. Raises as `read_text`, and `UserError` for anything else."""
    try:
        values = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path} is not a JSON object ({one_line(error, 200)})") from None
    except RecursionError:
        raise UserError(f"{path} is not a JSON object ({_TOO_DEEP})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object")
    return values


def read_json_object_if_any(path: Path) -> dict[str, Any]:
    """Like `read_json_object`, but returns an empty object if there is no such file."""
    return read_json_object(path) if path.is_file() else {}


class _BoundedLoader(yaml.SafeLoader):
    """Safe YAML whose aliases stand for a bounded number of values."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        sizes: dict[int, int] = {}
        if node is not None and _expanded(node, sizes) > len(sizes) + MAX_ALIASED:
            raise yaml.YAMLError(f"its aliases (*name) stand for more than {MAX_ALIASED:,} values")
        return node


def _expanded(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of nodes below ``node`` if each alias were written out; ``sizes`` has one entry a node."""
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise yaml.YAMLError("one of its aliases (*name) stands for what it is in")
        return sizes[id(node)]
    sizes[id(node)] = 0  # not known yet
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    sizes[id(node)] = 1 + sum(_expanded(part, sizes) for part in parts)
    return sizes[id(node)]


def read_yaml(path: Path) -> Any:
    """The YAML value in ``path``. Raises as `read_text`, and `UserError` for what is not bounded, safe YAML."""
    try:
        return yaml.load(read_text(path), Loader=_BoundedLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that is none
        raise UserError(f"{path} is not valid YAML ({one_line(error, 300)})") from None
    except RecursionError:
        raise UserError(f"{path} is not valid YAML ({_TOO_DEEP})") from None


def write_json(path: Path, value: Any) -> None:
    """Replaces ``path`` by ``value`` atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        text = json.dumps(value, indent=2)  # names of files need not be UTF-8
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Replaces ``path`` by ``text`` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces ``path`` by ``data`` atomically."""
    staging = path.with_name(path.name + ".part")
    with staging.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)
    sync(path.parent)


@contextmanager
def staged_folder(target: Path, keep: bool = False) -> Iterator[Path]:
    """Yields a folder beside ``target``; it is renamed to ``target`` if the block succeeds, and removed if it fails.

    An existing ``target`` is replaced; if ``keep``, its files stay, but for those of the same names. Missing parents are created, and removed again on failure. The umask decides who may
    read the files (safetensors on its own restricts them to the owner).
    """
    staging = target.with_name(f".{target.name}.part")
    if keep and target.is_dir():
        staging = target / staging.name
    shutil.rmtree(staging, ignore_errors=True)
    missing_parents = [parent for parent in target.parents if not parent.exists()]  # the deepest comes first
    try:
        staging.mkdir(parents=True)
        yield staging
        readable = staging.stat().st_mode & 0o666
        for path in staging.rglob("*"):
            if path.is_file():
                path.chmod(readable)
            sync(path)
        sync(staging)
        if staging.parent == target:
            for path in sorted(staging.iterdir()):
                os.replace(path, target / path.name)
            staging.rmdir()
            sync(target)
        elif target.exists():
            old_folder = target.with_name(f".{target.name}.old")
            shutil.rmtree(old_folder, ignore_errors=True)
            os.replace(target, old_folder)
            os.replace(staging, target)
            shutil.rmtree(old_folder)
        else:
            os.replace(staging, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in missing_parents:
            with suppress(OSError):  # somebody else has put files into it
                parent.rmdir()
        raise


@contextmanager
def os_errors_of_rust() -> Iterator[None]:
    """Inside, what safetensors and tokenizers make of a full disk, "... (os error 28)", becomes an `OSError`."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        number = re.search(r"\(os error ([0-9]+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def sync(path: Path) -> None:
    """Waits until the file's or folder's content is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
