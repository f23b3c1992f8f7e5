"""Reads files of records: JSON lines, a JSON list, CSV or TSV, also gzipped, from any record on, piece by piece.

A place is a byte offset (in the unpacked file) and the number of the line or entry there, counted from 1. Starting at a
place costs nothing except in a gzipped file, which is unpacked up to it; the open file is kept, so that a process that
continues where it stopped does not unpack from the start again.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

from janus_train.datatools.prepare.delimiter import NUM_LINES, find_delimiter
from janus_train.datatools.prepare.items import SkipRecord
from janus_train.errors import UserError
from janus_train.jsonl import BLANK, LineError, is_blank, parse_line

LINES, LIST, OBJECT, TABLE = "lines", "list", "object", "table"
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz", ".jsonlines")
_CHUNK = 1 << 20
_MARK = b"\xef\xbb\xbf"
"""UTF-8's byte order mark, which some editors write at the start of a file."""
_LONGEST = 64 << 20
"""Limit for a record: a list without a valid entry in this many bytes is broken."""


@dataclass(frozen=True)
class RecordPlace:
    offset: int
    number: int


@dataclass(frozen=True)
class LocatedRecord:
    """A record and its place; ``value`` is a `SkipRecord` if it cannot be read."""

    place: RecordPlace
    location: str
    value: dict[str, Any] | SkipRecord


START = RecordPlace(0, 1)


@lru_cache(maxsize=256)
def kind_of(path: str) -> str:
    """The kind of file by name and first bytes: `LINES`, `LIST`, `OBJECT` (one JSON object, as in COCO) or `TABLE`."""
    name = path.lower().removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        return TABLE
    if not name.endswith(".json"):
        return LINES
    with _readable(path), _open(path) as file:
        head = file.readline(_CHUNK)
        while head and is_blank(head):
            head = file.readline(_CHUNK)
    if head.lstrip(BLANK).startswith(b"["):
        return LIST
    try:
        value = json.loads(head)
    except (ValueError, RecursionError):
        return OBJECT
    return OBJECT if isinstance(value, dict) and isinstance(value.get("annotations"), list) else LINES


def records(path: str, place: RecordPlace = START, columns: tuple[str, ...] = ()) -> Iterator[LocatedRecord]:
    """The records from ``place`` on. Raises `UserError` for a file that cannot be read at all."""
    kind = kind_of(path)
    with _readable(path):
        if kind == TABLE:
            yield from _table(path, place, columns)
        elif kind == LIST:
            yield from _list(path, place)
        elif kind == LINES:
            for line_place, line in lines(path, place):
                yield LocatedRecord(line_place, f"{path}:{line_place.number}", parse(line))
        else:
            raise UserError(f"{path} is one JSON object: a list of records, or one in each line, is needed")


def lines(path: str, place: RecordPlace = START) -> Iterator[tuple[RecordPlace, bytes]]:
    """The lines that are not blank, undecoded."""
    with _readable(path):
        file = _at(path, place.offset)
        number, offset = place.number, place.offset
        while line := file.readline():
            if not is_blank(line):
                yield RecordPlace(offset, number), line
            number += 1
            offset += len(line)


def load_object(path: str) -> dict[str, Any]:
    """Load a file that is one JSON object. Raises `UserError`."""
    with _readable(path), _open(path) as file:
        content = file.read()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error})") from None


def parse(line: bytes) -> dict[str, Any] | SkipRecord:
    try:
        value = parse_line(line)
    except LineError as error:
        return SkipRecord(f"the line {error.reason}", error.detail)
    return value if isinstance(value, dict) else SkipRecord("the record is not an object")


