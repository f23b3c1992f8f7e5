"""Tokenizes one process's share of the tars, one after the other. Out: counts of finished tars, and errors."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from janus_train.data.data_args import DataArg
from janus_train.data.shards.index import ShardIndex, own_index, read_head
from janus_train.data.shards.replace import Busy, file_lock, finish_swap, relist, replace_shard
from janus_train.data.sources.registry import template_of
from janus_train.data.storage.remote import Location
from janus_train.datatools.tokenize.rewrite import RewriteCounts, has_images, rewrite
from janus_train.errors import UserError
from janus_train.model.vq import CodeEncoder


def tars_of(data_args: Sequence[DataArg]) -> list[Path]:
    """The tars whose images get codes, sorted and without duplicates. Of a recipe, only generation sources count.

    Raises `UserError` if there are none, or if some are not on this machine's disks.
    """
    selected_args = [
        data_arg
        for data_arg in data_args
        if data_arg.config is None or (data_arg.in_tars and data_arg.config.kind == "generation")
    ]
    if not selected_args:
        raise UserError(
            f"none of the {len(data_args)} sources is of kind generation and type shards: nothing to cache codes in"
        )
    for data_arg in selected_args:
        if data_arg.config is not None and not template_of(data_arg.config).reads_codes:
            raise UserError(f"source {data_arg.name!r}: its template {data_arg.config.template} generates no image")
    return sorted({_local(place).absolute() for data_arg in selected_args for place in data_arg.places})


def sources_left_out(data_args: Sequence[DataArg]) -> list[str]:
    """The generation sources that keep no codes, because they are not made of tars with their own samples."""
    return [
        data_arg.name
        for data_arg in data_args
        if data_arg.config is not None and data_arg.config.kind == "generation" and not data_arg.in_tars
    ]


def _local(place: Location) -> Path:
    if isinstance(place, str):
        raise UserError(f"{place}: codes are written beside the images: copy the shards to a disk, and back afterwards")
    return place


@dataclass
class TokenizeResult:
    """The outcome for a process's tars."""

    num_tokenized: int = 0
    num_unchanged: int = 0
    """Tars that have their codes already, or no images."""
    busy_tars: list[Path] = field(default_factory=list)
    """Tars that another process was working on."""
    errors: list[str] = field(default_factory=list)
    """One message per failed tar."""
    num_images: int = 0
    num_without_codes: int = 0
    """Number of images that cannot be decoded."""


@dataclass(frozen=True)
class ProgressCallbacks:
    """Callbacks that report progress to the caller."""

    on_start: Callable[[int], None]
    """Gets the number of samples in the tars to tokenize."""
    on_samples: Callable[[int], None]
    """Gets the number of newly finished samples."""
    on_message: Callable[[str], None]
    """Gets a message about a tar."""


def tokenize(
    tars: Sequence[Path], encoder: CodeEncoder, *, replace: bool, threads: int, progress: ProgressCallbacks
) -> TokenizeResult:
    """Cache codes in each of ``tars``; tars with codes of this encoder stay unchanged.

    ``replace``: replace codes of another or unknown origin; otherwise they are refused before anything is written. A
    damaged tar stays unchanged and is counted as failed. Raises `UserError` for errors that concern all tars.
    """
    result, remaining_tars, samples = TokenizeResult(), [], 0
    for tar in tars:
        try:
            head = read_head(tar)
        except UserError as error:
            _record_failure(result, progress, error)
            continue
        if head.codes not in ("", str(encoder.origin)) and not replace:
            raise UserError(
                f"{tar} has cached codes of another origin ({head.codes}; this encoder's: {encoder.origin}): --replace "
                "replaces them"
            )
        remaining_tars.append(tar)
        samples += 0 if head.codes == str(encoder.origin) else head.samples
    progress.on_start(samples)
    try:
        for tar in remaining_tars:
            _tokenize_tar(tar, encoder, threads, result, progress)
    except DiskError as error:
        raise UserError(str(error)) from None
    finally:
        for folder in sorted({tar.parent for tar in remaining_tars}):
            relist(folder)
    return result


def _tokenize_tar(
    tar: Path, encoder: CodeEncoder, threads: int, result: TokenizeResult, progress: ProgressCallbacks
) -> None:
    start = time.perf_counter()
    try:
        with file_lock(tar.with_name(f".{tar.name}.lock"), wait=False):
            finish_swap(tar)
            tally = _rewrite_tar(tar, encoder, threads, progress)
    except Busy:
        result.busy_tars.append(tar)
        progress.on_message(f"{tar}: another process is working on it")
        return
    except UserError as error:
        _record_failure(result, progress, error)
        return
    if tally is None:
        result.num_unchanged += 1
        return
    result.num_tokenized += 1
    result.num_images += tally.images - len(tally.keys_without_codes)
    result.num_without_codes += len(tally.keys_without_codes)
    note = (
        f"; {len(tally.keys_without_codes)} cannot be decoded, the first in {tally.keys_without_codes[0]!r}"
        if tally.keys_without_codes
        else ""
    )
    progress.on_message(f"{tar}: {tally.images} images in {time.perf_counter() - start:.1f} s{note}")


def _record_failure(result: TokenizeResult, progress: ProgressCallbacks, error: UserError) -> None:
    result.errors.append(str(error))
    progress.on_message(f"error: {error}")


def _rewrite_tar(tar: Path, encoder: CodeEncoder, threads: int, progress: ProgressCallbacks) -> RewriteCounts | None:
    """Rewrite and replace a tar; None if it has its codes already, or no images. Raises `DiskError` if writing fails."""
    index_file = own_index(tar)
    index = ShardIndex.from_bytes(index_file.read_bytes(), index_file)
    size = tar.stat().st_size
    if size != index.head.size:
        raise UserError(f"shard {tar} is damaged: it has {size} bytes, its index says {index.head.size}")
    if index.head.codes == str(encoder.origin) or not has_images(index):
        return None
    staging = tar.with_name(f".{tar.name}.part")
    try:
        new_index, tally = rewrite(tar, index, staging, encoder, threads, progress.on_samples)
        replace_shard(tar, staging, new_index)
    except OSError as error:
        raise DiskError(f"{staging} cannot be written ({os.strerror(error.errno or 0)})") from None
    finally:
        staging.unlink(missing_ok=True)
    return tally


class DiskError(Exception):
    """Writing failed, so the next tar would fail too."""
