"""Plans and converts in one or several processes. In: jobs and units. Out: results in their order."""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from janus_train import lifetime
from janus_train.data.shards.scan import write_index
from janus_train.data.unused import counting
from janus_train.datatools.prepare.formats import open_format
from janus_train.datatools.prepare.items import InputFormat, Unit
from janus_train.datatools.prepare.options import PrepareOptions
from janus_train.datatools.prepare.samples import Outcome, UnitContent, convert, read_content
from janus_train.errors import UserError
from janus_train.files import file_sha256

_format: InputFormat | None = None
"""The format of this process."""
_WORKER_DIED = UserError(
    "a worker process died, perhaps for want of memory: the same command resumes after the last finished shard; "
    "fewer --workers need less memory"
)


@dataclass(frozen=True)
class JobPlan:
    """The units of a job, the digests of the files that planning read to the end, and counts of what is not used."""

    units: list[Unit]
    digests: list[str]
    unused: Counter[str]


def plan_job(format_: InputFormat, job: Any) -> JobPlan:
    with counting() as unused:
        units = list(format_.plan(job))
    return JobPlan(units, [file_sha256(Path(path)) for path in format_.planned_files(job)], unused)


class Workers(Protocol):
    """One process or several. The results do not depend on their number."""

    def plan(self, jobs: list[Any]) -> Iterator[JobPlan]: ...

    def convert(self, units: Iterable[Unit]) -> Iterator[list[Outcome]]: ...

    def read_content(self, units: Iterable[Unit]) -> Iterator[UnitContent]: ...

    def index(self, tar: Path) -> None:
        """Start to write the tar's index."""

    def finish(self) -> None:
        """Wait for the indices."""

    def close(self) -> None: ...


def start(options: PrepareOptions, format_: InputFormat, number: int) -> Workers:
    return _InProcess(format_) if number == 1 else _ProcessPool(options, number)


class _InProcess:
    """Everything in this process."""

    def __init__(self, format_: InputFormat):
        self._format = format_

    def plan(self, jobs: list[Any]) -> Iterator[JobPlan]:
        return (plan_job(self._format, job) for job in jobs)

    def convert(self, units: Iterable[Unit]) -> Iterator[list[Outcome]]:
        return (convert(self._format, unit) for unit in units)

    def read_content(self, units: Iterable[Unit]) -> Iterator[UnitContent]:
        return (read_content(self._format, unit) for unit in units)

    def index(self, tar: Path) -> None:
        write_index(tar)

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class _ProcessPool:
    """Processes that end with this one, however it ends."""

    def __init__(self, options: PrepareOptions, number: int):
        self._max_pending = 2 * number
        # spawned: forked processes would inherit each other's pipes and the locks that threads hold
        self._pool = ProcessPoolExecutor(
            number, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(options,)
        )
        self._indices: list[Future[Path]] = []

    def plan(self, jobs: list[Any]) -> Iterator[JobPlan]:
        return self._in_order(_plan, jobs)

    def convert(self, units: Iterable[Unit]) -> Iterator[list[Outcome]]:
        return self._in_order(_convert, units)

    def read_content(self, units: Iterable[Unit]) -> Iterator[UnitContent]:
        return self._in_order(_read_content, units)

    def index(self, tar: Path) -> None:
        self._indices.append(self._submit(write_index, tar))
        while len(self._indices) > self._max_pending:
            _result(self._indices.pop(0))

    def finish(self) -> None:
        while self._indices:
            _result(self._indices.pop(0))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, work: Callable[[Any], Any], task: Any) -> Future[Any]:
        try:
            return self._pool.submit(work, task)
        except BrokenProcessPool:
            raise _WORKER_DIED from None

    def _in_order(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the tasks; only few tasks run ahead, so that results do not pile up."""
        futures: deque[Future[Any]] = deque()
        for task in tasks:
            futures.append(self._submit(work, task))
            if len(futures) > self._max_pending:
                yield _result(futures.popleft())
        while futures:
            yield _result(futures.popleft())


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise _WORKER_DIED from None


def _start_worker(options: PrepareOptions) -> None:
    """Initialise a new process: open the format, leave Ctrl-C to the parent, end when the parent ends."""
    global _format
    lifetime.end_with_pool()
    _format = open_format(options)


def _plan(job: Any) -> JobPlan:
    assert _format is not None
    return plan_job(_format, job)


def _convert(unit: Unit) -> list[Outcome]:
    assert _format is not None
    return convert(_format, unit)


def _read_content(unit: Unit) -> UnitContent:
    assert _format is not None
    return read_content(_format, unit)
