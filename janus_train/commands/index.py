"""``janus-train index``: makes tars random-access, one's own and those that others wrote."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from janus_train.errors import UserError


def index(
    paths: Annotated[list[Path], typer.Argument(help="WebDataset tars, or folders of them.", metavar="PATH...")],
    missing: Annotated[
        bool, typer.Option("--missing", help="Only tars that have no index yet, or one of another size.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Tars that are read at a time. Left out: one a core.")
    ] = None,
) -> None:
    """Write what training reads samples by: an index beside each tar, and shards.json in each folder.

    Members: KEY.json (or KEY.txt, a caption) with KEY.jpg, .png or .webp, or KEY.0.jpg, KEY.1.jpg, ...; others are left
    alone and counted. Damaged tars and keys that come twice are refused, and shards.json of their folder is not written.
    """
    tars = find_tars(paths)
    todo = [tar for tar in tars if not (missing and _is_indexed(tar))]
    done, failed = _run(todo, min(workers or os.cpu_count() or 1, len(todo)))
    for folder in dict.fromkeys(tar.parent for tar in tars):
        if not any(tar.parent == folder for tar in failed):
            print(_list(folder))
    for line in _remarks(done):
        print(line, file=sys.stderr)
    if len(failed) > 1:
        for message in failed.values():
            print(message, file=sys.stderr)
        raise UserError(f"{len(failed)} of {len(todo)} tars cannot be indexed, see above")
    if failed:
        raise UserError(next(iter(failed.values())))


def find_tars(paths: list[Path]) -> list[Path]:
    """The tars that are named, and those in the folders that are named. Raises `UserError` for what is neither."""
    found: dict[Path, None] = {}
    for path in paths:
        if re.match(r"[a-z0-9]+:/", str(path)):
            raise UserError(
                f"{path}: index tars where they are made, then copy them with their indices and shards.json"
            )
        inside = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path}: there is no .tar in this folder")
        if not inside[0].is_file():
            raise UserError(f"{path}: there is no such file")
        wrong = [tar for tar in inside if tar.suffix != ".tar"]
        if wrong:
            raise UserError(f"{wrong[0]}: a shard's name ends in .tar")
        found |= dict.fromkeys(inside)
    return list(found)


@dataclass(frozen=True)
class _Done:
    """What the worker process that indexed a tar sends back."""

    ignored: dict[str, int]
    left_out: int


def _index_one(tar: Path) -> _Done:
    from janus_train.data.shard_index import index_path
    from janus_train.data.shard_scan import scan
    from janus_train.files import write_bytes

    found = scan(tar)
    try:
        write_bytes(index_path(tar), found.index.to_bytes())
    except OSError as error:
        raise UserError(f"{index_path(tar)} cannot be written ({error.strerror})") from None
    return _Done(found.ignored, found.left_out)


def _is_indexed(tar: Path) -> bool:
    from janus_train.data.shard_index import read_head

    try:
        return read_head(tar).size == tar.stat().st_size
    except UserError:
        return False


def _run(tars: list[Path], workers: int) -> tuple[dict[Path, _Done], dict[Path, str]]:
    """Index the tars in processes of their own; what was found in each, and why the others cannot be indexed."""
    import multiprocessing
    from concurrent.futures.process import BrokenProcessPool

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    done: dict[Path, _Done] = {}
    failed: dict[Path, str] = {}
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{len(tars)} tars", total=sum(tar.stat().st_size for tar in tars))

        def note(tar: Path, result: Future[_Done]) -> None:
            try:
                done[tar] = result.result()
            except UserError as error:
                failed[tar] = str(error)
            except BrokenProcessPool:
                raise UserError(f"{tar}: the process that read it has died (out of memory?); try --workers 1") from None
            bar.advance(task, tar.stat().st_size)

        if workers <= 1:
            for tar in tars:
                note(tar, _now(tar))
        else:
            with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _ends_on_interrupt) as pool:
                try:
                    jobs = {pool.submit(_index_one, tar): tar for tar in tars}
                except BrokenProcessPool:
                    raise UserError("a worker process has died (out of memory?); try --workers 1") from None
                for job in as_completed(jobs):
                    note(jobs[job], job)
    return done, dict(sorted(failed.items()))


def _now(tar: Path) -> Future[_Done]:
    """The job, done in this process."""
    job: Future[_Done] = Future()
    try:
        job.set_result(_index_one(tar))
    except UserError as error:
        job.set_exception(error)
    return job


def _ends_on_interrupt() -> None:
    """A worker goes at once with the command, and silently: what it has not renamed does not count."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _list(folder: Path) -> str:
    """Write the folder's shards.json; what is in it, in a line."""
    from janus_train.data.shard_index import read_listing, write_listing

    try:
        listing = write_listing(folder)
    except OSError as error:
        raise UserError(f"{folder}: shards.json cannot be written ({error.strerror})") from None
    heads = read_listing(folder).values()
    others = len(list(folder.glob("*.tar"))) - len(heads)
    more = f"; {others:,} more tars in the folder have no index" if others else ""
    return f"{listing}: {len(heads):,} tars, {sum(head.samples for head in heads):,} samples{more}"


def _remarks(done: dict[Path, _Done]) -> list[str]:
    """What was not taken in, summed over all tars."""
    ignored: Counter[str] = Counter()
    for one in done.values():
        ignored.update(one.ignored)
    lines = []
    if ignored:
        shown = ", ".join(f"{number:,} {ending}" for ending, number in ignored.most_common(10))
        lines.append(f"note: {ignored.total():,} members are of no use here and were left alone: {shown}")
    left_out = sum(one.left_out for one in done.values())
    if left_out:
        lines.append(f"note: {left_out:,} keys have neither .json nor .txt: these samples are left out")
    return lines
