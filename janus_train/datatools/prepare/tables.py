"""Reads tables with images inside: rows of Parquet files as records. Images are not decoded.

A row group of a Parquet file is the smallest piece that can be read without reading the rows before it. Rows of a group
are read forwards, so that consecutive units of one group do not read it from its start again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from janus_train.datatools.prepare.inputs import file_extent
from janus_train.datatools.prepare.items import UNIT_BYTES, Extent, Unit
from janus_train.errors import UserError, one_line

_BATCH_BYTES = 8 << 20


@lru_cache(maxsize=8)
def open_parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({one_line(error)})") from None


def parquet_units(path: str, columns: list[str] | None) -> Iterator[Unit]:
    """Units of row groups, large ones in pieces. A unit's ``place``: [path, row group, first row, end row, columns]."""
    metadata = open_parquet(path).metadata
    stamp = (file_extent(path) or Extent()).stamp
    for group in range(metadata.num_row_groups):
        rows, size = metadata.row_group(group).num_rows, _group_bytes(metadata.row_group(group), columns)
        pieces = min(rows, -(-size // UNIT_BYTES)) or 1
        for piece in range(pieces):
            start, stop = piece * rows // pieces, (piece + 1) * rows // pieces
            if stop > start:
                yield Unit(stop - start, size // pieces, [path, group, start, stop, columns], stamp=stamp)


def _group_bytes(group: Any, columns: list[str] | None) -> int:
    chunks = [group.column(number) for number in range(group.num_columns)]
    names = set(columns) if columns is not None else None
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if names is None or chunk.path_in_schema.split(".")[0] in names
    )


def parquet_rows(place: list[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number in the file's row group, row) for the rows at the ``place`` of a unit of `parquet_units`."""
    path, group, start, stop, columns = place
    try:
        yield from _rows(path, group, tuple(columns) if columns is not None else None).read(start, stop)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged in row group {group} ({one_line(error)})") from None


@lru_cache(maxsize=1)
def _rows(path: str, group: int, columns: tuple[str, ...] | None) -> _RowGroupReader:
    return _RowGroupReader(path, group, columns)


class _RowGroupReader:
    """Reads the rows of a row group forwards; going back starts again from its first row."""

    def __init__(self, path: str, group: int, columns: tuple[str, ...] | None):
        self._file, self._group = open_parquet(path), group
        self._columns = list(columns) if columns is not None else None
        row_group = self._file.metadata.row_group(group)
        average = row_group.total_byte_size // max(1, row_group.num_rows)
        self._batch_rows = max(1, min(1024, _BATCH_BYTES // max(1, average)))
        self._rewind()

    def _rewind(self) -> None:
        self._batches = self._file.iter_batches(self._batch_rows, row_groups=[self._group], columns=self._columns)
        self._first_row, self._batch = 0, pa.RecordBatch.from_pydict({})

    def read(self, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
        if start < self._first_row:
            self._rewind()
        while start < stop:
            while start >= self._first_row + self._batch.num_rows:
                self._first_row += self._batch.num_rows
                self._batch = next(self._batches)
            upto = min(stop, self._first_row + self._batch.num_rows)
            for row in self._batch.slice(start - self._first_row, upto - start).to_pylist():
                yield start, row
                start += 1


def forget_files() -> None:
    """Forget what was kept of files: they may be other ones when a conversion starts."""
    open_parquet.cache_clear()
    _rows.cache_clear()


def is_path_type(type_: pa.DataType) -> bool:
    """Whether a column of this type may hold paths, or lists of them."""
    while pa.types.is_list(type_) or pa.types.is_large_list(type_):
        type_ = type_.value_type
    return pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_null(type_)


def class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """The class names of each label column, if HF ``datasets`` wrote the file."""
    try:
        features = dict(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: feature["names"]
        for name, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list)
    }


def needed_columns(
    path: str, file_columns: list[str], required_columns: list[str], optional_columns: tuple[str, ...] = ()
) -> list[str]:
    """The required columns and the existing optional ones. Raises `UserError` if a required one is missing."""
    missing_columns = [name for name in required_columns if name not in file_columns]
    if missing_columns:
        raise UserError(f"{path} has no column {missing_columns[0]!r}, it has {', '.join(file_columns)}")
    return [name for name in file_columns if name in {*required_columns, *optional_columns}]
