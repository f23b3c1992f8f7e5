"""From sources to pieces of work: a stretch of a source's samples, or a tar's bytes as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from janus_train.data.data_args import DataArg
from janus_train.data.shards.index import read_head
from janus_train.data.sources.registry import Source, open_source, source_type
from janus_train.data.sources.shards import ShardSource
from janus_train.data.storage.remote import Location, file_sizes, open_reader
from janus_train.data.templates import get_template
from janus_train.data.types import BadSample
from janus_train.datatools.verify.check import Lengths, SampleCheck
from janus_train.errors import UserError

STRETCH = 200
"""Samples that a process looks at before it asks for more."""
_CHUNK = 8 << 20


@dataclass(frozen=True)
class Problem:
    """A line of the quarantine list. ``index``: the sample's number in its source, None for a tar as a whole."""

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
    before: int = 0
    """Samples in the source's tars before this one."""
    whole: bool = False


@dataclass
class PieceResult:
    """What one piece gave."""

    piece: VerificationPiece
    samples: int = 0
    images: int = 0
    problems: list[Problem] = field(default_factory=list)


@dataclass
class VerificationPlan:
    """What there is to look at, source by source; the source itself where it is not made of tars."""

    names: list[str]
    checks: list[SampleCheck]
    sources: list[Source | None]
    pieces: list[list[VerificationPiece]]
    sizes: list[int]
    """Bytes of the files that were named."""
    problems: list[tuple[int, Problem]]
    """Sources and tars that cannot even be opened, with the source's number."""

    @property
    def samples(self) -> int:
        return sum(piece.stop - piece.start for of in self.pieces for piece in of)


def plan_verification(given: Sequence[DataArg], lengths: Lengths | None) -> VerificationPlan:
    """Opens what can be opened; what cannot is among the problems. Raises `UserError` for a template that is unknown."""
    plan = VerificationPlan([], [], [], [], [], [])
    for number, one in enumerate(given):
        plan.names.append(one.name)
        plan.sources.append(None)
        plan.pieces.append([])
        plan.sizes.append(sum(map(_bytes_at, one.places)))
        config = one.config
        tars = "samples" if config is None else source_type(config.type).tars
        if config is None:
            plan.checks.append(SampleCheck(lengths=lengths))
        else:
            template = get_template(config.template, of=f"source {one.name!r}")
            plan.checks.append(SampleCheck(template, config.kind, lengths, fields=tars != "material"))
        if tars is not None:
            _plan_tars(plan, number, one)
            continue
        assert config is not None
        try:
            source = open_source(config, one.places, 0)
        except UserError as error:
            plan.problems.append((number, Problem(one.name, None, one.name, str(error), True)))
            continue
        plan.sources[number] = source
        plan.pieces[number] = [VerificationPiece(number, *stretch) for stretch in _stretches(len(source))]
    return plan


def _plan_tars(plan: VerificationPlan, number: int, one: DataArg) -> None:
    before = 0
    for tar, size in zip(one.places, file_sizes(one.places), strict=True):
        try:
            head = read_head(tar)
            if size != head.size:
                raise UserError(f"shard {tar} is damaged: it has {size} bytes, its index says {head.size}")
        except UserError as error:
            plan.problems.append((number, Problem(one.name, None, str(tar), str(error), True)))
            continue
        plan.pieces[number].append(VerificationPiece(number, tar=tar, whole=True))
        plan.pieces[number] += [
            VerificationPiece(number, *stretch, tar, before) for stretch in _stretches(head.samples)
        ]
        before += head.samples


def _stretches(samples: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + STRETCH, samples)) for start in range(0, samples, STRETCH))


def _bytes_at(place: Location) -> int:
    if isinstance(place, Path) and place.is_dir():
        return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return file_sizes([place])[0] or 0


class Tar(ShardSource):
    """One tar whose samples can be looked at although its bytes as a whole may not be those that were indexed."""

    def _check(self) -> None:
        """The plan has compared its size; a piece of its own compares its digest."""


def run_piece(piece: VerificationPiece, name: str, check: SampleCheck, source: Source | None) -> PieceResult:
    """Do a piece of the work. ``source``: what its samples are read from; its tar, if it has one, opened as `Tar`."""
    found = PieceResult(piece)
    if piece.whole:
        assert piece.tar is not None
        reason = _compare(piece.tar)
        found.problems += [Problem(name, None, str(piece.tar), reason, True)] if reason else []
        return found
    assert source is not None
    for index in range(piece.start, piece.stop):
        found.samples += 1
        problem = _look_at(source, index, check)
        if isinstance(problem, int):
            found.images += problem
        else:
            key, reason, damaged = problem
            found.problems.append(Problem(name, piece.before + index, key or f"number {index}", reason, damaged))
    return found


def _look_at(source: Source, index: int, check: SampleCheck) -> Any:
    """The number of images, or (key, reason, damaged)."""
    try:
        return check.look(source, index)
    except BadSample as error:
        return error.key, str(error), error.damaged


def _compare(tar: Location) -> str | None:
    """What is wrong with the tar's bytes as a whole."""
    head = read_head(tar)
    whole, reader = hashlib.sha256(), open_reader(tar, head.size, head.sha256)
    for offset in range(0, head.size, _CHUNK):
        whole.update(reader.read(offset, min(_CHUNK, head.size - offset), bypass_cache=True))
    return None if whole.hexdigest() == head.sha256 else "its SHA-256 is not the one in its index"
