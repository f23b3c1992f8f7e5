"""Parquet files as a source, on a local disk or in a store: nothing is converted, and no file is read as a whole.

    footers -> sizes of the row groups          a row's group, of its columns only -> ranges -> record

Opening reads the end of each file, its footer, which says where each row group's columns are. Footers of remote files are kept
in the cache on the local disk, and one process of a machine reads them while the others wait. A row group is the smallest
piece that can be read: it counts as a shard, so that samples come from a few groups at a time (`data.shuffle`), and a process
keeps the last ones up to `GROUPS_BYTES`.
"""

from __future__ import annotations

import hashlib
import io
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_train.data.sources.registry import SourceConfig, register_source
from janus_train.data.sources.rows import Columns, RowSource, check_columns, chosen_columns, content_digest
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

if TYPE_CHECKING:
    import pyarrow

GROUPS_BYTES = 1 << 30
"""Bytes of row groups that a process keeps of a source. The order needs four at a time, eight at the end of an epoch
(`data.shuffle`)."""
OPEN_FILES = 8
"""Number of files to keep open, for as many row groups."""
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
            metadata = _metadata(file, footer)
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


class ParquetRows:
    """Rows of `ParquetFiles` by number, with the values of some columns as Python objects."""

    def __init__(self, files: ParquetFiles, columns: Sequence[str]):
        """Raises `UserError` if a file lacks one of the columns."""
        for file, names in zip(files.files, files.names, strict=True):
            check_columns(str(file), names, columns)
        self._files, self._columns = files, list(dict.fromkeys(columns))
        self.labels = {name: names for name, names in files.labels.items() if name in columns}
        self._groups = [(file, n) for file, sizes in enumerate(files.group_sizes) for n in range(len(sizes))]
        self.shard_sizes = [size for sizes in files.group_sizes for size in sizes]
        self._starts = list(accumulate(self.shard_sizes, initial=0))
        self._forget()

    def _forget(self) -> None:
        self._group_cache: OrderedDict[int, pyarrow.Table] = OrderedDict()
        self._open = lru_cache(OPEN_FILES)(self._open_file)

    def __getstate__(self) -> dict[str, Any]:
        """Rows are sent to worker processes without open files and row groups."""
        return {name: value for name, value in vars(self).items() if name not in ("_group_cache", "_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    @property
    def num_bytes(self) -> int:
        return self._files.num_bytes

    def data_digest(self) -> str:
        return self._files.data_digest()

    def row(self, index: int) -> dict[str, Any]:
        group = bisect_right(self._starts, index) - 1
        row: dict[str, Any] = self._group(group).slice(index - self._starts[group], 1).to_pylist()[0]
        return row

    def _group(self, number: int) -> pyarrow.Table:
        table = self._group_cache.get(number)
        if table is None:
            table = self._group_cache[number] = self._read(*self._groups[number])
            while len(self._group_cache) > 1 and sum(t.nbytes for t in self._group_cache.values()) > GROUPS_BYTES:
                self._group_cache.popitem(last=False)
        self._group_cache.move_to_end(number)
        return table

    def _read(self, file: int, group: int) -> pyarrow.Table:
        import pyarrow

        location = self._files.files[file]
        for bypass_cache in (False, True) if is_remote(location) else (False,):
            try:
                return self._open(file, bypass_cache).read_row_group(group, self._columns, use_threads=False)
            except FileNotFoundError:
                raise UserError(f"{location} was removed while it is in use") from None
            except (pyarrow.ArrowException, OSError) as error:  # the cache is not trusted: once more, from the store
                problem = error
        raise UserError(f"{location}, row group {group} cannot be read ({one_line(problem)})")

    def _open_file(self, file: int, bypass_cache: bool) -> Any:
        import pyarrow
        import pyarrow.parquet

        metadata = _metadata(self._files.files[file], self._files.footer(file))
        stream = pyarrow.PythonFile(_RangeFile(*self._files.reader(file), bypass_cache), "r")
        return pyarrow.parquet.ParquetFile(stream, metadata=metadata)


class _RangeFile(io.RawIOBase):
    """A `Reader` as a file to seek in, for Arrow."""

    def __init__(self, reader: Reader, size: int, bypass_cache: bool):
        super().__init__()
        self._reader, self._size, self._bypass_cache, self._place = reader, size, bypass_cache, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        size = max(0, self._size - self._place) if size < 0 else size
        data = self._reader.read(self._place, size, self._bypass_cache)
        self._place += len(data)
        return data


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


def _metadata(file: Location, footer: bytes) -> Any:
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


class ParquetConfig(SourceConfig):
    """Parquet files or folders of them, on a local disk or in a store."""

    columns: Columns | None = None
    """Record field -> column, for example ``{caption: text, image: jpg}``; ``image`` or ``images`` for the images."""


@register_source("parquet", ParquetConfig, urls=True)
def open_parquet(config: ParquetConfig, places: list[Location], image_size: int) -> RowSource:
    files = ParquetFiles(parquet_files(places))
    fields, images = chosen_columns(config.name, config.columns, files.names[0])
    return RowSource(ParquetRows(files, [*fields.values(), *images]), fields, images, str(files.files[0]))
