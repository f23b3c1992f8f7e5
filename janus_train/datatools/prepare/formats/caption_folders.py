"""Finds out how a folder of captioned images is laid out, for the format captions.

metadata   Hugging Face's ImageFolder: metadata.jsonl, .csv or .parquet in the folders, with file_name and a caption
pairs      img.png with img.txt beside it, as DiffSynth and kohya have it
records    other files of records, whatever they are called
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from janus_train.data.image_files import has_image_ending
from janus_train.data.image_folders import files_under, unread_reason
from janus_train.data.unused import counting, not_used, summary_of
from janus_train.datatools.prepare.items import SkipRecord
from janus_train.datatools.prepare.records import ENDINGS
from janus_train.errors import UserError
from janus_train.files import NotRegularError, open_regular

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CAPTION_EXTENSION = ".txt"
_REPEATS = re.compile(r"\d+_.+")
_MAX_CAPTION_BYTES = 1 << 20


@dataclass(frozen=True)
class PairFolder:
    """A folder of images with captions beside them, in files with this ending."""

    folder: str
    extension: str


def metadata_files(folder: str) -> list[str]:
    """The folder's files of metadata, at any depth. If there are any, what is neither one nor an image counts as not used.

    Raises `UserError` if a folder has two.
    """
    with counting() as unused:
        paths = list(files_under(Path(folder)))
    files = [str(path) for path in paths if path.name.lower() in METADATA]
    parents = {Path(file).parent for file in files}
    for parent in sorted(parents):
        names = [Path(file).name for file in files if Path(file).parent == parent]
        if len(names) > 1:
            raise UserError(f"{parent} has {' and '.join(names)}: give the name of the one to read")
    if files:
        for reason, count in unused.items():
            not_used(reason, count)
        for path in paths:
            if has_image_ending(path.name):
                if not parents.intersection(path.parents):
                    not_used("images outside the folders with metadata")
            elif path.name.lower() not in METADATA:
                not_used(unread_reason(path.name))
    return files


def count_unnamed_images(metadata: str, named: set[str]) -> None:
    """Count the images under the folder of a metadata file that it does not name, but for folders with their own file."""
    folder = Path(metadata).parent
    with counting():
        paths = list(files_under(folder))
    own = {path.parent for path in paths if path.name.lower() in METADATA and path.parent != folder}
    unnamed = [
        path
        for path in paths
        if has_image_ending(path.name) and os.path.normpath(path) not in named and not own.intersection(path.parents)
    ]
    if unnamed:
        not_used(f"images that {metadata} does not name (the first: {unnamed[0].relative_to(folder)})", len(unnamed))


def contents(folder: str) -> str:
    """What the folder contains, for a message: ``4 files .png, 4 files .caption``."""
    with counting() as counts:
        for path in files_under(Path(folder)):
            not_used(unread_reason(path.name))
    return summary_of(counts) or "no file"


def pair_folder(folder: str, extension: str | None) -> PairFolder | None:
    """``folder`` if its images have captions beside them; ``extension`` (``--caption-extension``) says that they do.

    Raises `UserError` for a folder without pairs that should have some, and for one that can be read in two ways.
    """
    with counting():
        paths = list(files_under(Path(folder)))
    pairs, _, others = _pair(paths, extension or CAPTION_EXTENSION)
    if not pairs:
        if extension is None:
            return None
        raise UserError(
            f"--caption-extension {extension}: no image in {folder} has such a file beside it; it contains {contents(folder)}"
        )
    stems = {str(path.with_suffix("")) for path, _ in pairs}
    records = [
        path for path in others if path.name.lower().endswith(ENDINGS) and str(path.with_suffix("")) not in stems
    ]
    if records and extension is None:
        raise UserError(
            f"{folder} has images with captions beside them, such as {pairs[0][1]}, and files of records, such as "
            f"{records[0]}: give --caption-extension {CAPTION_EXTENSION} or the name of the file"
        )
    return PairFolder(folder, extension or CAPTION_EXTENSION)


def read_pairs(job: PairFolder) -> Iterator[tuple[str, str]]:
    """(image, caption file) of each pair, in order. What has no partner counts as not used, with the first one's name."""
    pairs, images, others = _pair(list(files_under(Path(job.folder))), job.extension)
    captions = [path for path in others if path.name.lower().endswith(job.extension)]
    for paths, what in (
        (images, f"images without a {job.extension}"),
        (captions, f"files {job.extension} without an image"),
    ):
        if paths:
            not_used(f"{what} (the first: {paths[0].relative_to(job.folder)})", len(paths))
    for path in others:
        if not path.name.lower().endswith(job.extension):
            not_used(unread_reason(path.name))
    folders = sorted({image.parent for image, _ in pairs if _REPEATS.fullmatch(image.parent.absolute().name)})
    if folders:
        not_used(
            f"folders named with repeats, such as {folders[0].absolute().name}: a source's weight in the recipe repeats it",
            len(folders),
        )
    return ((str(image), str(caption)) for image, caption in pairs)


def _pair(paths: list[Path], extension: str) -> tuple[list[tuple[Path, Path]], list[Path], list[Path]]:
    """Pairs, images without a caption, and files that are neither."""
    captions = {str(path)[: -len(extension)]: path for path in paths if path.name.lower().endswith(extension)}
    images = [path for path in paths if has_image_ending(path.name)]
    pairs = [(path, captions[stem]) for path in images if (stem := str(path.with_suffix(""))) in captions]
    used = {path for pair in pairs for path in pair}
    left = [path for path in paths if path not in used]
    return (
        pairs,
        [path for path in left if has_image_ending(path.name)],
        [path for path in left if not has_image_ending(path.name)],
    )


def read_caption(path: str) -> str:
    """The text of a caption's file. Raises `SkipRecord` if it cannot be used, `UserError` if it cannot be read."""
    try:
        with open_regular(Path(path)) as file:
            data = file.read(_MAX_CAPTION_BYTES + 1)
    except NotRegularError:
        raise SkipRecord("the caption is not a regular file", path) from None
    except FileNotFoundError:
        raise SkipRecord("the caption is missing", path) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if len(data) > _MAX_CAPTION_BYTES:
        raise SkipRecord("the caption has more than a megabyte", path)
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise SkipRecord("the caption is not UTF-8", path) from None
