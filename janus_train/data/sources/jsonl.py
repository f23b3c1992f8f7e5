"""Sources that need no conversion: JSON Lines with a folder of images, and folders of images by class.

In: files and folders on a local or mounted disk. Out: records, by index: the first source finds the offsets of its lines in
one pass when it opens, the second lists its files. For thousands of processes or an object store use shards
(`data.sources.shards`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from janus_train.data.conversations import (
    TALK_IMAGE_FIELDS,
    UnusableConversation,
    has_conversation,
    image_name,
    images_in_order,
    is_empty,
)
from janus_train.data.embedded_images import ADDRESS, embedded_image
from janus_train.data.image_files import ImageError, read_image_file
from janus_train.data.image_folders import images_under
from janus_train.data.shards.string_array import StringArray
from janus_train.data.sources.decode import FOLDER_FORMATS, fields_of, image_of
from janus_train.data.sources.registry import CONTENT_DIGEST_LIMIT, SourceConfig, register_source
from janus_train.data.storage.remote import MISSING, Reader, open_reader, with_retries
from janus_train.data.types import BadSample, Record, digest
from janus_train.data.unused import counting, summary_of
from janus_train.errors import UserError
from janus_train.files import file_sha256, open_regular, read_json_object, read_regular, refuse_lfs_pointer
from janus_train.jsonl import BLANK, is_blank

_log = logging.getLogger(__name__)

LINES_PER_MARK, LONG_LINE = 16, 4096
"""The offset of every 16th line is kept, which takes half a byte per line; the lines between are found by reading. Of lines
with more bytes than this on average, which hold images, every offset is kept."""
_IS_BLANK = np.isin(np.arange(256), list(BLANK))
_CHUNK = 8 << 20
_LONGEST_PATH = 1024


class Lines:
    """The lines of a text file that hold a record, by their number from 0. Blank lines hold none, wherever they stand.

    Raises `UserError` if the file is missing or has no such line, or if its size changes while it is in use.
    """

    def __init__(self, path: Path):
        self.path = path
        refuse_lfs_pointer(path)
        try:
            marks, self.size, self.sha256, self._mtime_ns = with_retries(path, self._scan)
        except MISSING:
            raise UserError(f"{path}: there is no such file") from None
        self._offsets, self._numbers, self._stride, self._count = marks.result()
        if not self._count:
            raise UserError(f"{path}: the file is empty")
        self._forget()

    def _scan(self) -> tuple[_Marks, int, str, int]:
        """The marks, the file's size, its SHA-256 and the time of its last change."""
        hasher, marks, size = hashlib.sha256(), _Marks(), 0
        with open_regular(self.path) as file:
            mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
                marks.add(chunk)
                size += len(chunk)
        marks.end()
        return marks, size, hasher.hexdigest(), mtime_ns

    def _forget(self) -> None:
        self._reader = lru_cache(1)(self._open)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_reader"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _open(self) -> Reader:
        if not self._is_unchanged():
            raise UserError(f"{self.path} was changed or removed while it is in use")
        return open_reader(self.path, self.size, self.sha256)

    def _is_unchanged(self) -> bool:
        """The bytes are compared only if the file was written since it was scanned."""
        if not self.path.exists() or (status := self.path.stat()).st_size != self.size:
            return False
        return status.st_mtime_ns == self._mtime_ns or file_sha256(self.path) == self.sha256

    def __len__(self) -> int:
        return self._count

    @property
    def has_gaps(self) -> bool:
        """Whether a blank line precedes a record."""
        return self._numbers is not None

    def read(self, index: int) -> tuple[int, bytes]:
        """The number in the file, from 1, of a record's line, and the line."""
        mark, record_in_block = divmod(index, self._stride)
        start = int(self._offsets[mark])
        stop = int(self._offsets[mark + 1]) if mark + 1 < len(self._offsets) else self.size
        lines = self._reader().read(start, stop - start).split(b"\n")
        filled = [(number, line) for number, line in enumerate(lines) if not is_blank(line)]
        line_in_block, line = filled[record_in_block] if record_in_block < len(filled) else (record_in_block, b"")
        first_number = mark * self._stride + 1 if self._numbers is None else int(self._numbers[mark])
        return first_number + line_in_block, line


