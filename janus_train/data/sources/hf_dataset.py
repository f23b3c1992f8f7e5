"""A data set of Hugging Face's ``datasets`` on disk as a source: a ``save_to_disk`` folder, or Arrow or Parquet files.

In: columns. Out: records whose fields are columns under other names, and whose images are columns of type Image, of
lists of Image, or of bytes. Images stay undecoded bytes until they are used. An image that is stored as a path or URL
instead of bytes is refused; nothing is downloaded, and no code that comes with a data set is run.

Arrow files are mapped into memory: every row is accessible at once, without a copy. Parquet has no random access inside a
row group: each reading process decodes whole groups and keeps the last ones, up to `GROUPS_BYTES`. That is fine for a few
processes; for many, write the data with ``save_to_disk`` or prepare shards.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic import Field

from janus_train.data.sources.decode import FOLDER_FORMATS, image_of
from janus_train.data.sources.registry import CONTENT_DIGEST_LIMIT, SourceConfig, register_source
from janus_train.data.storage.remote import with_retries
from janus_train.data.types import BadSample, Record, digest
from janus_train.errors import UserError, one_line

if TYPE_CHECKING:
    import pyarrow

GROUPS_BYTES = 1 << 30
"""Bytes of row groups that a process keeps of a Parquet source. The order needs four at a time, eight at the end of an
epoch (`data.shuffle`)."""


class _TableRows(Protocol):
    """Rows by number, with the columns' values as Python objects."""

    shard_sizes: list[int]
    labels: dict[str, list[str]]
    """Column of class numbers -> the classes' names."""

    def row(self, index: int) -> dict[str, Any]: ...


