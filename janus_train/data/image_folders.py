"""Lists the images under a folder. What stands there and is not read is counted (`data.unused`), with what would read it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from janus_train.data.image_files import has_image_ending, missing_decoder
from janus_train.data.unused import file_reason, is_hidden, not_used


def files_under(folder: Path) -> Iterator[Path]:
    """The files under ``folder`` at any depth, a folder's files before those of its folders, each sorted by name.

    Hidden files and folders (``.DS_Store``, ``.ipynb_checkpoints``) are passed over, and so are links to folders, which may
    go round in circles. Raises `OSError` for a folder that cannot be read.
    """
    for place, folders, files in os.walk(folder, onerror=_fail):
        hidden_folders = [name for name in folders if is_hidden(name)]
        links = [name for name in folders if (Path(place) / name).is_symlink() and name not in hidden_folders]
        for name, reason in [(name, "hidden folders") for name in hidden_folders] + [
            (name, "links to folders") for name in links
        ]:
            folders.remove(name)
            not_used(reason)
        folders.sort()
        for name in sorted(files):
            if is_hidden(name):
                not_used(file_reason(name))
            else:
                yield Path(place) / name


def images_under(folder: Path) -> Iterator[Path]:
    """The images among `files_under`, by their endings."""
    for path in files_under(folder):
        if has_image_ending(path.name):
            yield path
        else:
            not_used(unread_reason(path.name))


def unread_reason(path: str, what: str = "files") -> str:
    """The reason not to use a file (or, as ``what``, a tar's member): its ending, and what to install if that would read it."""
    remedy = missing_decoder(PurePath(path).suffix)
    return file_reason(path, what) + (f" ({remedy})" if remedy and not is_hidden(path) else "")


def _fail(error: OSError) -> None:
    raise error
