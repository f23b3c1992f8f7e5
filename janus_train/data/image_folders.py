"""Lists the images under a folder, and counts what stands there and is not read.

In: a folder. Out: paths in a fixed order, on every machine the same; and a `Counter` of the other files by their ending,
from which `describe` makes the words for a message.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath

from janus_train.data.image_files import has_image_ending, missing_decoder

HIDDEN, LINKED, NO_ENDING = "hidden", "linked folder", "without an ending"


def files_under(folder: Path, unread: Counter[str]) -> Iterator[Path]:
    """The files under ``folder`` at any depth, a folder's files before those of its folders, each sorted by name.

    Hidden files (``.DS_Store``) are left out, and so are links to folders, which may go round in circles; ``unread`` counts
    both. Raises `OSError` for a folder that cannot be read.
    """
    for place, folders, files in os.walk(folder, onerror=_fail):
        folders.sort()
        unread[LINKED] += sum((Path(place) / name).is_symlink() for name in folders)
        unread[HIDDEN] += sum(name[0] == "." for name in files)
        yield from (Path(place) / name for name in sorted(files) if name[0] != ".")


def images_under(folder: Path, unread: Counter[str]) -> Iterator[Path]:
    """The images among `files_under`, by their endings; ``unread`` counts the others."""
    for path in files_under(folder, unread):
        if has_image_ending(path.name):
            yield path
        else:
            unread[ending_of(path.name)] += 1


def ending_of(name: str) -> str:
    """What a file that is not read is counted under: ``.heic``, `HIDDEN` or `NO_ENDING`."""
    return HIDDEN if name[0] == "." else PurePath(name).suffix.lower() or NO_ENDING


def describe(unread: Counter[str]) -> str:
    """``3 .heic (pip install pillow-heif), 1 .txt``: the most frequent first; "no file" for nothing."""
    words = [
        f"{count:,} {ending}" + (f" ({remedy})" if (remedy := missing_decoder(ending)) else "")
        for ending, count in sorted(unread.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]
    return ", ".join(words[:5]) + (f" and {len(words) - 5} other endings" if len(words) > 5 else "") or "no file"


def _fail(error: OSError) -> None:
    raise error