class _Marks:
    """Finds the lines with a record, chunk by chunk, and keeps the places of some of them: of every one at first, and of
    every 16th as soon as the lines turn out to be short."""

    def __init__(self) -> None:
        self._stride = 1
        self._marks: list[np.ndarray] = []  # int64 (2, N) each: offsets, line numbers from 1
        self._num_lines = self._num_records = self._num_bytes = 0
        self._has_gaps = False
        self._start, self._is_blank = 0, True  # of the line that has not ended

    def add(self, chunk: bytes) -> None:
        characters = np.frombuffer(chunk, np.uint8)
        ends = np.flatnonzero(characters == ord("\n"))
        starts = np.concatenate([[0], ends + 1])
        blank = _IS_BLANK[characters[np.minimum(starts, len(chunk) - 1)]]  # by its first character; few lines remain
        for number in np.flatnonzero(blank).tolist():
            stop = int(ends[number]) if number < len(ends) else len(chunk)
            blank[number] = is_blank(chunk[int(starts[number]) : stop])
        starts += self._num_bytes
        starts[0], blank[0] = self._start, blank[0] and self._is_blank
        self._keep(starts[:-1], blank[:-1])
        self._start, self._is_blank = int(starts[-1]), bool(blank[-1])
        self._num_bytes += len(chunk)
        if self._stride == 1 and self._num_bytes < LONG_LINE * self._num_records:
            self._stride = LINES_PER_MARK
            self._marks = [np.concatenate(self._marks, axis=1)[:, ::LINES_PER_MARK].copy()]

    def end(self) -> None:
        """The last line may have no newline."""
        self._keep(np.array([self._start]), np.array([self._is_blank]))

    def _keep(self, starts: np.ndarray, blank: np.ndarray) -> None:
        """Take lines that have ended."""
        filled = np.flatnonzero(~blank)
        marked = filled[-self._num_records % self._stride :: self._stride]
        self._marks.append(np.stack([starts[marked], marked + (self._num_lines + 1)]))
        self._num_records += len(filled)
        if len(filled):
            self._has_gaps = self._num_lines + int(filled[-1]) + 1 > self._num_records
        self._num_lines += len(blank)

    def result(self) -> tuple[np.ndarray, np.ndarray | None, int, int]:
        """Offsets, line numbers (None where they follow from the records'), records per mark, and records."""
        offsets, numbers = np.concatenate(self._marks, axis=1)
        return offsets.copy(), numbers.copy() if self._has_gaps else None, self._stride, self._num_records


