"""A data set of Hugging Face's ``datasets`` as a source: on the hub, a ``save_to_disk`` folder, or Arrow or Parquet files.

In: columns. Out: records whose fields are columns under other names, and whose images are columns of type Image, of lists of
Image, or of bytes. No code that comes with a data set is run.

Arrow files are mapped into memory: every row is accessible at once, without a copy. Of Parquet, and so of the hub, whole row
groups are read and the last ones kept (`data.sources.parquet`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from janus_train.data.sources.parquet import ParquetRows
from janus_train.data.sources.parquet_files import ParquetFiles, parquet_files
from janus_train.data.sources.registry import SourceConfig, register_source
from janus_train.data.sources.rows import Columns, RowSource, TableRows, check_columns, chosen_columns, content_digest
from janus_train.data.storage.hub import is_data_set, split_files
from janus_train.data.storage.remote import Location
from janus_train.errors import UserError, one_line

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[^/]+)?")


class HfDatasetSource(RowSource):
    """Rows of a data set as records; a row's key is its number.

    ``fields``: record field -> column. ``images``: columns, in the order of their images. Raises `UserError` for paths
    that are not a data set and for missing columns.
    """

    def __init__(self, paths: Sequence[Path], fields: Mapping[str, str], images: Sequence[str] = ()):
        table = open_table(paths, None, None)
        super().__init__(table.rows([*fields.values(), *images]), fields, images, f"hf_dataset {paths[0]}")


def open_table(places: Sequence[Location], split: str | None, subset: str | None) -> _ParquetTable | _ArrowTable:
    """The data set at the places. Raises `UserError` for places that are not one."""
    if any(isinstance(place, str) for place in places):
        files = [file for place in places for file in _remote_files(place, split, subset)]
        return _ParquetTable(files)
    if subset is not None:
        raise UserError(f"hf_dataset {places[0]}: subset is for a data set on the hub")
    paths = [place for place in places if isinstance(place, Path)]
    endings = {path.suffix for path in paths}
    if split is not None and not paths[0].is_dir():
        raise UserError(
            f"hf_dataset {paths[0]}: split is for a data set on the hub or a folder that save_to_disk wrote"
        )
    if endings == {".parquet"}:
        return _ParquetTable(paths)
    if endings == {".arrow"} or (len(paths) == 1 and paths[0].is_dir()):
        return _ArrowTable(paths, split)
    raise UserError(
        f"hf_dataset {paths[0]}: give path: OWNER/NAME on the hub, one folder that save_to_disk wrote, or .arrow files, or "
        ".parquet files"
    )


def _remote_files(place: Location, split: str | None, subset: str | None) -> list[Location]:
    if isinstance(place, str) and is_data_set(place):
        return list(split_files(place, split, subset))
    if split is not None or subset is not None:
        raise UserError(f"{place}: split and subset are for a whole data set on the hub (hf://datasets/OWNER/NAME)")
    return parquet_files([place])


class _ParquetTable:
    def __init__(self, files: Sequence[Location]):
        self._files = ParquetFiles(files)
        self.names = self._files.names[0]

    def rows(self, columns: Sequence[str]) -> TableRows:
        return ParquetRows(self._files, columns)


class _ArrowTable:
    def __init__(self, paths: list[Path], split: str | None):
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
            if split not in dataset:
                problem = f"has no split {split!r}; it has" if split else "has the splits"
                raise UserError(f"hf_dataset {paths[0]} {problem} {', '.join(dataset)}: choose one with split: NAME")
            dataset = dataset[split]
        elif split is not None:
            raise UserError(f"hf_dataset {paths[0]} has no splits: leave split: {split} out")
        self._paths, self._dataset = paths, dataset
        self.names: list[str] = dataset.column_names

    def rows(self, columns: Sequence[str]) -> TableRows:
        check_columns(f"hf_dataset {self._paths[0]}", self.names, columns)
        return _ArrowRows(self._paths, self._dataset, list(dict.fromkeys(columns)))


class _ArrowRows:
    """Rows of memory-mapped Arrow files."""

    def __init__(self, paths: list[Path], dataset: Any, columns: list[str]):
        self._paths = paths
        features = dataset.features
        self.labels = {name: list(features[name].names) for name in columns if hasattr(features.get(name), "names")}
        self.shard_sizes = [len(dataset)]
        self._table = dataset.select_columns(columns).with_format("arrow")  # gives the stored values without decoding

    def row(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self._table[index].to_pylist()[0]
        return row

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self._files())

    def data_digest(self) -> str:
        return content_digest(self._files())

    def _files(self) -> list[Path]:
        files = [file for path in self._paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
        return [file for file in files if file.is_file() and not file.name.startswith("cache-")]


class HfDatasetConfig(SourceConfig):
    """A data set on the hub, a folder that ``save_to_disk`` wrote, or .arrow or .parquet files.

    ``path: OWNER/NAME`` or ``path: OWNER/NAME@REVISION`` stands for ``paths: [hf://datasets/OWNER/NAME]``.
    """

    split: str | None = None
    """The split; None: the only one."""
    subset: str | None = None
    """The subset (config) of a data set on the hub; None: the default one."""
    columns: Columns | None = None
    """Record field -> column, for example ``{caption: text, image: jpg}``; ``image`` or ``images`` for the images."""
    fields: dict[str, str] | None = None
    """Record field -> column, without the images. An older form of ``columns``."""
    pictures: tuple[str, ...] | None = Field(strict=False, default=None)
    """The columns with images, beside ``fields``."""

    @model_validator(mode="before")
    @classmethod
    def _hub_id(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "path" not in values:
            return values
        path = values["path"]
        if "paths" in values:
            raise ValueError(
                "path and paths exclude each other: path names a data set on the hub, paths files and folders"
            )
        if not isinstance(path, str) or not _HUB_ID.fullmatch(path):
            raise ValueError(
                f"path: {path!r} is not a data set on the hub, OWNER/NAME; files and folders are given by paths"
            )
        return {name: value for name, value in values.items() if name != "path"} | {"paths": [f"hf://datasets/{path}"]}

    @model_validator(mode="after")
    def _one_form(self) -> HfDatasetConfig:
        if self.columns and (self.fields or self.pictures):
            raise ValueError("columns says what fields and pictures say: give one of the two forms")
        return self


@register_source("hf_dataset", HfDatasetConfig, urls=True)
def open_hf_dataset(config: HfDatasetConfig, places: list[Location], image_size: int) -> RowSource:
    table = open_table(places, config.split, config.subset)
    columns = config.columns
    if columns is None and config.fields:
        columns = {**config.fields, "images": list(config.pictures or ())}
    fields, images = chosen_columns(config.name, columns, table.names)
    return RowSource(table.rows([*fields.values(), *images]), fields, images, f"hf_dataset {places[0]}")
