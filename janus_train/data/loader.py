"""Steps of rows for one process: its block of the V streams, read in this process or by worker processes.

Rank r of W owns streams ``r*V/W .. (r+1)*V/W - 1``; W is an argument, never read from the environment. Workers own
contiguous blocks of the rank's streams, so the rows of a step are the same, in the same order, for any number of them.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from janus_train.data.packer import Packer
from janus_train.data.sample import Row
from janus_train.data.streams import Drawer, Stream
from janus_train.errors import UserError


def split(items: int, parts: int, part: int) -> range:
    """The ``part``-th of ``parts`` contiguous blocks of ``range(items)``, sizes as equal as can be."""
    return range(items * part // parts, items * (part + 1) // parts)


def streams_of(rank: int, world_size: int, rows_per_step: int) -> range:
    """The streams that ``rank`` owns. Raises `UserError` with the world sizes that would do."""
    if rows_per_step % world_size:
        fitting = ", ".join(str(w) for w in range(1, rows_per_step + 1) if rows_per_step % w == 0)
        raise UserError(
            f"batch.rows_per_step {rows_per_step} cannot be shared by {world_size} processes: use {fitting}"
        )
    return split(rows_per_step, world_size, rank)


class _Rows(IterableDataset[list[Row] | UserError]):
    """Each item is one step's rows of one worker's streams; a user's mistake travels as an item, not as a traceback."""

    def __init__(self, drawer: Drawer, packer: Packer, streams: range, states: dict[int, dict[str, Any]]):
        self._drawer, self._packer, self._streams, self._states = drawer, packer, streams, states

    def __iter__(self) -> Iterator[list[Row] | UserError]:
        worker = get_worker_info()
        parts, part = (worker.num_workers, worker.id) if worker else (1, 0)
        mine = [self._streams[i] for i in split(len(self._streams), parts, part)]
        try:
            streams = [Stream(v, self._drawer, self._packer, self._states.get(v)) for v in mine]
            while True:
                yield [next(stream) for stream in streams]
        except UserError as error:
            yield error


def _obey_the_trainer_alone(worker: int) -> None:
    """For worker processes: a scheduler signals all processes of a job, and a worker that dies takes its trainer along.

    SIGTERM ends a worker if it comes from its trainer, as it does at the trainer's end; a handler could not tell.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait_for_the_end() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


def steps(
    drawer: Drawer,
    packer: Packer,
    streams: range,
    states: dict[int, dict[str, Any]],
    num_workers: int,
) -> Iterator[list[Row]]:
    """Endless: the rows of each step, in the order of the streams. ``states``: where each stream goes on, if not at 0."""
    parts = min(num_workers, len(streams))
    dataset = _Rows(drawer, packer, streams, states)
    # batch_size=None hands items on as they are; the loader takes them from its workers in turn, so `parts` are a step
    items = iter(
        DataLoader(
            dataset,
            batch_size=None,
            num_workers=parts,
            prefetch_factor=2 if parts else None,
            worker_init_fn=_obey_the_trainer_alone,
        )
    )
    while True:
        rows: list[Row] = []
        for _ in range(max(1, parts)):
            item = next(items)
            if isinstance(item, UserError):
                raise item
            rows += item
        yield rows
