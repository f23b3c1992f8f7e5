"""Files: JSON read with errors of one line; everything written by staging, syncing and renaming.

So nothing that was half written is ever taken for whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from janus_train.errors import UserError


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        UserError: the file cannot be read, or holds something else.
        FileNotFoundError: there is no such file.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object")
    return values


def read_json_object_if_any(path: Path) -> dict[str, Any]:
    """As `read_json_object`; an empty object if there is no such file."""
    return read_json_object(path) if path.is_file() else {}


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` in one step."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        text = json.dumps(value, indent=2)  # names of files need not be UTF-8
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step."""
    staging = path.with_name(path.name + ".part")
    with staging.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)
    sync(path.parent)


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` to fill; it becomes ``target`` in one rename when the block ends well, else it goes.

    An existing ``target`` is replaced; parents that it lacks are made, and go with it. Who may read its files is the
    umask's matter, not their writers' (safetensors makes them the owner's alone).
    """
    staging = target.with_name(f".{target.name}.part")
    shutil.rmtree(staging, ignore_errors=True)
    missing = [parent for parent in target.parents if not parent.exists()]  # the deepest comes first
    try:
        staging.mkdir(parents=True)
        yield staging
        readable = staging.stat().st_mode & 0o666
        for path in staging.rglob("*"):
            if path.is_file():
                path.chmod(readable)
            sync(path)
        sync(staging)
        if target.exists():
            old = target.with_name(f".{target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
            os.replace(staging, target)
            shutil.rmtree(old)
        else:
            os.replace(staging, target)
        sync(target.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in missing:
            with suppress(OSError):  # another's files are in it by now
                parent.rmdir()
        raise


def sync(path: Path) -> None:
    """Have the file's or folder's content on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
