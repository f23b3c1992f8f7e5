"""JSON lines, the format of data and of all growing records: a writer, a reader, and the truncation that resuming needs.

Whatever reads JSON lines parses a line with `parse_line` and passes over blank ones (`is_blank`), wherever they stand.

Only a newline ends a line. `str.splitlines` also splits at U+0085, U+2028 and U+2029, which JSON allows inside strings:
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

_UNSAFE = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that other readers take for line ends, that act on a terminal which shows the line, and lone surrogates, which
UTF-8 cannot encode."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""UTF-8's, which some editors write at the start of a file."""
BLANK = _BYTE_ORDER_MARK + b" \t\r\n"
"""The bytes of which a blank line consists."""
_BLOCK = 4096
"""Bytes per read when searching a file backwards."""


class LineError(ValueError):
    """A line that cannot be read. ``reason``: "is not UTF-8" or "is not valid JSON"; ``detail``: the parser's message."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def is_blank(line: bytes) -> bool:
    """Whether a line holds no record."""
    return not line.strip(BLANK)


def parse_line(data: bytes) -> Any:
    """The value in a line or a file, with or without a byte order mark. Raises `LineError`."""
    try:
        return json.loads(data.removeprefix(_BYTE_ORDER_MARK).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise LineError("is not UTF-8", str(error)) from None
    except (ValueError, RecursionError) as error:
        raise LineError("is not valid JSON", str(error)) from None


def json_line(value: Line) -> str:
    """Returns ``value`` as one line with its newline. Raises `ValueError` for NaN and infinity, which JSON does not have."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"


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
        opened = os.fstat(self._file.fileno())
        try:
            current = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            current = None
        if current is None or (opened.st_dev, opened.st_ino) != (current.st_dev, current.st_ino):
            raise UserError(
                f"{self._path} was deleted or replaced while it was written, alone or with its folder: put it back and "
                "run the same command again, or start a new run in another folder"
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
    """Replaces ``path`` by one line per value, atomically."""
    write_text(path, "".join(map(json_line, values)))


def read_json_lines(path: Path) -> list[Line]:
    """Returns the objects in ``path``, or none if there is no such file; an incomplete last line is skipped.

    Raises `UserError` if the file cannot be read, or if a line before the last is damaged.
    """
    try:
        texts = read_regular(path).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    numbered_lines = [(number, text) for number, text in enumerate(texts, 1) if not is_blank(text)]
    values = []
    for number, text in numbered_lines:
        value = _parse(text)
        if value is not None:
            values.append(value)
        elif number < numbered_lines[-1][0]:
            raise UserError(f"{path}: line {number} is damaged, it is not a JSON object")
    return values


def truncate_after(path: Path, step: int) -> None:
    """Truncates ``path`` after the last line whose ``step`` is at most ``step``; lines are ordered by step.

    The file is not rewritten: if the process is killed, it is either unchanged or truncated. Raises `UserError` if it
    cannot be truncated.
    """
    try:
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            end, has_newline = _end_of(file, size, step)
            if end < size:
                os.ftruncate(file.fileno(), end)
            if not has_newline:  # the process was killed between the line and its newline
                file.seek(end)
                file.write(b"\n")
                file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path} cannot be truncated after step {step}: {error.strerror or error}") from None


def _end_of(file: BinaryIO, size: int, step: int) -> tuple[int, bool]:
    """Finds from the file's end where the last line of at most ``step`` ends, and whether it has its newline."""
    end = size if step > 0 else 0  # steps count from 1
    while end > 0:
        start = _start_of(file, end)
        file.seek(start)
        text = file.read(end - start)
        value = _parse(text)
        if value is not None and isinstance(value.get("step"), int) and value["step"] <= step:
            return end, text.endswith(b"\n")
        end = start
    return 0, True


def _start_of(file: BinaryIO, end: int) -> int:
    """Returns where the line begins that ends before ``end``."""
    position = end - 1  # the line's own newline, or the last byte of a line without one
    while position > 0:
        block = max(0, position - _BLOCK)
        file.seek(block)
        newline = file.read(position - block).rfind(b"\n")
        if newline >= 0:
            return block + newline + 1
        position = block
    return 0


def _parse(text: bytes) -> Line | None:
    try:
        value = parse_line(text)
    except LineError:
        return None
    return value if isinstance(value, dict) else None
