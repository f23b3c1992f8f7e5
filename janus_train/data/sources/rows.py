"""Rows of a table as records, whatever the table is stored in: for the source types ``parquet`` and ``hf_dataset``.

In: rows by number, and which column is which field of a record. Out: records. Images stay undecoded bytes until they are used.
An image that is stored as a path or URL instead of bytes is refused; nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from janus_train.data.conversations import UnusableConversation, has_conversation, images_in_order
from janus_train.data.embedded_images import embedded_image
from janus_train.data.image_files import ImageError
from janus_train.data.sources.decode import FOLDER_FORMATS, image_of
from janus_train.data.sources.registry import CONTENT_DIGEST_LIMIT
from janus_train.data.types import BadSample, Record, digest
from janus_train.errors import UserError

Columns = dict[str, str | list[str]]
"""Record field -> column. `IMAGE_KEYS` stand for the record's images, in one column or in several."""
IMAGE_KEYS = ("image", "images")


class TableRows(Protocol):
    """Rows by number, with the columns' values as Python objects."""

    shard_sizes: list[int]
    labels: dict[str, list[str]]
    """Column of class numbers -> the classes' names."""

    @property
    def num_bytes(self) -> int: ...

    def row(self, index: int) -> dict[str, Any]: ...

    def data_digest(self) -> str: ...


class RowSource:
    """Rows of a table as records; a row's key is its number.

    ``fields``: record field -> column. ``images``: columns, in the order of their images. Raises `UserError` for no rows.
    """

    def __init__(self, rows: TableRows, fields: Mapping[str, str], images: Sequence[str] = (), name: str = "the table"):
        self._rows, self._fields, self._images = rows, dict(fields), list(images)
        self.shard_sizes = rows.shard_sizes
        self._length = sum(self.shard_sizes)
        if not self._length:
            raise UserError(f"{name} has no rows")

    def __len__(self) -> int:
        return self._length

    @property
    def num_bytes(self) -> int:
        """Bytes of the files, of which only the needed columns are read."""
        return self._rows.num_bytes

    def data_digest(self) -> str:
        return self._rows.data_digest()

    def __getitem__(self, index: int) -> Record:
        key = self.key(index)
        row = self._rows.row(index)
        fields = {name: self._value(row[column], column, key) for name, column in self._fields.items()}
        values: list[Any] = [data for column in self._images for data in _bytes(row[column], column, key)]
        if has_conversation(fields):
            with suppress(UnusableConversation):  # the template says why
                values = images_in_order(fields, values)
        images = [_image(value, key) for value in values]
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


def chosen_columns(source: str, columns: Columns | None, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The record's fields and the columns of its images.

    ``names``: the columns that there are, for the message. Raises `UserError` if none is chosen.
    """
    if not columns:
        raise UserError(
            f"source {source!r} needs columns, for example columns: {{caption: text, image: image}}; its data has "
            + ", ".join(names)
        )
    given = [key for key in IMAGE_KEYS if key in columns]
    if len(given) > 1:
        raise UserError(f"source {source!r}: columns has both image and images: give one of them a list of columns")
    value = columns[given[0]] if given else []
    images = [value] if isinstance(value, str) else list(value)
    texts = {name: column for name, column in columns.items() if name not in IMAGE_KEYS}
    several = next((name for name, column in texts.items() if not isinstance(column, str)), None)
    if several is not None:
        raise UserError(f"source {source!r}: columns.{several} is a list: only image and images take several columns")
    return {name: str(column) for name, column in texts.items()}, images


def check_columns(what: str, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raises `UserError` for a column that ``what`` does not have."""
    missing = [column for column in columns if column not in names]
    if missing:
        raise UserError(f"{what} has no column {missing[0]!r}; it has {', '.join(names)}")


def content_digest(files: Sequence[Path]) -> str:
    """A digest of local files' names and sizes, and of the contents up to `CONTENT_DIGEST_LIMIT`."""
    sizes = {file: file.stat().st_size for file in files}
    is_small = sum(sizes.values()) <= CONTENT_DIGEST_LIMIT
    parts = [f"{file.name} {size}" for file, size in sizes.items()]
    for file in sizes:
        if is_small or file.suffix == ".json":
            with file.open("rb") as stream:
                parts.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digest(parts)


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


def _image(value: Any, key: str) -> Image.Image:
    """The image in bytes, or in base64 in the words of a turn."""
    if isinstance(value, str):
        try:
            data = embedded_image(value)
        except ImageError as error:
            raise BadSample(f"its embedded image {error}", key=key) from None
        if data is None:
            raise BadSample(f"a turn has a path where the image's bytes should be: {value[:80]!r}", key=key)
        value = data
    if not isinstance(value, bytes):
        raise BadSample("a placeholder of a turn has no image", key=key)
    return image_of(value, FOLDER_FORMATS, key)
