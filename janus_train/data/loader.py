"""From a run's configuration to the rows of each step of one process.

    config + recipe + tokenizer  -->  RowLoader  -->  rows of a step  -->  micro-batches

Rank r of W owns streams ``r*R/W .. (r+1)*R/W - 1``; W is an argument, never read from the environment. The rows are read in
this process or by worker processes. Each worker owns a contiguous block of the rank's streams, so the rows of a step are
the same, in the same order, for any number of workers.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from janus_train import lifetime
from janus_train.config import Config
from janus_train.data.batch import Batch, collate
from janus_train.data.encode import Encoder
from janus_train.data.micro_batches import MicroBatches
from janus_train.data.packing.best_fit import BestFitPacker, Packer
from janus_train.data.packing.one_per_row import OnePerRowPacker
from janus_train.data.recipe import Recipe
from janus_train.data.streams import DocumentSampler, Stream
from janus_train.data.types import Row
from janus_train.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def open_recipe(config: Config) -> Recipe:
    """Open the configured mixture and its sources. Raises `UserError` naming what is missing or damaged."""
    if config.data.recipe is None:
        raise UserError(
            "data.recipe: no recipe is given: name a mixture's YAML file, or data=demo for the embedded images"
        )
    return Recipe(config.data.recipe, config.ratio, config.model.image_size)


def make_encoder(config: Config, tokenizer: PreTrainedTokenizerFast) -> Encoder:
    """Make the encoder that turns the run's samples into documents."""
    model = config.model
    return Encoder(
        tokenizer,
        model.tokens_per_image,
        model.image_size,
        model.system_prompt,
        reduced_jpeg=config.data.jpeg == "reduced",
        generation_image_size=model.generation_image_size,
    )


def open_mixture(config: Config, recipe: Recipe, encoder: Encoder) -> tuple[DocumentSampler, Packer]:
    """The sampler and the packer that `RowLoader` and `streams.Stream` need."""
    sampler = DocumentSampler(
        recipe,
        encoder,
        seed=config.seed,
        num_streams=config.batch.rows_per_step,
        row_tokens=config.batch.row_tokens,
        guidance_dropout=config.data.guidance_dropout,
        first_sentence=config.data.first_sentence,
        editing_dropout=config.data.editing_dropout,
    )
    if config.batch.unit == "samples":
        ratio = {kind: getattr(config.ratio, kind) for kind in recipe.shares}
        return sampler, OnePerRowPacker(config.batch.row_tokens, ratio, config.batch.rows_per_step)
    packer = BestFitPacker(
        config.batch.row_tokens,
        recipe.shares,
        config.data.lookahead,
        unit=config.ratio.unit,
        cut=config.data.cut_text,
        max_wait=config.data.max_wait,
    )
    return sampler, packer


