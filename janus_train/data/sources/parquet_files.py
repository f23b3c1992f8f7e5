"""The Parquet files of a source and what their footers say, on a local disk or in a store.

A file ends with its footer, which says where each row group's columns are. Footers of remote files are kept in the cache on
the local disk, and one process of a machine reads them while the others wait.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from janus_train.data.sources.rows import content_digest
from janus_train.data.storage.disk_cache import block_cache
from janus_train.data.storage.file_states import FileState, file_states
from janus_train.data.storage.remote import (
    MISSING,
    THREADS,
    Location,
    Reader,
    find,
    is_remote,
    join,
    name_of,
    open_reader,
    read_range,
)
from janus_train.data.types import digest
from janus_train.errors import UserError, one_line
from janus_train.files import refuse_lfs_pointer

_TAIL_BYTES = 64 << 10
"""Bytes that are read from a file's end at first; most footers fit."""
_TRAILER_BYTES = 8
"""A file ends with the length of its footer and a mark of four bytes."""


class ParquetFiles:
    """The files of a source and what their footers say. Raises `UserError` for a file that is not Parquet or not there."""

    def __init__(self, files: Sequence[Location]):
        self.files = list(files)
        self._states = _existing(self.files)
        self.group_sizes: list[list[int]] = []
        """Rows of each row group of each file."""
        self.names: list[tuple[str, ...]] = []
        """The columns of each file."""
        self.labels: dict[str, list[str]] = {}
        """Column of class numbers -> the classes' names, if Hugging Face's ``datasets`` wrote the file."""
        footers = hashlib.sha256()
        for file, footer in zip(self.files, self._footers(), strict=True):
            footers.update(footer)
            metadata = read_metadata(file, footer)
            schema = metadata.schema.to_arrow_schema()
            names = tuple(schema.names)
            self.names.append(self.names[0] if self.names and self.names[0] == names else names)
            self.labels |= _labels(schema)
            self.group_sizes.append([metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)])
        self._footers_digest = footers.hexdigest()

    def _footers(self) -> list[bytes]:
        if not any(map(is_remote, self.files)):
            return list(map(self.footer, range(len(self.files))))
        cache = block_cache()
        with cache.exclusively(str(self.files[0])) if cache else nullcontext(), ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self.footer, range(len(self.files))))

    def footer(self, number: int) -> bytes:
        """The footer of a file with its trailer."""
        file, state = self.files[number], self._states[number]
        if isinstance(file, Path):
            return _read_footer(file, state.size)
        cache = block_cache()
        if cache is None or not state.version:
            return _read_footer(file, state.size)
        return cache.read(f"{file} {state.version} footer", 0, None, None, lambda: _read_footer(file, state.size))

    def reader(self, number: int) -> tuple[Reader, int]:
        """Random access to a file, and its size. What is cached of it does not stand for other content."""
        file, state = self.files[number], self._states[number]
        assert state.size is not None
        return open_reader(file, state.size, state.version or self._footers_digest), state.size

    @property
    def num_bytes(self) -> int:
        return sum(state.size or 0 for state in self._states)

    def data_digest(self) -> str:
        """Changes with the names, sizes and contents of the files, as far as a store tells contents apart.

        The footers count where it does not. Local files are digested as those of ``hf_dataset``.
        """
        if not any(map(is_remote, self.files)):
            return content_digest([file for file in self.files if isinstance(file, Path)])
        parts = [
            f"{name_of(file)} {state.size} {state.version}"
            for file, state in zip(self.files, self._states, strict=True)
        ]
        is_known = all(state.version for state in self._states)
        return digest(parts if is_known else [*parts, self._footers_digest])


def _existing(files: Sequence[Location]) -> list[FileState]:
    states: list[FileState] = []
    for file, state in zip(files, file_states(files), strict=True):
        if state is None:
            raise UserError(f"{file}: there is no such file")
        if state.size is None:
            raise UserError(f"{file} cannot be read: its store does not say how long it is")
        states.append(state)
    return states


def _read_footer(file: Location, size: int | None) -> bytes:
    assert size is not None
    tail = _range(file, max(0, size - _TAIL_BYTES), min(size, _TAIL_BYTES))
    if tail[-4:] == b"PARE":
        raise UserError(f"{file} is an encrypted Parquet file, which cannot be read")
    length = int.from_bytes(tail[-_TRAILER_BYTES:-4], "little") + _TRAILER_BYTES
    if tail[-4:] != b"PAR1" or length > size:
        if isinstance(file, Path):
            refuse_lfs_pointer(file)
        raise UserError(f"{file} is not a Parquet file, or it is cut off")
    return tail[-length:] if length <= len(tail) else _range(file, size - length, length)


def _range(file: Location, offset: int, size: int) -> bytes:
    try:
        return read_range(file, offset, size) if isinstance(file, str) else open_reader(file, 0, "").read(offset, size)
    except MISSING:
        raise UserError(f"{file}: there is no such file") from None


def read_metadata(file: Location, footer: bytes) -> Any:
    """The footer as Arrow reads it. Raises `UserError` naming ``file`` if it is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_metadata(pyarrow.BufferReader(footer))
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file} cannot be opened: its footer is damaged ({one_line(error)})") from None


def _labels(schema: Any) -> dict[str, list[str]]:
    """The classes' names from the metadata that ``datasets`` writes into a file's schema; empty for other writers."""
    try:
        features: Mapping[str, Any] = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: [str(label) for label in feature["names"]]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def parquet_files(places: Sequence[Location]) -> list[Location]:
    """The files at the places: Parquet files, and those in folders. Raises `UserError` for a place without any."""
    files: list[Location] = []
    for place in places:
        found = [place] if name_of(place).endswith(".parquet") else find(join(place, "*.parquet"))
        if not found:
            raise UserError(f"{place} is neither a Parquet file (.parquet) nor a folder with some")
        files += found
    return files
