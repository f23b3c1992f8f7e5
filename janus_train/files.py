"""Reads JSON with one-line errors, and writes files and folders by staging, syncing and renaming.

An interrupted write therefore never leaves a partial file under the final name.
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
    """Reads the JSON object in ``path``.

    Raises:
        UserError: the file cannot be read, or is not a JSON object.
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
    """Like `read_json_object`, but returns an empty object if there is no such file."""
    return read_json_object(path) if path.is_file() else {}


def write_json(path: Path, value: Any) -> None:
    """Replaces ``path`` by ``value`` atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


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
def staged_folder(target: Path) -> Iterator[Path]:
    """Yields a folder beside ``target``; it is renamed to ``target`` if the block succeeds, and removed if it fails.

    An existing ``target`` is replaced; missing parents are created, and removed again on failure. The umask decides who may
    read the files (safetensors on its own restricts them to the owner).
    """
    staging = target.with_name(f".{target.name}.part")
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
        if target.exists():
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