def split(items: int, parts: int, part: int) -> range:
    """The ``part``-th of ``parts`` contiguous blocks of ``range(items)``, whose sizes are as equal as possible."""
    return range(items * part // parts, items * (part + 1) // parts)


def streams_of(rank: int, world_size: int, rows_per_step: int) -> range:
    """The streams that ``rank`` owns. Raises `UserError` with the possible world sizes."""
    if rows_per_step % world_size:
        world_sizes = ", ".join(str(size) for size in range(1, rows_per_step + 1) if rows_per_step % size == 0)
        raise UserError(
            f"batch.rows_per_step {rows_per_step} cannot be shared by {world_size} processes: use {world_sizes}"
        )
    return split(rows_per_step, world_size, rank)


class _StepRows(IterableDataset[list[Row] | UserError]):
    """Yields the rows of one worker's streams, step by step. A `UserError` is yielded too, so that no traceback shows it."""

    def __init__(self, sampler: DocumentSampler, packer: Packer, streams: range, states: dict[int, dict[str, Any]]):
        self._sampler, self._packer, self._streams, self._states = sampler, packer, streams, states

    def __iter__(self) -> Iterator[list[Row] | UserError]:
        worker = get_worker_info()
        parts, part = (worker.num_workers, worker.id) if worker else (1, 0)
        worker_streams = [self._streams[i] for i in split(len(self._streams), parts, part)]
        try:
            streams = [
                Stream(number, self._sampler, self._packer, self._states.get(number)) for number in worker_streams
            ]
            while True:
                yield [next(stream) for stream in streams]
        except UserError as error:
            yield error


def _ignore_scheduler_signals(trainer: int, signals_its_death: bool, worker: int) -> None:
    """Initialise a worker process that ends with its trainer (pid ``trainer``) and ignores the scheduler's signals.

    A scheduler signals all processes of a job, and a worker that dies makes its trainer fail. So SIGTERM ends a worker
    only if its trainer sent it. A signal handler could not find out who did.
    """
    lifetime.end_with(trainer, signals_its_death)
    lifetime.let_go_of_sockets()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait_for_the_end() -> None:
        while True:
            signal_info = signal.sigtimedwait({signal.SIGTERM}, lifetime.LOOK_EVERY_S)
            if signal_info and signal_info.si_pid == trainer:
                os._exit(0)
            lifetime.end_if_orphan(trainer)

    threading.Thread(target=wait_for_the_end, daemon=True).start()


@contextmanager
def worker_deaths_as_user_errors() -> Iterator[None]:
    """Inside, torch's way to say that a worker process is gone becomes a `UserError` of one line.

    A signal handler of torch's raises it wherever the process happens to be, not only where it waits for a row.
    """
    try:
        yield
    except RuntimeError as error:
        match = re.search(
            r"DataLoader worker \(pid(?:\(s\))? ([0-9, ]+)\)(?: is killed by signal: ([\w ]+))?", str(error)
        )
        if match is None:
            raise
        why = _WHY_KILLED.get(match[2], f"it crashed ({match[2]}); data.num_workers=0 shows where")
        raise UserError(f"a data worker (pid {match[1]}) on {socket.gethostname()} is gone: {why}") from None


_OUT_OF_MEMORY = (
    "most likely it was killed because the memory ran out: start the same command again with a smaller data.num_workers, "
    "or with more memory for the job"
)
_WHY_KILLED = {
    None: _OUT_OF_MEMORY,
    "Killed": _OUT_OF_MEMORY,
    "Terminated": _OUT_OF_MEMORY,
    "Bus error": "the shared memory ran out: give the job a larger /dev/shm, or a smaller data.num_workers",
}


class RowLoader:
    """An endless iterator over the rows of each step, in the order of the streams that one process owns.

    ``states``: where each stream resumes, if not at its start. ``fixed_shapes``: all micro-batches have the shape of full
    rows, as compiled code requires. Raises `UserError` for data that cannot be read.
    """

    def __init__(
        self,
        sampler: DocumentSampler,
        packer: Packer,
        streams: range,
        states: dict[int, dict[str, Any]] | None = None,
        num_workers: int = 0,
        *,
        micro_rows: int = 1,
        fixed_shapes: bool = False,
    ):
        self.encoder, self._micro_rows = sampler.encoder, micro_rows
        self._fixed_tokens = packer.row_tokens if fixed_shapes else None
        self._items_per_step = min(num_workers, len(streams)) or 1
        self._next_rows: list[Row] | None = None
        self._collator: ThreadPoolExecutor | None = None  # its thread starts after the workers were forked
        # batch_size=None passes items on unchanged; the loader takes them from its workers in turn
        self._items = iter(
            DataLoader(
                _StepRows(sampler, packer, streams, states or {}),
                batch_size=None,
                num_workers=min(num_workers, len(streams)),
                prefetch_factor=2 if num_workers else None,
                multiprocessing_context="fork" if num_workers else None,  # why: janus_train/lifetime.py
                worker_init_fn=partial(_ignore_scheduler_signals, os.getpid(), lifetime.can_signal_its_death()),
            )
        )

    @classmethod
    def open(
        cls,
        config: Config,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerFast,
        rank: int = 0,
        world_size: int = 1,
        states: dict[int, dict[str, Any]] | None = None,
        *,
        fixed_shapes: bool = False,
    ) -> RowLoader:
        """Open the rows of a run for ``rank`` of ``world_size`` processes."""
        sampler, packer = open_mixture(config, recipe, make_encoder(config, tokenizer))
        streams = streams_of(rank, world_size, config.batch.rows_per_step)
        return cls(
            sampler,
            packer,
            streams,
            states,
            config.data.num_workers,
            micro_rows=config.batch.micro_rows,
            fixed_shapes=fixed_shapes,
        )

    def __iter__(self) -> Iterator[list[Row]]:
        return self

    def __next__(self) -> list[Row]:
        rows, self._next_rows = self._next_rows, None
        if rows is not None:
            return rows
        rows = []
        for _ in range(self._items_per_step):
            item = next(self._items)
            if isinstance(item, UserError):
                raise item
            rows += item
        return rows

    def peek(self) -> list[Row]:
        """The rows of the next step; the iterator still yields them afterwards."""
        if self._next_rows is None:
            self._next_rows = next(self)
        return self._next_rows

    def micro_batches(self, rows: Sequence[Row], pin: bool = False) -> MicroBatches:
        """A step's rows as micro-batches, in order, made by a thread; ``pin``: in pinned memory, for a GPU."""
        if self._collator is None:
            self._collator = ThreadPoolExecutor(1, thread_name_prefix="collate")
        encoder = self.encoder
        shape = encoder.tokens_per_image, encoder.image_size, encoder.generation_image_size, self._fixed_tokens

        def make(rows: Sequence[Row]) -> Batch:
            batch = collate(rows, *shape)
            return batch.pin() if pin else batch

        return MicroBatches(rows, self._micro_rows, make, self._collator)
