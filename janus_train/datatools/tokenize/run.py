"""One process's share of the tars, one after the other: what is left to do, done, and what went wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from janus_train.data.data_args import DataArg
from janus_train.data.shards.index import ShardIndex, own_index, read_head
from janus_train.data.shards.replace import Busy, file_lock, finish_swap, relist, replace_shard
from janus_train.data.storage.remote import Location
from janus_train.data.templates import get_template
from janus_train.datatools.tokenize.rewrite import RewriteCounts, has_images, rewrite
from janus_train.errors import UserError
from janus_train.model.vq import CodeEncoder


def tars_of(given: Sequence[DataArg]) -> list[Path]:
    """The tars whose images get codes: of a recipe those of its generation sources, else all; each once, sorted.

    Raises `UserError` if there are none, or some are not on this machine's disks.
    """
    wanted = [one for one in given if one.config is None or (one.in_tars and one.config.kind == "generation")]
    if not wanted:
        raise UserError(
            f"none of the {len(given)} sources is of kind generation and type shards: nothing to cache codes in"
        )
    for one in wanted:
        if one.config is not None and not get_template(one.config.template, of=f"source {one.name!r}").reads_codes:
            raise UserError(f"source {one.name!r}: its template {one.config.template} draws no image")
    return sorted({_local(place).absolute() for one in wanted for place in one.places})


def _local(place: Location) -> Path:
    if isinstance(place, str):
        raise UserError(f"{place}: codes are written beside the images: copy the shards to a disk, and back afterwards")
    return place


@dataclass
class TokenizeResult:
    """What became of a process's tars."""

    tokenized: int = 0
    nothing_to_do: int = 0
    """They have their codes, or no images."""
    busy: list[Path] = field(default_factory=list)
    """Another process was at work on them."""
    failed: list[str] = field(default_factory=list)
    """A line each."""
    images: int = 0
    without: int = 0
    """Images that cannot be decoded."""


@dataclass(frozen=True)
class ProgressCallbacks:
    """How the caller hears of progress."""

    on_start: Callable[[int], None]
    """The number of samples in the tars that are to be done."""
    on_samples: Callable[[int], None]
    """So many more samples are through."""
    on_message: Callable[[str], None]
    """Something to say about a tar."""


def tokenize(
    tars: Sequence[Path], encoder: CodeEncoder, *, replace: bool, threads: int, progress: ProgressCallbacks
) -> TokenizeResult:
    """Cache codes in each of ``tars``; those that have them from this encoder are left as they are.

    ``replace``: make codes of another or unknown origin anew; else they are refused, before anything is written. A tar
    that is damaged is left as it is, and the next one follows. Raises `UserError` for what holds for all of them.
    """
    result, todo, samples = TokenizeResult(), [], 0
    for tar in tars:
        try:
            head = read_head(tar)
        except UserError as error:
            _failed(result, progress, error)
            continue
        if head.codes not in ("", str(encoder.origin)) and not replace:
            raise UserError(
                f"{tar} has cached codes of another origin ({head.codes}; this encoder's: {encoder.origin}): --replace makes "
                "them anew"
            )
        todo.append(tar)
        samples += 0 if head.codes == str(encoder.origin) else head.samples
    progress.on_start(samples)
    try:
        for tar in todo:
            _one(tar, encoder, threads, result, progress)
    except DiskError as error:
        raise UserError(str(error)) from None
    finally:
        for folder in sorted({tar.parent for tar in todo}):
            relist(folder)
    return result


def _one(tar: Path, encoder: CodeEncoder, threads: int, result: TokenizeResult, progress: ProgressCallbacks) -> None:
    began = time.perf_counter()
    try:
        with file_lock(tar.with_name(f".{tar.name}.lock"), wait=False):
            finish_swap(tar)
            tally = _rewritten(tar, encoder, threads, progress)
    except Busy:
        result.busy.append(tar)
        progress.on_message(f"{tar}: another process is at work on it")
        return
    except UserError as error:
        _failed(result, progress, error)
        return
    if tally is None:
        result.nothing_to_do += 1
        return
    result.tokenized += 1
    result.images += tally.images - len(tally.without)
    result.without += len(tally.without)
    said = f"; {len(tally.without)} cannot be decoded, the first in {tally.without[0]!r}" if tally.without else ""
    progress.on_message(f"{tar}: {tally.images} images in {time.perf_counter() - began:.1f} s{said}")


def _failed(result: TokenizeResult, progress: ProgressCallbacks, error: UserError) -> None:
    result.failed.append(str(error))
    progress.on_message(f"error: {error}")


def _rewritten(tar: Path, encoder: CodeEncoder, threads: int, progress: ProgressCallbacks) -> RewriteCounts | None:
    """None if the tar has its codes, or no images. Raises `DiskError` where writing fails."""
    where = own_index(tar)
    index = ShardIndex.from_bytes(where.read_bytes(), where)
    size = tar.stat().st_size
    if size != index.head.size:
        raise UserError(f"shard {tar} is damaged: it has {size} bytes, its index says {index.head.size}")
    if index.head.codes == str(encoder.origin) or not has_images(index):
        return None
    staging = tar.with_name(f".{tar.name}.part")
    try:
        new, tally = rewrite(tar, index, staging, encoder, threads, progress.on_samples)
        replace_shard(tar, staging, new)
    except OSError as error:
        raise DiskError(f"{staging} cannot be written ({os.strerror(error.errno or 0)})") from None
    finally:
        staging.unlink(missing_ok=True)
    return tally


class DiskError(Exception):
    """Writing failed: the next tar would fare no better."""
