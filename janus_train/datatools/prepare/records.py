"""Files of records: JSON lines, a JSON list, CSV or TSV, also gzipped, from any record on and without loading the whole.

A place is a byte offset (in the unpacked file) and the number of the line or entry there, counted from 1. Reading from
a place costs nothing but in a gzipped file, which is unpacked up to it: a process that goes on where it stopped does
not begin anew.
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

from janus_train.datatools.prepare.items import SkipRecord
from janus_train.errors import UserError

LINES, LIST, OBJECT, TABLE = "lines", "list", "object", "table"
ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz", ".jsonlines")
_CHUNK = 1 << 20
_MARK = b"\xef\xbb\xbf"
"""UTF-8's byte order mark, with which some editors begin a file."""
_BLANK = _MARK + b" \t\r\n"
_LONGEST = 64 << 20
"""No record is longer: a list that has no valid entry in so many bytes is broken."""


@dataclass(frozen=True)
class RecordPlace:
    offset: int
    number: int


@dataclass(frozen=True)
class LocatedRecord:
    """A record and where it stands; ``value`` is a `SkipRecord` if it cannot be read."""

    place: RecordPlace
    where: str
    value: dict[str, Any] | SkipRecord


START = RecordPlace(0, 1)


@lru_cache(maxsize=256)
def kind_of(path: str) -> str:
    """`LINES`, `LIST`, `OBJECT` (one JSON object for all, as COCO has it) or `TABLE`; by name and first bytes."""
    name = path.lower().removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        return TABLE
    if not name.endswith(".json"):
        return LINES
    with _readable(path), _open(path) as file:
        head = file.readline(_CHUNK)
        while head and not head.strip():
            head = file.readline(_CHUNK)
    if head.lstrip(_BLANK).startswith(b"["):
        return LIST
    try:
        first = json.loads(head)
    except (ValueError, RecursionError):
        return OBJECT
    return OBJECT if isinstance(first, dict) and isinstance(first.get("annotations"), list) else LINES


def records(path: str, place: RecordPlace = START, columns: tuple[str, ...] = ()) -> Iterator[LocatedRecord]:
    """The records from ``place`` on. Raises `UserError` for a file that is damaged as a whole."""
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
            if line.strip(_BLANK):
                yield RecordPlace(offset, number), line
            number += 1
            offset += len(line)


def load_object(path: str) -> dict[str, Any]:
    """A file that is one JSON object."""
    with _readable(path), _open(path) as file:
        content = file.read()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is no JSON object")
    return value


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error})") from None


def parse(line: bytes) -> dict[str, Any] | SkipRecord:
    try:
        value = json.loads(line.removeprefix(_MARK))
    except UnicodeDecodeError:
        return SkipRecord("the line is no UTF-8")
    except (ValueError, RecursionError) as error:
        return SkipRecord("the line is no valid JSON", str(error))
    return value if isinstance(value, dict) else SkipRecord("the record is no object")


def _list(path: str, place: RecordPlace) -> Iterator[LocatedRecord]:
    """The entries of a JSON list, each decoded alone; ``text[at]`` stands at byte ``offset`` of the file."""
    file = _at(path, place.offset)
    head = file.read(3)
    offset = 3 if place.offset == 0 and head == _MARK else place.offset
    utf8, decoder = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder()
    text = utf8.decode(b"" if offset == 3 else head)
    number, at, size, ended = place.number, 0, _CHUNK, False
    started = place.offset > 0  # else the list's bracket comes first
    problem: Exception | None = None
    while True:
        here = _after(text, at, " \t\r\n," if started else " \t\r\n")
        offset, at = offset + here - at, here  # what is passed over is ASCII
        if at < len(text) and not started:
            started, at, offset = True, at + 1, offset + 1
            continue
        if at < len(text) and text[at] == "]":
            return
        if at < len(text):
            try:
                value, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                problem = error
                if ended or len(text) - at > _LONGEST:
                    raise UserError(f"{path}: entry {number} of the list is no valid JSON ({problem})") from None
            else:
                record = value if isinstance(value, dict) else SkipRecord("the record is no object")
                yield LocatedRecord(RecordPlace(offset, number), f"{path}, entry {number}", record)
                offset, at, number, size = offset + len(text[at:end].encode()), end, number + 1, _CHUNK
                continue
        elif ended:
            raise UserError(f"{path}: the list does not end: the file is cut off after entry {number - 1}")
        more = file.read(size)
        ended, size = not more, size * 2
        try:
            text, at = text[at:] + utf8.decode(more, final=ended), 0
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is no UTF-8 near entry {number} ({error.reason})") from None


def _after(text: str, at: int, skipped: str) -> int:
    while at < len(text) and text[at] in skipped:
        at += 1
    return at


def _table(path: str, place: RecordPlace, columns: tuple[str, ...]) -> Iterator[LocatedRecord]:
    """Rows as records by the names of the first line, or by ``columns`` if there is none."""
    names, first = (columns, START) if columns else _head(path)
    source = _Lines(path, first if place == START else place)
    rows = csv.reader(source, delimiter=_delimiter(path))
    while True:
        start = RecordPlace(source.offset, source.number)
        where = f"{path}:{start.number}"
        try:
            row = next(rows)
        except StopIteration:
            return
        except (UnicodeDecodeError, csv.Error) as error:
            yield LocatedRecord(start, where, SkipRecord("the row is no valid CSV in UTF-8", str(error)))
            continue
        if not row:
            continue
        if len(row) != len(names):
            yield LocatedRecord(
                start, where, SkipRecord("the row has more or fewer columns", f"{len(row)}, not {len(names)}")
            )
        else:
            yield LocatedRecord(start, where, dict(zip(names, row, strict=True)))


class _Lines:
    """Lines as text for the CSV reader, counting where the next one starts: a quoted value may hold line breaks."""

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
def _delimiter(path: str) -> str:
    """A tab if the first line has more tabs than commas: there are such files called .csv, too."""
    csv.field_size_limit(_LONGEST)
    with _readable(path), _open(path) as file:
        line = file.readline(_CHUNK)
    return "\t" if line.count(b"\t") > line.count(b",") else ","


@lru_cache(maxsize=256)
def _head(path: str) -> tuple[tuple[str, ...], RecordPlace]:
    """The names in a table's first line, and the place after it."""
    source = _Lines(path, START)
    try:
        names = tuple(name.strip() for name in next(csv.reader(source, delimiter=_delimiter(path)), []))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}:1: no valid CSV in UTF-8 ({error})") from None
    if not names:
        raise UserError(f"{path} is empty")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two columns have the same name; name them yourself with --columns")
    return names, RecordPlace(source.offset, source.number)


# --------------------------------------------------------------------------------------------------------------- files


def _open(path: str) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.lower().endswith(".gz") else Path(path).open("rb")


@lru_cache(maxsize=4)
def _handle(path: str) -> IO[bytes]:
    """Open files are kept: unpacking goes on where it stopped."""
    return _open(path)


def _at(path: str, offset: int) -> IO[bytes]:
    file = _handle(path)
    file.seek(offset)
    return file
