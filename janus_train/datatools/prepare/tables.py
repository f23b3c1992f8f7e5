"""Tables with images inside: rows of Parquet files and of HF data sets on disk, as records.

Nothing is decoded: an image is its bytes. A row group of a Parquet file is the smallest piece that can be found
without reading what is before it; a process that goes on where it stopped in one does not begin anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from janus_train.datatools.prepare.items import UNIT_BYTES, Unit
from janus_train.errors import UserError, one_line

_BATCH_BYTES = 8 << 20


@lru_cache(maxsize=8)
def open_parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is no readable Parquet file ({one_line(error)})") from None


def parquet_units(path: str, columns: list[str] | None) -> Iterator[Unit]:
    """Row groups, large ones in pieces. ``what`` is [path, row group, first row, row after the last, columns]."""
    metadata = open_parquet(path).metadata
    for group in range(metadata.num_row_groups):
        rows, size = metadata.row_group(group).num_rows, _group_bytes(metadata.row_group(group), columns)
        pieces = min(rows, -(-size // UNIT_BYTES)) or 1
        for piece in range(pieces):
            start, stop = piece * rows // pieces, (piece + 1) * rows // pieces
            if stop > start:
                yield Unit(stop - start, size // pieces, [path, group, start, stop, columns])


def _group_bytes(group: Any, columns: list[str] | None) -> int:
    chunks = [group.column(number) for number in range(group.num_columns)]
    wanted = set(columns) if columns is not None else None
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if wanted is None or chunk.path_in_schema.split(".")[0] in wanted
    )


def parquet_rows(what: list[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number in the file's row group, row) of a unit of `parquet_units`."""
    path, group, start, stop, columns = what
    try:
        yield from _rows(path, group, tuple(columns) if columns is not None else None).read(start, stop)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged in row group {group} ({one_line(error)})") from None


@lru_cache(maxsize=1)
def _rows(path: str, group: int, columns: tuple[str, ...] | None) -> _RowGroupReader:
    return _RowGroupReader(path, group, columns)


class _RowGroupReader:
    """The rows of a row group, read forwards; going back begins anew."""

    def __init__(self, path: str, group: int, columns: tuple[str, ...] | None):
        self._file, self._group = open_parquet(path), group
        self._columns = list(columns) if columns is not None else None
        row_group = self._file.metadata.row_group(group)
        average = row_group.total_byte_size // max(1, row_group.num_rows)
        self._batch_rows = max(1, min(1024, _BATCH_BYTES // max(1, average)))
        self._begin()

    def _begin(self) -> None:
        self._batches = self._file.iter_batches(self._batch_rows, row_groups=[self._group], columns=self._columns)
        self._first, self._batch = 0, pa.RecordBatch.from_pydict({})

    def read(self, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
        if start < self._first:
            self._begin()
        while start < stop:
            while start >= self._first + self._batch.num_rows:
                self._first += self._batch.num_rows
                self._batch = next(self._batches)
            upto = min(stop, self._first + self._batch.num_rows)
            for row in self._batch.slice(start - self._first, upto - start).to_pylist():
                yield start, row
                start += 1


def class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the classes of each label column, if the file was written by HF ``datasets``."""
    try:
        features = dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }


def needed_columns(path: str, there: list[str], wanted: list[str], if_there: tuple[str, ...] = ()) -> list[str]:
    """``wanted``, and those of ``if_there`` that the file has. Raises `UserError` if a wanted one is missing."""
    missing = [name for name in wanted if name not in there]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}, it has {', '.join(there)}")
    return [name for name in there if name in {*wanted, *if_there}]
