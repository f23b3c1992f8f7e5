"""The pieces of a plan done by several processes, and given back in their order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache

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
"""A process's own."""


class _Worker:
    """Looks at pieces; keeps the tar that it is reading open."""

    def __init__(self, names: list[str], checks: list[SampleCheck], sources: list[Source | None]):
        self._names, self._checks, self._sources = names, checks, sources
        self._tar = lru_cache(2)(lambda place: Tar([place]))

    def do(self, piece: VerificationPiece) -> PieceResult:
        """A tar or source that cannot be read at all is a problem of its own, not the end."""
        name = self._names[piece.source]
        try:
            return run_piece(piece, name, self._checks[piece.source], self._source(piece))
        except UserError as error:
            where = name if piece.tar is None else str(piece.tar)
            return PieceResult(piece, problems=[Problem(name, None, where, str(error), True)])

    def _source(self, piece: VerificationPiece) -> Source | None:
        place: Location | None = piece.tar
        return self._sources[piece.source] if place is None else None if piece.whole else self._tar(place)


def run_pieces(plan: VerificationPlan, workers: int) -> Iterator[PieceResult]:
    """What each piece gives, in the plan's order. Raises `UserError` if a worker process dies."""
    pieces = [piece for of in plan.pieces for piece in of]
    given = (plan.names, plan.checks, plan.sources)
    if workers == 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = _Worker(*given)
            yield from map(alone.do, pieces)
        return
    # spawned: forked ones would hold whatever threads of this process held locked
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(imported_plugins(), *given))
    waiting: deque[Future[PieceResult]] = deque()
    try:
        for piece in pieces:
            waiting.append(pool.submit(_do, piece))
            if len(waiting) > 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError("a worker process died, perhaps for want of memory: fewer --workers need less") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(plugins: tuple[str, ...], names: list[str], checks: list[SampleCheck], sources: list[Source | None]) -> None:
    """In a new process: leave Ctrl-C to the parent, end when the parent ends, keep Pillow's remarks to oneself."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")
    import_plugins(plugins)  # their templates count where no recipe names one
    _worker = _Worker(names, checks, sources)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(piece: VerificationPiece) -> PieceResult:
    assert _worker is not None
    return _worker.do(piece)