class JsonlSource:
    """One record per line: its fields, and in ``image`` or ``images`` the paths of its images in ``folder``.

    ``folder``: relative to the file; None: the file's own folder. A path in a record may not leave it. Keys are NAME:LINE,
    with lines counted from 1. Raises `UserError` if a file or the folder is missing.
    """

    def __init__(self, files: Sequence[Path], folder: str | None = None):
        self._files = [Lines(path) for path in files]
        self._folders = [path.parent / folder if folder else path.parent for path in files]
        for place in self._folders:
            if not place.is_dir():
                raise UserError(f"{files[0]}: its folder of images {place} does not exist")
        self._starts = np.cumsum([0, *map(len, self._files)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def data_digest(self) -> str:
        """Changes with any line of the files, but not with the images, which may be too many to read."""
        # blank lines were records in earlier versions: a run that began with one does not resume on other numbers
        return digest([lines.sha256 + (f":{len(lines)}" if lines.has_gaps else "") for lines in self._files])

    def __getitem__(self, index: int) -> Record:
        number, key, line = self._line(index)
        fields = fields_of(line, key)
        names = _image_names(fields, key)
        images = [read_image(self._folders[number], name, key) for name in names]
        return Record(key, fields, images, [None] * len(images))

    def key(self, index: int) -> str:
        return self._line(index)[1]

    def _line(self, index: int) -> tuple[int, str, bytes]:
        """The number of the file, the key, and the line of a record."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, index) - 1
        lines = self._files[number]
        line_number, line = lines.read(index - self._starts[number])
        return number, f"{lines.path.name}:{line_number}", line


def _image_names(fields: dict[str, Any], key: str) -> list[str]:
    """Remove the images from the fields and return what they say, in the order of a conversation's turns.

    Raises `BadSample`.
    """
    is_talk = has_conversation(fields)
    values = [
        value
        for name in (TALK_IMAGE_FIELDS if is_talk else ("image", "images"))
        if (value := fields.pop(name, None)) is not None and not (is_talk and is_empty(value))
    ]
    if len(values) > 1:
        raise BadSample("it has both 'image' and 'images'", key=key)
    value = values[0] if values else []
    names = [image_name(element) or element for element in (value if isinstance(value, list) else [value])]
    if is_talk:
        with suppress(UnusableConversation):  # the template says why
            names = images_in_order(fields, names)
    if not all(isinstance(name, str) for name in names):
        raise BadSample("'image' or 'images' is neither a path nor a list of paths", key=key)
    return names


def read_image(folder: Path, name: str, key: str) -> Any:
    """Open the image at the relative path ``name``, or the one that ``name`` contains (`embedded_image`).

    Raises `BadSample` if it is missing or outside ``folder``.
    """
    try:
        data = embedded_image(name)
    except ImageError as error:
        raise BadSample(f"its embedded image {error}", key=key) from None
    if data is not None:
        return image_of(data, FOLDER_FORMATS, key, "its embedded image")
    if ADDRESS.match(name):
        raise BadSample(
            f"image {name[:80]!r} is an address: download it and name its file, nothing is downloaded here", key=key
        )
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "://" in name or "\0" in name:
        raise BadSample(f"image {name[:80]!r} is not a path inside the source's folder", key=key)
    if len(name) > _LONGEST_PATH or max(len(os.fsencode(part)) for part in path.parts) > 255:
        raise BadSample(f"image {name[:80]!r}... is longer than a path can be", key=key)
    try:
        data = with_retries(folder / path, lambda: read_image_file(folder / path))
    except MISSING:
        if "\\" in name:  # written on Windows
            return read_image(folder, name.replace("\\", "/"), key)
        raise BadSample(f"image {name!r} is missing", key=key) from None
    except ImageError as error:
        raise BadSample(f"image {name!r} {error}", key=key) from None
    return image_of(data, FOLDER_FORMATS, key, f"image {name!r}")


class ImageFolderSource:
    """``ROOT/CLASS/.../NAME.jpg``: each image with ``class_name``, the folder's name or its name in a mapping.

    ``class_names``: a JSON file ``{"FOLDER": "class name", ...}``, its path relative to ROOT. Keys are the paths of the
    images in ROOT. Raises `UserError` for a missing folder, one without images, and a class that is not in the mapping.
    """

    def __init__(self, root: Path, class_names: str | None = None):
        self.root = root
        if not root.is_dir():
            raise UserError(f"imagefolder {root}: there is no such folder")
        self.classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")
        if not self.classes:
            raise UserError(f"imagefolder {root} has no folder in it: images must stand in ROOT/CLASS/")
        self.class_names = _read_class_names(root / class_names, self.classes) if class_names else self.classes
        self._files, self._starts = self._list()

    def _list(self) -> tuple[StringArray, list[int]]:
        """The images' paths in their class's folder, and the index of the first image of each class."""
        data, lengths, starts = bytearray(), [], [0]
        all_unread: Counter[str] = Counter()
        for name in self.classes:
            paths, unread = with_retries(self.root / name, lambda name=name: _list_class(self.root / name))  # type: ignore[misc]
            if not paths:
                raise UserError(
                    f"imagefolder {self.root}: the class {name!r} has no image that can be read, it contains "
                    + (summary_of(unread) or "no file")
                )
            for path in paths:
                data += path
                lengths.append(len(path))
            starts.append(len(lengths))
            all_unread += unread
        if all_unread:
            _log.warning("imagefolder %s: not used: %s", self.root, summary_of(all_unread))
        return StringArray.from_lengths(data, lengths), starts

    def __len__(self) -> int:
        return len(self._files)

    def data_digest(self) -> str:
        """Changes with the classes, with any file's name or size, and with any byte up to `CONTENT_DIGEST_LIMIT`.

        Takes some seconds for a million files.
        """
        hasher = hashlib.sha256(json.dumps([self.classes, self.class_names]).encode())
        total = 0
        for number in range(len(self)):
            name = self._path(number)
            size = (self.root / name).stat().st_size
            total += size
            hasher.update(os.fsencode(f"{name}\n{size}\n"))
        for number in range(len(self) if total <= CONTENT_DIGEST_LIMIT else 0):
            hasher.update(with_retries(self.root, lambda number=number: read_regular(self.root / self._path(number))))  # type: ignore[misc]
        return hasher.hexdigest()[:16]

    def _path(self, number: int) -> str:
        return f"{self.classes[bisect_right(self._starts, number) - 1]}/{self._files[number]}"

    def __getitem__(self, index: int) -> Record:
        key = self.key(index)
        fields = {"class_name": self.class_names[bisect_right(self._starts, index) - 1]}
        return Record(key, fields, [read_image(self.root, self._path(index), key)], [None])

    def key(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return os.fsencode(self._path(index)).decode("utf-8", "backslashreplace")


def _list_class(folder: Path) -> tuple[list[bytes], Counter[str]]:
    """The images' paths relative to ``folder`` in a fixed order, and counts of what else is there."""
    with counting() as unread:
        paths = [os.fsencode(path.relative_to(folder).as_posix()) for path in images_under(folder)]
    return paths, unread


def _read_class_names(path: Path, classes: list[str]) -> list[str]:
    try:
        names = read_json_object(path)
    except FileNotFoundError:
        raise UserError(f"class_names: there is no file {path}") from None
    except UserError as error:
        raise UserError(f"class_names: {error}") from None
    if not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise UserError(f'class_names: {path} must be an object {{"FOLDER": "class name", ...}}')
    unnamed_folders = [name for name in classes if name not in names]
    if unnamed_folders:
        raise UserError(
            f"class_names: {path} has no name for {len(unnamed_folders)} folders, the first is {unnamed_folders[0]!r}"
        )
    return [names[name] for name in classes]


class JsonlConfig(SourceConfig):
    """JSON Lines files."""

    folder: str | None = None
    """The folder of the images' paths, relative to the file. Default: the file's own folder."""


@register_source("jsonl", JsonlConfig)
def open_jsonl(config: JsonlConfig, places: list[Path], image_size: int) -> JsonlSource:
    return JsonlSource(places, config.folder)


class ImageFolderConfig(SourceConfig):
    """One folder with a folder for each class."""

    class_names: str | None = None
    """A JSON file ``{"FOLDER": "class name"}``, relative to the source's folder."""


@register_source("imagefolder", ImageFolderConfig)
def open_imagefolder(config: ImageFolderConfig, places: list[Path], image_size: int) -> ImageFolderSource:
    if len(places) != 1:
        raise UserError(f"source {config.name!r} of type imagefolder takes one folder, paths give {len(places)}")
    return ImageFolderSource(places[0], config.class_names)
