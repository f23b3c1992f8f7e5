"""Plans a verification. In: data arguments. Out: pieces of work, each a range of a source's samples or all bytes of a tar."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from janus_train.data.data_args import DataArg
from janus_train.data.lengths import LongEffect
from janus_train.data.shards.index import read_head
from janus_train.data.sources.registry import Source, open_source, source_type, template_of
from janus_train.data.sources.shards import ShardSource
from janus_train.data.storage.file_states import file_sizes
from janus_train.data.storage.remote import Location, is_remote, open_reader
from janus_train.data.types import BadSample
from janus_train.datatools.verify.check import Lengths, SampleCheck
from janus_train.errors import UserError
from janus_train.files import refuse_lfs_pointer

STRETCH = 200
"""Number of samples in a piece of work."""
_CHUNK = 8 << 20


@dataclass(frozen=True)
class Problem:
    """A line of the list of problems. ``index``: the sample's number in its source; None for a complete tar."""

    source: str
    index: int | None
    key: str
    reason: str
    damaged: bool


@dataclass(frozen=True)
class VerificationPiece:
    """Samples ``start .. stop`` of ``tar``, or of a source without tars; or all bytes of ``tar``."""

    source: int
    start: int = 0
    stop: int = 0
    tar: Location | None = None
    first_index: int = 0
    """Number of samples in the source's tars before this one."""
    checks_tar: bool = False
    """Whether the piece is the digest of all bytes of the tar."""


@dataclass
class PieceResult:
    """The result of one piece."""

    piece: VerificationPiece
    samples: int = 0
    images_per_sample: Counter[int] = field(default_factory=Counter)
    """Number of images -> number of good samples with so many."""
    problems: list[Problem] = field(default_factory=list)
    num_long: Counter[LongEffect] = field(default_factory=Counter)
    """Samples longer than a row, by what training does with them."""


@dataclass
class VerificationPlan:
    """The work, source by source. ``sources`` has the opened source, or None if it consists of tars."""

    names: list[str]
    checks: list[SampleCheck]
    sources: list[Source | None]
    pieces: list[list[VerificationPiece]]
    sizes: list[int]
    """Bytes of each source's files."""
    problems: list[tuple[int, Problem]]
    """Sources and tars that cannot be opened at all, each with the source's number."""

    @property
    def samples(self) -> int:
        return sum(piece.stop - piece.start for of in self.pieces for piece in of)


def plan_verification(data_args: Sequence[DataArg], lengths: Lengths | None) -> VerificationPlan:
    """Open the sources and plan the work; sources that cannot be opened become problems.

    Raises `UserError` for an unknown template.
    """
    plan = VerificationPlan([], [], [], [], [], [])
    for number, data_arg in enumerate(data_args):
        plan.names.append(data_arg.name)
        plan.sources.append(None)
        plan.pieces.append([])
        config = data_arg.config
        tars = "samples" if config is None else source_type(config.type).tars
        if config is None:
            plan.checks.append(SampleCheck(lengths=lengths))
        else:
            template = template_of(config)
            plan.checks.append(SampleCheck(template, config.kind, lengths, fields=tars != "material"))
        is_listed = tars is not None or not any(map(is_remote, data_arg.places))
        plan.sizes.append(sum(map(_bytes_at, data_arg.places)) if is_listed else 0)
        if tars is not None:
            _plan_tars(plan, number, data_arg)
            continue
        assert config is not None
        try:
            source = open_source(config, data_arg.places, 0)
        except UserError as error:
            plan.problems.append((number, Problem(data_arg.name, None, data_arg.name, str(error), True)))
            continue
        plan.sources[number] = source
        plan.sizes[number] = plan.sizes[number] or getattr(source, "num_bytes", 0)
        plan.pieces[number] = [VerificationPiece(number, *stretch) for stretch in _stretches(len(source))]
    return plan


def _plan_tars(plan: VerificationPlan, number: int, data_arg: DataArg) -> None:
    first_index = 0
    for tar, size in zip(data_arg.places, file_sizes(data_arg.places), strict=True):
        try:
            head = read_head(tar)
            if size != head.size:
                if isinstance(tar, Path):
                    refuse_lfs_pointer(tar)
                raise UserError(f"shard {tar} is damaged: it has {size} bytes, its index says {head.size}")
        except UserError as error:
            plan.problems.append((number, Problem(data_arg.name, None, str(tar), str(error), True)))
            continue
        plan.pieces[number].append(VerificationPiece(number, tar=tar, checks_tar=True))
        plan.pieces[number] += [
            VerificationPiece(number, *stretch, tar, first_index) for stretch in _stretches(head.samples)
        ]
        first_index += head.samples


def _stretches(samples: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + STRETCH, samples)) for start in range(0, samples, STRETCH))


def _bytes_at(place: Location) -> int:
    if isinstance(place, Path) and place.is_dir():
        return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return file_sizes([place])[0] or 0


class Tar(ShardSource):
    """One tar whose samples can be checked even if its SHA-256 is not the one in its index."""

    def _check(self) -> None:
        """Nothing to check: the plan has compared the size, and a separate piece compares the digest."""


def run_piece(piece: VerificationPiece, name: str, check: SampleCheck, source: Source | None) -> PieceResult:
    """Do a piece of the work. ``source``: the source of its samples, which is a `Tar` if the piece has a tar."""
    result = PieceResult(piece)
    if piece.checks_tar:
        assert piece.tar is not None
        reason = _compare(piece.tar)
        result.problems += [Problem(name, None, str(piece.tar), reason, True)] if reason else []
        return result
    assert source is not None
    for index in range(piece.start, piece.stop):
        result.samples += 1
        problem = _look_at(source, index, check, result.num_long)
        if isinstance(problem, int):
            result.images_per_sample[problem] += 1
        else:
            key, reason, damaged = problem
            result.problems.append(Problem(name, piece.first_index + index, key or f"number {index}", reason, damaged))
    return result


def _look_at(source: Source, index: int, check: SampleCheck, num_long: Counter[LongEffect]) -> Any:
    """The number of images, or (key, reason, damaged)."""
    try:
        return check.look(source, index, num_long)
    except BadSample as error:
        return error.key, str(error), error.damaged


def _compare(tar: Location) -> str | None:
    """The reason why the tar's bytes are wrong; None if their digest is right."""
    head = read_head(tar)
    hasher, reader = hashlib.sha256(), open_reader(tar, head.size, head.sha256)
    for offset in range(0, head.size, _CHUNK):
        hasher.update(reader.read(offset, min(_CHUNK, head.size - offset), bypass_cache=True))
    return None if hasher.hexdigest() == head.sha256 else "its SHA-256 is not the one in its index"
