"""Indexes tars. In: paths of tars and folders. Out: an index beside each tar, and each folder's shards.json.

Tars are indexed in several processes, because reading all bytes of a tar takes a while.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from janus_train.data.shards.index import index_path, own_index, read_head, read_listing, write_listing
from janus_train.data.shards.scan import scan
from janus_train.errors import UserError
from janus_train.files import file_sha256, write_bytes


@dataclass(frozen=True)
class IndexedTar:
    """The contents of a tar that are not in its index."""

    ignored_counts: dict[str, int]
    """Unusable members, counted by their ending."""
    num_left_out: int
    """Number of keys with neither .json nor .txt."""
    scattered_keys: list[str]
    """Keys whose members do not stand together."""
    ambiguous_keys: list[str]
    """Keys left out because several images could belong to one text."""


@dataclass
class IndexResult:
    """The outcome for all tars."""

    indexed_tars: dict[Path, IndexedTar] = field(default_factory=dict)
    errors: dict[Path, str] = field(default_factory=dict)
    """Tars that cannot be indexed, each with its error message."""
    listings: list[ListingSummary] = field(default_factory=list)
    """The shards.json files that were written: one per folder without a failed tar."""

    @property
    def num_attempted(self) -> int:
        return len(self.indexed_tars) + len(self.errors)

    @property
    def ignored_counts(self) -> Counter[str]:
        """Unusable members of all tars, counted by their ending."""
        total: Counter[str] = Counter()
        for tar in self.indexed_tars.values():
            total.update(tar.ignored_counts)
        return total

    @property
    def scattered_keys(self) -> list[str]:
        """Keys of all tars whose members do not stand together."""
        return [key for tar in self.indexed_tars.values() for key in tar.scattered_keys]

    @property
    def ambiguous_keys(self) -> list[str]:
        """Keys of all tars that are left out because several images could belong to one text."""
        return [key for tar in self.indexed_tars.values() for key in tar.ambiguous_keys]

    @property
    def num_left_out(self) -> int:
        """Number of keys with neither .json nor .txt in all tars."""
        return sum(tar.num_left_out for tar in self.indexed_tars.values())


@dataclass(frozen=True)
class ListingSummary:
    """A summary of a folder's shards.json."""

    path: Path
    tars: int
    samples: int
    num_unindexed: int
    """Number of further tars in the folder, without an index."""


def tars_to_index(paths: list[Path]) -> list[Path]:
    """The tars among ``paths``, and those in the folders among them. Raises `UserError` for any other path."""
    tars: dict[Path, None] = {}
    for path in paths:
        if re.match(r"[a-z0-9]+:/", str(path)):
            raise UserError(
                f"{path}: index tars where they are made, then copy them with their indices and shards.json"
            )
        folder_tars = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not folder_tars:
            raise UserError(f"{path}: there is no .tar in this folder")
        if not folder_tars[0].exists():
            raise UserError(f"{path}: there is no such file")
        special_files = [tar for tar in folder_tars if not tar.is_file()]
        if special_files:
            raise UserError(f"{special_files[0]}: is not a regular file")
        other_files = [tar for tar in folder_tars if tar.suffix != ".tar"]
        if other_files:
            raise UserError(f"{other_files[0]}: a shard's name ends in .tar")
        tars |= dict.fromkeys(folder_tars)
    return list(tars)


def is_indexed(tar: Path) -> bool:
    """Whether the tar has an index that was made for its bytes. They are read only if the tar is newer than its index."""
    try:
        head, status = read_head(tar), tar.stat()
        if head.size != status.st_size:
            return False
        return status.st_mtime_ns <= own_index(tar).stat().st_mtime_ns or head.sha256 == file_sha256(tar)
    except (UserError, OSError):
        return False


def index_tars(
    tars: list[Path],
    workers: int,
    *,
    only_missing: bool = False,
    on_start: Callable[[int, int], None] = lambda tars, size: None,
    on_tar: Callable[[int], None] = lambda size: None,
) -> IndexResult:
    """Write an index beside each of ``tars``, and shards.json in their folders where no tar failed.

    ``workers``: number of tars to read at a time. ``only_missing``: skip tars that `is_indexed`. ``on_start`` gets the
    number of tars to index and their bytes, ``on_tar`` the bytes of each finished tar. Raises `UserError` if a worker
    process dies or a file cannot be written; a tar that cannot be indexed is among the result's errors.
    """
    tars_to_read = [tar for tar in tars if not (only_missing and is_indexed(tar))]
    result = IndexResult()
    on_start(len(tars_to_read), sum(tar.stat().st_size for tar in tars_to_read))
    for tar, job in _jobs(tars_to_read, min(workers, len(tars_to_read))):
        try:
            result.indexed_tars[tar] = job.result()
        except UserError as error:
            result.errors[tar] = str(error)
        except BrokenProcessPool:
            raise UserError(f"{tar}: the process that read it has died (out of memory?); try --workers 1") from None
        on_tar(tar.stat().st_size)
    result.errors = dict(sorted(result.errors.items()))
    for folder in dict.fromkeys(tar.parent for tar in tars):
        if not any(tar.parent == folder for tar in result.errors):
            result.listings.append(_list(folder))
    return result


def _jobs(tars: list[Path], workers: int) -> Iterator[tuple[Path, Future[IndexedTar]]]:
    """Yield the tars as they are finished, by this process or by ``workers`` processes."""
    if workers <= 1:
        for tar in tars:
            yield tar, _run_in_process(tar)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_on_interrupt) as pool:
        try:
            jobs = {pool.submit(_index, tar): tar for tar in tars}
        except BrokenProcessPool:
            raise UserError("a worker process has died (out of memory?); try --workers 1") from None
        for job in as_completed(jobs):
            yield jobs[job], job


def _run_in_process(tar: Path) -> Future[IndexedTar]:
    job: Future[IndexedTar] = Future()
    try:
        job.set_result(_index(tar))
    except UserError as error:
        job.set_exception(error)
    return job


def _index(tar: Path) -> IndexedTar:
    result = scan(tar)
    try:
        write_bytes(index_path(tar), result.index.to_bytes())
    except OSError as error:
        raise UserError(f"{index_path(tar)} cannot be written ({error.strerror})") from None
    return IndexedTar(result.ignored_counts, result.num_left_out, result.scattered_keys, result.ambiguous_keys)


def _end_on_interrupt() -> None:
    """Make Ctrl-C end a worker at once and silently. Files that it has not renamed yet do not count."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _list(folder: Path) -> ListingSummary:
    """Write the folder's shards.json."""
    try:
        path = write_listing(folder)
    except OSError as error:
        raise UserError(f"{folder}: shards.json cannot be written ({error.strerror})") from None
    if path is None:
        raise UserError(
            f"{folder}: its tars changed while they were indexed: index them again when nothing writes to them"
        )
    heads = read_listing(folder).values()
    num_unindexed = len(list(folder.glob("*.tar"))) - len(heads)
    return ListingSummary(path, len(heads), sum(head.samples for head in heads), num_unindexed)