class HfDatasetSource:
    """Rows of a data set as records; a row's key is its number.

    ``fields``: record field -> column. ``pictures``: columns, in the order of their images. Raises `UserError` for paths
    that are not a data set and for missing columns.
    """

    def __init__(self, paths: Sequence[Path], fields: Mapping[str, str], images: Sequence[str] = ()):
        self._paths, self._fields, self._images = list(paths), dict(fields), list(images)
        columns = list(dict.fromkeys([*self._fields.values(), *self._images]))
        endings = {path.suffix for path in self._paths}
        if endings == {".parquet"}:
            self._rows: _TableRows = _ParquetRows(self._paths, columns)
        elif endings == {".arrow"} or (len(self._paths) == 1 and self._paths[0].is_dir()):
            self._rows = _ArrowRows(self._paths, columns)
        else:
            raise UserError(
                f"hf_dataset {paths[0]}: give one folder that save_to_disk wrote, or .arrow files, or .parquet files"
            )
        self.shard_sizes = self._rows.shard_sizes
        self._length = sum(self.shard_sizes)
        if not self._length:
            raise UserError(f"hf_dataset {paths[0]} has no rows")

    def __len__(self) -> int:
        return self._length

    def data_digest(self) -> str:
        """A digest of the files' names and sizes, and of the contents up to `CONTENT_DIGEST_LIMIT`."""
        files = [file for path in self._paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
        sizes = {file: file.stat().st_size for file in files if file.is_file() and not file.name.startswith("cache-")}
        is_small = sum(sizes.values()) <= CONTENT_DIGEST_LIMIT
        parts = [f"{file.name} {size}" for file, size in sizes.items()]
        for file in sizes:
            if is_small or file.suffix == ".json":
                with file.open("rb") as stream:
                    parts.append(hashlib.file_digest(stream, "sha256").hexdigest())
        return digest(parts)

    def __getitem__(self, index: int) -> Record:
        key = self.key(index)
        row = self._rows.row(index)
        fields = {name: self._value(row[column], column, key) for name, column in self._fields.items()}
        images = [
            image_of(data, FOLDER_FORMATS, key) for column in self._images for data in _bytes(row[column], column, key)
        ]
        return Record(key, fields, images, [None] * len(images))

    def key(self, index: int) -> str:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return str(index)

    def _value(self, value: Any, column: str, key: str) -> Any:
        """The value unchanged, or a class's name for its number."""
        names = self._rows.labels.get(column)
        if names is None:
            return value
        if not isinstance(value, int) or not 0 <= value < len(names):
            raise BadSample(f"column {column!r} has no class for {value!r}", key=key)
        return names[value]


def _bytes(value: Any, column: str, key: str) -> list[bytes]:
    """The encoded images in a column's value, which is an Image, bytes, or a list of those."""
    if isinstance(value, list):
        return [data for element in value for data in _bytes(element, column, key)]
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return [data]
    if isinstance(value, dict) and value.get("path"):
        raise BadSample(f"column {column!r} has a path where the image's bytes should be", key=key)
    raise BadSample(f"column {column!r} has no image", key=key)


def _labels(features: Any, columns: list[str]) -> dict[str, list[str]]:
    """The names of the classes for the columns that contain class numbers."""
    return {name: list(features[name].names) for name in columns if hasattr(features.get(name), "names")}


def _check_columns(path: Path, names: Sequence[str], columns: list[str]) -> None:
    missing_columns = [column for column in columns if column not in names]
    if missing_columns:
        raise UserError(f"hf_dataset {path} has no column {missing_columns[0]!r}; it has {', '.join(names)}")


class _ArrowRows:
    """Rows of memory-mapped Arrow files."""

    def __init__(self, paths: list[Path], columns: list[str]):
        import pyarrow
        from datasets import Dataset, concatenate_datasets, load_from_disk

        try:
            if paths[0].is_dir():
                dataset = load_from_disk(str(paths[0]))
            else:
                dataset = concatenate_datasets([Dataset.from_file(str(path)) for path in paths])
        except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
            raise UserError(f"hf_dataset {paths[0]} cannot be opened ({one_line(error)})") from None
        if not isinstance(dataset, Dataset):
            raise UserError(
                f"hf_dataset {paths[0]} has the splits {', '.join(dataset)}: give the folder of one of them"
            )
        _check_columns(paths[0], dataset.column_names, columns)
        self.labels = _labels(dataset.features, columns)
        self.shard_sizes = [len(dataset)]
        self._table = dataset.select_columns(columns).with_format("arrow")  # gives the stored values without decoding

    def row(self, index: int) -> dict[str, Any]:
        return self._table[index].to_pylist()[0]


class _ParquetRows:
    """Rows of Parquet files, read by row groups. Each group counts as a shard, so that only a few are needed at a time."""

    def __init__(self, paths: list[Path], columns: list[str]):
        self._columns = columns
        self._groups: list[tuple[Path, int]] = []
        self.shard_sizes: list[int] = []
        self.labels: dict[str, list[str]] = {}
        for path in paths:
            metadata, schema = self._open(path)
            _check_columns(path, schema.names, columns)
            self.labels |= _parquet_labels(schema, columns)
            self._groups += [(path, number) for number in range(metadata.num_row_groups)]
            self.shard_sizes += [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *self.shard_sizes]).tolist()
        self._group_cache: OrderedDict[int, pyarrow.Table] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": OrderedDict()}

    @staticmethod
    def _open(path: Path) -> tuple[Any, Any]:
        import pyarrow
        import pyarrow.parquet

        try:
            file = pyarrow.parquet.ParquetFile(path)
            return file.metadata, file.schema_arrow
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"hf_dataset {path} cannot be opened ({one_line(error)})") from None

    def row(self, index: int) -> dict[str, Any]:
        group = bisect_right(self._starts, index) - 1
        return self._group(group).slice(index - self._starts[group], 1).to_pylist()[0]

    def _group(self, number: int) -> pyarrow.Table:
        table = self._group_cache.get(number)
        if table is None:
            table = self._group_cache[number] = self._read(*self._groups[number])
            while (
                len(self._group_cache) > 1 and sum(group.nbytes for group in self._group_cache.values()) > GROUPS_BYTES
            ):
                self._group_cache.popitem(last=False)
        self._group_cache.move_to_end(number)
        return table

    def _read(self, path: Path, number: int) -> pyarrow.Table:
        import pyarrow
        import pyarrow.parquet

        try:
            return with_retries(path, lambda: pyarrow.parquet.ParquetFile(path).read_row_group(number, self._columns))
        except (FileNotFoundError, pyarrow.ArrowException) as error:
            raise UserError(f"hf_dataset {path}, row group {number} cannot be read ({error})") from None


def _parquet_labels(schema: Any, columns: list[str]) -> dict[str, list[str]]:
    """The classes' names from the metadata that ``datasets`` writes into a file's schema; empty for other writers."""
    from datasets import Features

    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return {}
    try:
        return _labels(Features.from_dict(json.loads(metadata)["info"]["features"]), columns)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


class HfDatasetConfig(SourceConfig):
    """A folder that ``save_to_disk`` wrote, or .arrow or .parquet files."""

    fields: dict[str, str] | None = None
    """Record field -> column, for example ``{caption: text}``."""
    pictures: tuple[str, ...] | None = Field(strict=False, default=None)
    """The columns with images."""


@register_source("hf_dataset", HfDatasetConfig)
def open_hf_dataset(config: HfDatasetConfig, places: list[Path], image_size: int) -> HfDatasetSource:
    if not config.fields:
        raise UserError(
            f"source {config.name!r} of type hf_dataset needs fields, for example fields: {{caption: text}}"
        )
    return HfDatasetSource(places, config.fields, config.pictures or ())
