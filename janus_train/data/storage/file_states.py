"""What a local disk or a store says about files: their sizes, and what tells one content from another.

In: locations. Out: a `FileState` for each, from one listing per folder where the store can list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_train.data.storage.remote import (
    MISSING,
    THREADS,
    Location,
    as_os_error,
    file_system,
    folder_of,
    is_remote,
    name_of,
    with_retries,
)

_VERSION_KEYS = (
    "blob_id",  # the hub: changes with the content and nothing else
    "ETag",
    "etag",
    "md5Hash",
    "xet_hash",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "mtime",
    "created",
)
"""What stores call it, the better ones first."""


@dataclass(frozen=True)
class FileState:
    """``size``: bytes; None if the store does not say. ``version``: differs between contents; empty if unknown."""

    size: int | None
    version: str = ""


def file_states(locations: Sequence[Location]) -> list[FileState | None]:
    """The state of each file; None for one that does not exist."""
    if not any(map(is_remote, locations)):
        return [_state(location) for location in locations]
    listed = _listed([location for location in locations if isinstance(location, str)])
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda location: listed[location] if location in listed else _state(location), locations))


def file_sizes(locations: Sequence[Location]) -> list[int | None]:
    """The size of each file in bytes; None for a file that does not exist."""
    return [None if state is None else state.size for state in file_states(locations)]


def _state(location: Location) -> FileState | None:
    try:
        if isinstance(location, Path):
            return FileState(with_retries(location, lambda: location.stat().st_size))
        url: str = location
        return _state_of(with_retries(url, lambda: as_os_error(lambda: file_system(url).info(url))))
    except MISSING:
        return None


def _listed(urls: Sequence[str]) -> dict[str, FileState]:
    """States by listing each folder once, for the stores that can list (HTTP cannot)."""
    states: dict[str, FileState] = {}
    for folder in dict.fromkeys(str(folder_of(url)) for url in urls if not url.startswith("http")):
        files = file_system(folder)
        files.invalidate_cache(folder)
        try:
            entries = with_retries(folder, lambda f=files, at=folder: as_os_error(lambda: f.ls(at, detail=True)))  # type: ignore[misc]
        except MISSING:
            continue
        for entry in entries:
            if entry["type"] == "file":
                states[f"{folder}/{name_of(entry['name'])}"] = _state_of(entry)
    return states


def _state_of(entry: Mapping[str, Any]) -> FileState:
    version = next((str(entry[key]) for key in _VERSION_KEYS if entry.get(key)), "")
    return FileState(None if entry["size"] is None else int(entry["size"]), version)
