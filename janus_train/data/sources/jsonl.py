"""Sources that need no conversion: JSON Lines with a folder of images, and folders of images by class.

In: files and folders on a local or mounted disk. Out: records, by index: the first source finds the offsets of its lines in
one pass when it opens, the second lists its files. For thousands of processes or an object store use shards
(`data.sources.shards`).
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from janus_train.data.image_files import ImageError, read_image_file
from janus_train.data.shards.string_array import StringArray
from janus_train.data.sources.decode import FOLDER_FORMATS, fields_of, image_of
from janus_train.data.sources.registry import SourceConfig, register_source
from janus_train.data.storage.remote import MISSING, Reader, open_reader, with_retries
from janus_train.data.types import BadSample, Record, digest
from janus_train.errors import UserError
from janus_train.files import open_regular, read_json_object, refuse_lfs_pointer

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LINES_PER_MARK = 16
"""The offset of every 16th line is kept, which takes half a byte per line; the lines between are found by reading."""
_CHUNK = 8 << 20
_LONGEST_PATH = 1024


class Lines:
    """The lines of a text file by their number, from 0. Empty lines at the end do not count.

    Raises `UserError` if the file is missing or empty, or if its size changes while it is in use.
    """

    def __init__(self, path: Path):
        self.path = path
        refuse_lfs_pointer(path)
        try:
            self._starts, self._count, self.size, self.sha256 = with_retries(path, self._scan)
        except MISSING:
            raise UserError(f"{path}: there is no such file") from None
        self._forget()
        while self._count and not self[self._count - 1].strip():
            self._count -= 1
        if not self._count:
            raise UserError(f"{path}: the file is empty")

    def _scan(self) -> tuple[np.ndarray, int, int, str]:
        hasher = hashlib.sha256()
        starts, lines, size = [np.zeros(1, np.int64)], 0, 0
        with open_regular(self.path) as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
                ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
                first_mark = -(lines + 1) % LINES_PER_MARK  # the line after ends[k] has the number lines + k + 1
                starts.append(ends[first_mark::LINES_PER_MARK] + (size + 1))
                lines += len(ends)
                size += len(chunk)
        return np.concatenate(starts), lines + 1, size, hasher.hexdigest()

    def _forget(self) -> None:
        self._reader = lru_cache(1)(self._open)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_reader"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _open(self) -> Reader:
        if not self.path.exists() or self.path.stat().st_size != self.size:
            raise UserError(f"{self.path} was changed or removed while it is in use")
        return open_reader(self.path, self.size, self.sha256)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> bytes:
        place, line_in_block = divmod(number, LINES_PER_MARK)
        start = int(self._starts[place])
        stop = int(self._starts[place + 1]) if place + 1 < len(self._starts) else self.size
        lines = self._reader().read(start, stop - start).split(b"\n")
        return lines[line_in_block] if line_in_block < len(lines) else b""


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
        return digest([lines.sha256 for lines in self._files])

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, index) - 1
        lines, line = self._files[number], index - self._starts[number]
        key = f"{lines.path.name}:{line + 1}"
        fields = fields_of(lines[line], key)
        names = _image_names(fields, key)
        images = [read_image(self._folders[number], name, key) for name in names]
        return Record(key, fields, images, [None] * len(images))


def _image_names(fields: dict[str, Any], key: str) -> list[str]:
    """Remove ``image`` and ``images`` from the fields and return their paths. Raises `BadSample`."""
    values = [value for name in ("image", "images") if (value := fields.pop(name, None)) is not None]
    if len(values) > 1:
        raise BadSample("it has both 'image' and 'images'", key=key)
    names = values[0] if values else []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadSample("'image' or 'images' is neither a path nor a list of paths", key=key)
    return names


def read_image(folder: Path, name: str, key: str) -> Any:
    """Open the image at the relative path ``name``. Raises `BadSample` if it is missing or outside ``folder``."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "://" in name or "\0" in name:
        raise BadSample(f"image {name[:80]!r} is not a path inside the source's folder", key=key)
    if len(name) > _LONGEST_PATH or max(len(os.fsencode(part)) for part in path.parts) > 255:
        raise BadSample(f"image {name[:80]!r}... is longer than a path can be", key=key)
    try:
        data = with_retries(folder / path, lambda: read_image_file(folder / path))
    except MISSING:
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
        for name in self.classes:
            folder = self.root / name
            for path in with_retries(folder, lambda folder=folder: list(_images_under(folder))):  # type: ignore[misc]
                data += path
                lengths.append(len(path))
            if len(lengths) == starts[-1]:
                raise UserError(
                    f"imagefolder {self.root}: the class {name!r} has no image ({', '.join(IMAGE_ENDINGS)})"
                )
            starts.append(len(lengths))
        return StringArray.from_lengths(data, lengths), starts

    def __len__(self) -> int:
        return len(self._files)

    def data_digest(self) -> str:
        """Changes with the classes and with any file's name or size. Takes some seconds for a million files."""
        hasher = hashlib.sha256(json.dumps([self.classes, self.class_names]).encode())
        for number in range(len(self)):
            name = self._path(number)
            hasher.update(os.fsencode(f"{name}\n{(self.root / name).stat().st_size}\n"))
        return hasher.hexdigest()[:16]

    def _path(self, number: int) -> str:
        return f"{self.classes[bisect_right(self._starts, number) - 1]}/{self._files[number]}"

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        path = self._path(index)
        key = os.fsencode(path).decode("utf-8", "backslashreplace")
        fields = {"class_name": self.class_names[bisect_right(self._starts, index) - 1]}
        return Record(key, fields, [read_image(self.root, path, key)], [None])


def _images_under(folder: Path) -> Iterator[bytes]:
    """Paths relative to ``folder`` in a fixed order."""

    def fail(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        for name in sorted(files):
            if name[0] != "." and name.lower().endswith(IMAGE_ENDINGS):
                yield os.fsencode((Path(place) / name).relative_to(folder).as_posix())


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
