"""Runs the pieces of a plan in several processes. Out: their results, in the plan's order."""

from __future__ import annotations

import multiprocessing
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache

from janus_train import lifetime
from janus_train.data.sources.registry import Source
from janus_train.data.storage.remote import Location
from janus_train.datatools.verify.check import SampleCheck
from janus_train.datatools.verify.plan import (
    PieceResult,
    Problem,
    Tar,
    VerificationPiece,
    VerificationPlan,
    run_piece,
)
from janus_train.errors import UserError
from janus_train.plugins import import_plugins, imported_plugins

_worker: _Worker | None = None
"""The worker of this process."""


class _Worker:
    """Runs pieces in one process; it keeps the current tar open."""

    def __init__(self, names: list[str], checks: list[SampleCheck], sources: list[Source | None]):
        self._names, self._checks, self._sources = names, checks, sources
        self._tar = lru_cache(2)(lambda place: Tar([place]))

    def do(self, piece: VerificationPiece) -> PieceResult:
        """Run a piece. A tar or source that cannot be read at all becomes a problem instead of an error."""
        name = self._names[piece.source]
        try:
            return run_piece(piece, name, self._checks[piece.source], self._source(piece))
        except UserError as error:
            location = name if piece.tar is None else str(piece.tar)
            return PieceResult(piece, problems=[Problem(name, None, location, str(error), True)])

    def _source(self, piece: VerificationPiece) -> Source | None:
        place: Location | None = piece.tar
        return self._sources[piece.source] if place is None else None if piece.checks_tar else self._tar(place)


def run_pieces(plan: VerificationPlan, workers: int) -> Iterator[PieceResult]:
    """The result of each piece, in the plan's order. Raises `UserError` if a worker process dies."""
    pieces = [piece for of in plan.pieces for piece in of]
    arguments = (plan.names, plan.checks, plan.sources)
    if workers == 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            worker = _Worker(*arguments)
            yield from map(worker.do, pieces)
        return
    # spawned: forked processes would inherit locks that threads of this process hold
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(imported_plugins(), *arguments))
    futures: deque[Future[PieceResult]] = deque()
    try:
        for piece in pieces:
            futures.append(pool.submit(_do, piece))
            if len(futures) > 4 * workers:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
    except BrokenProcessPool:
        raise UserError("a worker process died, perhaps for want of memory: fewer --workers need less") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(
    plugins: tuple[str, ...], names: list[str], checks: list[SampleCheck], sources: list[Source | None]
) -> None:
    """Initialise a new process: leave Ctrl-C to the parent, end when the parent ends, suppress Pillow's warnings."""
    global _worker
    lifetime.end_with_pool()
    warnings.simplefilter("ignore")
    import_plugins(plugins)  # their templates count where no recipe names one
    _worker = _Worker(names, checks, sources)


def _do(piece: VerificationPiece) -> PieceResult:
    assert _worker is not None
    return _worker.do(piece)
