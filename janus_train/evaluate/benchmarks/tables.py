"""Reads the tables of published benchmarks: TSV files with base64 images, and Parquet files with images inside.

    files -> rows (text as strings, places of images) -> `Cell.read`, which reads one image again when it is needed

Images stay on the disk: a benchmark's can be gigabytes. An image cell of a TSV holds base64, a list of them, or another
row's ``index``, whose image is meant. In Parquet a row without an image names one by ``imageId``, the ``id`` of a row of
another file (GQA's images).
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from janus_train.data.image_files import ImageError, load_image, open_image
from janus_train.errors import UserError, one_line
from janus_train.files import open_regular

_IMAGE_COLUMN = re.compile(r"images?(_\d+)?")
MAX_REFERENCE_CHARS = 64
"""A shorter text in an image cell is the ``index`` of the row that has the image: no image is so small."""


@dataclass(frozen=True)
class Cell:
    """Where one image is stored."""

    path: Path
    place: tuple[int, int]
    """TSV: the byte at which the row begins, and the number of the column. Parquet: row group, and row in it."""
    column: str
    item: int
    """Which of the images in a cell with several."""
    where: str

    def read(self) -> Image.Image:
        """Reads and decodes the image. Raises `UserError`."""
        cell = _tsv_cell(self.path, self.place) if self.path.suffix == ".tsv" else _parquet_cell(self)
        try:
            image = open_image(_image_bytes(_items(cell)[self.item]))
            load_image(image)
            return image
        except ImageError as error:
            raise UserError(f"{self.where}: the image {error}") from None
        except (ValueError, binascii.Error, IndexError) as error:
            raise UserError(f"{self.where}: the image cannot be read ({one_line(error, 100)})") from None


@dataclass(frozen=True)
class Row:
    """One row: its text by column, without empty cells, and its images in the order of their columns."""

    values: Mapping[str, str]
    images: tuple[Cell, ...]
    where: str

    def get(self, *columns: str) -> str:
        """The value of the first of ``columns`` that is not empty. Raises `UserError` if all are."""
        value = next((self.values[column] for column in columns if column in self.values), None)
        if value is None:
            raise UserError(f"{self.where}: there is no {' or '.join(columns)}")
        return value


def find_files(data: Path, task: str, patterns: Sequence[str]) -> list[Path]:
    """The files of the first of ``patterns`` that any file in ``data`` has. Raises `UserError` that names them all."""
    if not data.is_dir():
        raise UserError(f"--data {data}: there is no such folder")
    for pattern in patterns:
        paths = sorted(path for path in data.glob(pattern) if path.is_file())
        if paths:
            return paths
    raise UserError(f"--data {data} has no data of {task}: none of {', '.join(patterns)} is there")


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """The rows of all files. Raises `UserError` for damaged files, and for a row that refers to an image that is not there."""
    rows: list[Row] = []
    for path in paths:
        rows += _tsv_rows(path) if path.suffix == ".tsv" else _parquet_rows(path)
    owners = {
        (name, row.values[name]): row for row in rows if row.images for name in ("index", "id") if name in row.values
    }
    return [_with_images(row, owners) for row in rows if "question" in row.values]


_REFERENCES = (("image", "index"), ("imageId", "id"))
"""The column that refers to another row, and that row's column with the name."""


def _with_images(row: Row, owners: Mapping[tuple[str, str], Row]) -> Row:
    """The row with its own images, or with those of the row to which it refers."""
    if row.images:
        return row
    for column, name in _REFERENCES:
        if column in row.values:
            owner = owners.get((name, row.values[column]))
            if owner is None:
                value = row.values[column]
                raise UserError(f"{row.where}: its image is that of {name} {value!r}, which is not there or has none")
            return replace(row, images=owner.images)
    raise UserError(f"{row.where}: it has no image")


# ---------------------------------------------------------------------------------------------------------------- TSV


class _Lines:
    """A file's lines as text; ``place`` is the byte at which the next one begins."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.place = file.tell()

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.place += len(line)
            yield line.decode("utf-8")


def _tsv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with open_regular(path) as file:
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter="\t", strict=True)
        place, number = 0, 1
        try:
            header = [name.lstrip("\ufeff").strip() for name in next(reader, [])]
            if "question" not in header:
                raise UserError(f"{path}: there is no column question in its first line")
            place = lines.place
            for number, cells in enumerate(reader, 2):
                if cells:
                    yield _tsv_row(path, header, cells, place, f"{path}: row {number}")
                place = lines.place
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"{path}: row {number + 1} cannot be read ({one_line(error, 100)})") from None


def _tsv_row(path: Path, header: list[str], cells: list[str], place: int, where: str) -> Row:
    if len(cells) != len(header):
        raise UserError(f"{where} has {len(cells)} columns, the first line has {len(header)}")
    values: dict[str, str] = {}
    images: list[Cell] = []
    for number, (name, text) in enumerate(zip(header, cells, strict=True)):
        if not _IMAGE_COLUMN.fullmatch(name) or len(text) <= MAX_REFERENCE_CHARS:
            if text.strip():
                values[name] = text
            continue
        try:
            num_items = len(_items(text))
        except (ValueError, SyntaxError) as error:
            raise UserError(f"{where}: its images are not a list ({one_line(error, 100)})") from None
        images += [Cell(path, (place, number), name, item, where) for item in range(num_items)]
    return Row(values, tuple(images), where)


def _tsv_cell(path: Path, place: tuple[int, int]) -> str:
    with open_regular(path) as file:
        file.seek(place[0])
        return next(csv.reader(iter(_Lines(file)), delimiter="\t"))[place[1]]


# ------------------------------------------------------------------------------------------------------------ Parquet


@lru_cache(maxsize=8)
def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({one_line(error, 100)})") from None


@lru_cache(maxsize=1)
def _row_group(path: Path, group: int) -> pa.Table:
    """The last row group that was read stays in memory, because neighbours are asked one after the other."""
    try:
        return _parquet(path).read_row_group(group)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged ({one_line(error, 100)})") from None


def _parquet_rows(path: Path) -> Iterator[Row]:
    start = 0
    for group in range(_parquet(path).num_row_groups):
        for number, cells in enumerate(_row_group(path, group).to_pylist()):
            where = f"{path}: row {start + number + 1}"
            values: dict[str, str] = {}
            images: list[Cell] = []
            for name, value in cells.items():
                if value is None or value != value:  # NaN: a missing number
                    continue
                if not _IMAGE_COLUMN.fullmatch(name) or (isinstance(value, str) and len(value) <= MAX_REFERENCE_CHARS):
                    if str(value).strip():
                        values[name] = str(value)
                    continue
                images += [Cell(path, (group, number), name, item, where) for item in range(len(_items(value)))]
            yield Row(values, tuple(images), where)
        start += _parquet(path).metadata.row_group(group).num_rows


def _parquet_cell(cell: Cell) -> Any:
    group, number = cell.place
    return _row_group(cell.path, group).column(cell.column)[number].as_py()


# ------------------------------------------------------------------------------------------------------------- images


def _items(cell: Any) -> list[Any]:
    """The images of a cell: a list, or the text of one, or a single one."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        cell = ast.literal_eval(cell.strip())
    return list(cell) if isinstance(cell, (list, tuple)) else [cell]


def _image_bytes(value: Any) -> bytes:
    """The bytes of an image file: base64, bytes, or the hub's ``{"bytes", "path"}``."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, str):
        return base64.b64decode(value, validate=True)
    if not isinstance(value, bytes):
        raise ValueError("there are no bytes in it")
    return value
