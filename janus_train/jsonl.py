"""JSON lines, the form of every record that grows: one writer, one reader, and the cut that a resume makes.

A newline alone ends a line. `str.splitlines` knows more ends (U+0085, U+2028, U+2029), which JSON allows inside a string:
the reader does not split there, and the writer escapes them for readers that would.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO

from janus_train.errors import UserError
from janus_train.files import read_regular, write_text

Line = dict[str, Any]

_UNSAFE = re.compile("[\x85\u2028\u2029\ud800-\udfff]")
"""What others take for the end of a line, and halves of surrogate pairs, which UTF-8 cannot hold."""
_BLOCK = 4096
"""Bytes read at once on the way back through a file."""


def json_line(value: Line) -> str:
    """``value`` as one line, its newline included. Raises `ValueError` for NaN and infinity, which JSON does not have."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


class JsonLinesFile:
    """A file that stays open and grows by lines; made if it is not there. Raises `UserError` if it cannot be written."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)  # nothing waits in a buffer, to fail when it is closed
        except OSError as error:
            raise self._refused(error) from None

    def append(self, *values: Line) -> None:
        """Add a line a value, all or none. Raises `UserError` also if the file is no longer where it was opened."""
        data = "".join(map(json_line, values)).encode("utf-8")
        try:
            self._refuse_if_gone()
            size = self._file.seek(0, os.SEEK_END)
            try:
                while data:  # a disk that fills up takes a part first
                    data = data[self._file.write(data) :]
            except OSError:
                with suppress(OSError):
                    self._file.truncate(size)
                raise
        except OSError as error:
            raise self._refused(error) from None

    def close(self) -> None:
        self._file.close()

    def _refuse_if_gone(self) -> None:
        """What is written to a file that was deleted, or whose folder was, is lost without a word."""
        here = os.fstat(self._file.fileno())
        try:
            there = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            there = None
        if there is None or (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise UserError(
                f"{self._path} was deleted or replaced while it was written, alone or with its folder: put it back and "
                "start the same command again, or begin anew in another folder"
            )

    def _refused(self, error: OSError) -> UserError:
        return UserError(f"{self._path} cannot be written: {error.strerror or error}")


def append_json_lines(path: Path, values: Iterable[Line]) -> None:
    """Add a line a value to ``path``, which need not exist. Raises `UserError` if the file cannot be written."""
    lines = list(values)
    for line in lines:
        json_line(line)  # before a file is made
    with closing(JsonLinesFile(path)) as file:
        file.append(*lines)


def write_json_lines(path: Path, values: Iterable[Line]) -> None:
    """Replace ``path`` by a line a value, in one step."""
    write_text(path, "".join(map(json_line, values)))


def read_json_lines(path: Path) -> list[Line]:
    """The objects in ``path``, none if there is no such file; a last line that a kill cut short is left out.

    Raises `UserError` if the file cannot be read, or with the number of a damaged line before the last.
    """
    try:
        texts = read_regular(path).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    numbered = [(number, text) for number, text in enumerate(texts, 1) if text.strip()]
    found = []
    for number, text in numbered:
        value = _parsed(text)
        if value is not None:
            found.append(value)
        elif number < numbered[-1][0]:
            raise UserError(f"{path}: line {number} is damaged, it is no JSON object")
    return found


def truncate_after(path: Path, step: int) -> None:
    """Cut ``path`` behind the last line whose ``step`` is at most ``step``; the lines are in the order of their steps.

    Nothing is written anew: a kill leaves the file as it was or as it is to be. Raises `UserError` if it cannot be cut.
    """
    try:
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            end, whole = _end_of(file, size, step)
            if end < size:
                os.ftruncate(file.fileno(), end)
            if not whole:  # a kill came between the line and its newline
                file.seek(end)
                file.write(b"\n")
                file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path} cannot be cut back to step {step}: {error.strerror or error}") from None


def _end_of(file: BinaryIO, size: int, step: int) -> tuple[int, bool]:
    """Where the last line of at most ``step`` ends, seen from the end of the file, and whether its newline is there."""
    end = size if step > 0 else 0  # steps count from 1
    while end > 0:
        start = _start_of(file, end)
        file.seek(start)
        text = file.read(end - start)
        value = _parsed(text)
        if value is not None and isinstance(value.get("step"), int) and value["step"] <= step:
            return end, text.endswith(b"\n")
        end = start
    return 0, True


def _start_of(file: BinaryIO, end: int) -> int:
    """Where the line begins that ends before ``end``."""
    position = end - 1  # what stands there is the line's own newline, or the last byte of a line without one
    while position > 0:
        block = max(0, position - _BLOCK)
        file.seek(block)
        found = file.read(position - block).rfind(b"\n")
        if found >= 0:
            return block + found + 1
        position = block
    return 0


def _parsed(text: bytes) -> Line | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
