"""Indices beside tars: which tars to index, indexing them in processes, and each folder's shards.json."""

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

from janus_train.data.shards.index import index_path, read_head, read_listing, write_listing
from janus_train.data.shards.scan import scan
from janus_train.errors import UserError
from janus_train.files import write_bytes


@dataclass(frozen=True)
class IndexedTar:
    """What a tar holds besides the samples in its index."""

    ignored: dict[str, int]
    """Members that are of no use, counted by their ending."""
    left_out: int
    """Keys with neither .json nor .txt."""


@dataclass
class IndexResult:
    """What became of the tars."""

    indexed: dict[Path, IndexedTar] = field(default_factory=dict)
    errors: dict[Path, str] = field(default_factory=dict)
    """Tars that cannot be indexed, with a line each."""
    listings: list[ListingSummary] = field(default_factory=list)
    """The shards.json that were written: one per folder in which no tar failed."""

    @property
    def attempted(self) -> int:
        return len(self.indexed) + len(self.errors)

    @property
    def ignored(self) -> Counter[str]:
        """Members that are of no use, over all tars, counted by their ending."""
        total: Counter[str] = Counter()
        for tar in self.indexed.values():
            total.update(tar.ignored)
        return total

    @property
    def left_out(self) -> int:
        """Keys with neither .json nor .txt, over all tars."""
        return sum(tar.left_out for tar in self.indexed.values())


@dataclass(frozen=True)
class ListingSummary:
    """What a folder's shards.json lists."""

    path: Path
    tars: int
    samples: int
    unindexed: int
    """Further tars in the folder, without an index."""


def tars_to_index(paths: list[Path]) -> list[Path]:
    """The tars that are named, and those in the folders that are named. Raises `UserError` for what is neither."""
    tars: dict[Path, None] = {}
    for path in paths:
        if re.match(r"[a-z0-9]+:/", str(path)):
            raise UserError(
                f"{path}: index tars where they are made, then copy them with their indices and shards.json"
            )
        inside = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path}: there is no .tar in this folder")
        if not inside[0].exists():
            raise UserError(f"{path}: there is no such file")
        special = [tar for tar in inside if not tar.is_file()]
        if special:
            raise UserError(f"{special[0]}: is no regular file")
        wrong = [tar for tar in inside if tar.suffix != ".tar"]
        if wrong:
            raise UserError(f"{wrong[0]}: a shard's name ends in .tar")
        tars |= dict.fromkeys(inside)
    return list(tars)


def is_indexed(tar: Path) -> bool:
    """Whether the tar has an index that was made for a tar of its size."""
    try:
        return read_head(tar).size == tar.stat().st_size
    except UserError:
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

    ``workers``: tars that are read at a time. ``only_missing``: leave alone those that `is_indexed`. ``on_start`` gets the
    number of tars to index and their bytes, ``on_tar`` the bytes of each tar that is done. Raises `UserError` if a worker
    process dies or a file cannot be written; a tar that cannot be indexed is among the result's errors.
    """
    pending = [tar for tar in tars if not (only_missing and is_indexed(tar))]
    result = IndexResult()
    on_start(len(pending), sum(tar.stat().st_size for tar in pending))
    for tar, job in _jobs(pending, min(workers, len(pending))):
        try:
            result.indexed[tar] = job.result()
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
    """The tars as they are done: in this process, or in ``workers`` of their own."""
    if workers <= 1:
        for tar in tars:
            yield tar, _run_here(tar)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_on_interrupt) as pool:
        try:
            jobs = {pool.submit(_index, tar): tar for tar in tars}
        except BrokenProcessPool:
            raise UserError("a worker process has died (out of memory?); try --workers 1") from None
        for job in as_completed(jobs):
            yield jobs[job], job


def _run_here(tar: Path) -> Future[IndexedTar]:
    job: Future[IndexedTar] = Future()
    try:
        job.set_result(_index(tar))
    except UserError as error:
        job.set_exception(error)
    return job


def _index(tar: Path) -> IndexedTar:
    scanned = scan(tar)
    try:
        write_bytes(index_path(tar), scanned.index.to_bytes())
    except OSError as error:
        raise UserError(f"{index_path(tar)} cannot be written ({error.strerror})") from None
    return IndexedTar(scanned.ignored, scanned.left_out)


def _end_on_interrupt() -> None:
    """A worker goes at once with the command, and silently: what it has not renamed does not count."""
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
    unindexed = len(list(folder.glob("*.tar"))) - len(heads)
    return ListingSummary(path, len(heads), sum(head.samples for head in heads), unindexed)
