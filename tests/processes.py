"""Jobs of real processes that do what train.py does, quickly: forked from a server that has imported everything once.

Each process has the environment that a launcher would give it, its own pid to be killed by, and its output in a file.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from janus_train.jsonl import read_json_lines
from janus_train.paths import ROOT
from janus_train.train import entry

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["janus_train.train.run", "hydra", "datasets", "torch._dynamo"])

SMALL = (
    "batch.row_tokens=256",
    "batch.rows_per_step=2",
    "batch.micro_rows=1",
    "data.lookahead=2",
    "run.cpu_threads=1",
    "run.log_every=1",
)


@functools.cache
def _wait_for_server() -> None:
    """Its imports take seconds, which are nobody's deadline."""
    first = SERVER.Process(target=int)
    first.start()
    first.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl so far."""
    return read_json_lines(folder / "metrics.jsonl")


def digests(folder: Path) -> list[tuple[int, str]]:
    return [(line["step"], line["batch_digest"]) for line in metrics(folder)]


def wait_for(what: Callable[[], Any], timeout_s: float, name: str) -> Any:
    """The first true value of ``what()``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{name}: not within {timeout_s} s")


class Job:
    """``world_size`` processes of one run; ``words`` are train.py's. ``sabotage`` is called in each, given its rank."""

    def __init__(
        self,
        log: Path,
        words: tuple[str, ...],
        world_size: int = 1,
        ranks: tuple[int, ...] | None = None,
        sabotage: Callable[[int], None] | None = None,
        **environment: str,
    ):
        _wait_for_server()
        shared = {"ACCELERATE_USE_CPU": "true", **_meeting_place()}
        self.logs, self.processes = [], []
        for rank in ranks or range(world_size):
            given = _place(rank, world_size) if world_size > 1 else {}
            self.logs.append(log.with_name(f"{log.name}-{rank}.log"))
            arguments = (words, shared | given | environment, self.logs[-1], sabotage, rank)
            self.processes.append(SERVER.Process(target=_train, args=arguments))
        for process in self.processes:
            process.start()

    def pid(self, rank: int) -> int:
        pid = self.processes[rank].pid
        assert pid
        return pid

    def wait_for_step(self, folder: Path, step: int, timeout_s: float = 120) -> None:
        def reached() -> bool:
            if all(process.exitcode is not None for process in self.processes):
                raise AssertionError(f"ended before step {step}: {self.said()}")
            lines = metrics(folder)
            return bool(lines) and lines[-1]["step"] >= step

        wait_for(reached, timeout_s, f"step {step}")

    def codes(self, timeout_s: float = 120) -> list[int | None]:
        """Exit codes by rank: negative for a signal, None for one that still runs after ``timeout_s`` together."""
        deadline = time.monotonic() + timeout_s
        return [self.code(rank, max(0.0, deadline - time.monotonic())) for rank in range(len(self.processes))]

    def code(self, rank: int, timeout_s: float = 120) -> int | None:
        self.processes[rank].join(timeout_s)
        return self.processes[rank].exitcode

    def said(self, rank: int | None = None) -> str:
        logs = self.logs if rank is None else [self.logs[rank]]
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in logs if path.is_file())


@contextmanager
def job(*arguments: Any, **options: Any) -> Iterator[Job]:
    """A `Job` of which no process outlives the block."""
    started = Job(*arguments, **options)
    try:
        yield started
    finally:
        for process in started.processes:
            if process.exitcode is None:
                process.kill()
            process.join()


@contextmanager
def serving(
    work: Callable[..., None], *arguments: Any, world_size: int, log: Path, **environment: str
) -> Iterator[list[Connection]]:
    """Processes that each do ``work(connection, *arguments)`` as one rank; yields this side's ends. They outlive no block."""
    _wait_for_server()
    shared, processes, ends = _meeting_place() | environment, [], []
    for rank in range(world_size):
        here, there = SERVER.Pipe()
        given = shared | _place(rank, world_size)
        words = (work, there, arguments, given, log.with_name(f"{log.name}-{rank}.log"))
        processes.append(SERVER.Process(target=_serve, args=words))
        processes[-1].start()
        there.close()  # so that its end is noticed here
        ends.append(here)
    try:
        yield ends
    finally:
        for process in processes:
            process.kill()
            process.join()


def _meeting_place() -> dict[str, str]:
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}


def _place(rank: int, world_size: int) -> dict[str, str]:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    return {name: str(value) for name, value in place.items()}


def _serve(
    work: Callable[..., None],
    connection: Connection,
    arguments: tuple[Any, ...],
    environment: dict[str, str],
    log: Path,
) -> None:
    _become(environment, log)
    work(connection, *arguments)


def _become(environment: dict[str, str], log: Path) -> None:
    """A process of its own: its output, its environment."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(environment)
    os.chdir(ROOT)


def _train(
    words: tuple[str, ...], environment: dict[str, str], log: Path, sabotage: Callable[[int], None] | None, rank: int
) -> None:
    _become(environment, log)
    if sabotage is not None:
        sabotage(rank)
    entry.LAUNCHER_S = 0.5  # there is none
    sys.argv = ["train.py", *words]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
