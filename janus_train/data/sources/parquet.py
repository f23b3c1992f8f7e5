"""Parquet files as a source, on a local disk or in a store: nothing is converted, and no file is read as a whole.

    footers -> sizes of the row groups          a row's group, of its columns only -> ranges -> record

Opening reads the footers (`data.sources.parquet_files`). A row group is the smallest piece that can be read: it counts as a
shard, so that samples come from a few groups at a time (`data.shuffle`), and a process keeps the last ones up to
`GROUPS_BYTES`.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from janus_train.data.sources.parquet_files import ParquetFiles, parquet_files, read_metadata
from janus_train.data.sources.registry import SourceConfig, register_source
from janus_train.data.sources.rows import Columns, RowSource, check_columns, chosen_columns
from janus_train.data.storage.remote import Location, Reader, is_remote
from janus_train.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow

GROUPS_BYTES = 1 << 30
"""Bytes of row groups that a process keeps of a source. The order needs four at a time, eight at the end of an epoch
(`data.shuffle`)."""
OPEN_FILES = 8
"""Number of files to keep open, for as many row groups."""


class ParquetRows:
    """Rows of `ParquetFiles` by number, with the values of some columns as Python objects."""

    def __init__(self, files: ParquetFiles, columns: Sequence[str]):
        """Raises `UserError` if a file lacks one of the columns."""
        for file, names in zip(files.files, files.names, strict=True):
            check_columns(str(file), names, columns)
        self._files, self._columns = files, list(dict.fromkeys(columns))
        self.labels = {name: names for name, names in files.labels.items() if name in columns}
        groups = [
            (file, n, size) for file, sizes in enumerate(files.group_sizes) for n, size in enumerate(sizes) if size
        ]
        self._groups = [(file, n) for file, n, _ in groups]
        self.shard_sizes = [size for *_, size in groups]
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

        metadata = read_metadata(self._files.files[file], self._files.footer(file))
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


class ParquetConfig(SourceConfig):
    """Parquet files or folders of them, on a local disk or in a store."""

    columns: Columns | None = None
    """Record field -> column, for example ``{caption: text, image: jpg}``; ``image`` or ``images`` for the images."""


@register_source("parquet", ParquetConfig, urls=True)
def open_parquet(config: ParquetConfig, places: list[Location], image_size: int) -> RowSource:
    files = ParquetFiles(parquet_files(places))
    fields, images = chosen_columns(config.name, config.columns, files.names[0])
    return RowSource(ParquetRows(files, [*fields.values(), *images]), fields, images, str(files.files[0]))