def _list(path: str, place: RecordPlace) -> Iterator[LocatedRecord]:
    """The entries of a JSON list, each decoded alone; ``text[at]`` is at byte ``offset`` of the file."""
    file = _at(path, place.offset)
    head = file.read(3)
    offset = 3 if place.offset == 0 and head == _MARK else place.offset
    utf8, decoder = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder()
    text = utf8.decode(b"" if offset == 3 else head)
    number, at, size, at_end = place.number, 0, _CHUNK, False
    in_list = place.offset > 0  # else the list's bracket comes first
    problem: Exception | None = None
    while True:
        next_at = _skip_characters(text, at, " \t\r\n," if in_list else " \t\r\n")
        offset, at = offset + next_at - at, next_at  # the skipped characters are ASCII
        if at < len(text) and not in_list:
            in_list, at, offset = True, at + 1, offset + 1
            continue
        if at < len(text) and text[at] == "]":
            return
        if at < len(text):
            try:
                value, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                problem = error
                if at_end or len(text) - at > _LONGEST:
                    raise UserError(f"{path}: entry {number} of the list is not valid JSON ({problem})") from None
            else:
                record = value if isinstance(value, dict) else SkipRecord("the record is not an object")
                yield LocatedRecord(RecordPlace(offset, number), f"{path}, entry {number}", record)
                offset, at, number, size = offset + len(text[at:end].encode()), end, number + 1, _CHUNK
                continue
        elif at_end:
            raise UserError(f"{path}: the list does not end: the file is cut off after entry {number - 1}")
        chunk = file.read(size)
        at_end, size = not chunk, size * 2
        try:
            text, at = text[at:] + utf8.decode(chunk, final=at_end), 0
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 near entry {number} ({error.reason})") from None


def _skip_characters(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _table(path: str, place: RecordPlace, columns: tuple[str, ...]) -> Iterator[LocatedRecord]:
    """Rows as records by the names in the first line, or by ``columns`` if the file has no such line."""
    names, start_of_rows = (columns, START) if columns else _head(path)
    source = _Lines(path, start_of_rows if place == START else place)
    rows = csv.reader(source, delimiter=_delimiter(path, columns))
    while True:
        start = RecordPlace(source.offset, source.number)
        location = f"{path}:{start.number}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except (UnicodeDecodeError, csv.Error) as error:
            yield LocatedRecord(start, location, SkipRecord("the row is not valid CSV in UTF-8", str(error)))
            continue
        if not row:
            continue
        if len(row) != len(names):
            yield LocatedRecord(
                start, location, SkipRecord("the row has more or fewer columns", f"{len(row)}, not {len(names)}")
            )
        else:
            yield LocatedRecord(start, location, dict(zip(names, row, strict=True)))


class _Lines:
    """Lines as text for the CSV reader; it tracks the next row's place, since quoted values may contain line breaks."""

    def __init__(self, path: str, place: RecordPlace):
        self.offset, self.number = place.offset, place.number
        self._file = _at(path, place.offset)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.offset += len(line)
        self.number += 1
        return line.decode("utf-8-sig" if self.offset == len(line) else "utf-8")


@lru_cache(maxsize=256)
def _delimiter(path: str, columns: tuple[str, ...]) -> str:
    """The delimiter, whatever the file is called: what spreadsheets call CSV has semicolons in half of Europe."""
    csv.field_size_limit(_LONGEST)
    with _readable(path), _open(path) as file:
        lines = file.read(_CHUNK).decode("utf-8-sig", "replace").split("\n")
    return find_delimiter([f"{line}\n" for line in lines[:-1] or lines][:NUM_LINES], columns)


@lru_cache(maxsize=256)
def _head(path: str) -> tuple[tuple[str, ...], RecordPlace]:
    """The names in a table's first line, and the place after that line."""
    source = _Lines(path, START)
    try:
        names = tuple(name.strip() for name in next(csv.reader(source, delimiter=_delimiter(path, ())), []))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}:1: is not valid CSV in UTF-8 ({error})") from None
    if not names:
        raise UserError(f"{path} is empty")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two columns have the same name; set the names with --columns")
    return names, RecordPlace(source.offset, source.number)


# --------------------------------------------------------------------------------------------------------------- files


def _open(path: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.lower().endswith(".gz") else Path(path).open("rb")


@lru_cache(maxsize=4)
def _handle(path: str) -> IO[bytes]:
    """Open files are kept, so that unpacking continues where it stopped."""
    return _open(path)


def forget_files() -> None:
    """Forget what was kept of files: they may be other ones when a conversion starts."""
    for kept in (kind_of, _delimiter, _head, _handle):
        kept.cache_clear()


def _at(path: str, offset: int) -> IO[bytes]:
    file = _handle(path)
    file.seek(offset)
    return file
