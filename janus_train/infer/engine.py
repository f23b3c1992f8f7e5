"""One model for many who ask: a thread owns it, and works off what waits together as one batch.

    submit(rows) -> queue -> batch of rows that fit together -> events of each row, as they come

The row that has waited longest decides what the next batch is, answers or images of one guidance and temperature; the rows
behind it that fit join in. Rows that come while a batch runs wait for its end.
"""

from __future__ import annotations

import gc
import logging
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

import torch
from PIL import Image

from janus_train.errors import UserError
from janus_train.infer.batches import run_batch
from janus_train.infer.chat import Messages
from janus_train.infer.load import LoadedModel
from janus_train.infer.rows import (
    Drawn,
    Event,
    Failed,
    Piece,
    Put,
    QueuedRow,
    Request,
    Row,
    chat_row,
    fitted,
    image_row,
)

logger = logging.getLogger(__name__)

BATCH_SIZE, MAX_WAITING, TIME_LIMIT_S = 16, 64, 300
"""Defaults: rows of a batch, rows that wait, and seconds for a request from when its turn comes."""
TOKENS_PER_ROW = 2048
"""A batch takes fewer rows if they are longer than this on average, padding included: their cache takes memory."""
GATHER_S = 0.01
"""How long an engine without work waits for company of the first row that comes."""
DEFECT = "the model failed at this request: the log says why"


class BusyError(UserError):
    """Too many rows wait. ``retry_after_s``: when it may be worth while to ask again."""

    def __init__(self, retry_after_s: int):
        self.retry_after_s = retry_after_s
        super().__init__("too many requests wait at the moment: try again later")


class ClosedError(UserError):
    """The engine is being closed."""

    def __init__(self) -> None:
        super().__init__("the model is being shut down")


class Engine:
    """Answers and draws for many at once. A context manager: outside of its block nothing is accepted."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        batch_size: int = BATCH_SIZE,
        max_waiting: int = MAX_WAITING,
        time_limit_s: float = TIME_LIMIT_S,
    ):
        self.loaded = loaded
        self.batch_size, self.max_waiting, self.time_limit_s = batch_size, max_waiting, time_limit_s
        self._waiting: list[QueuedRow] = []
        self._running: list[QueuedRow] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._batch_s = 1.0
        self._thread = threading.Thread(target=self._work, name="janus-engine", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.refuse()
        self.fail_running()
        self._thread.join()

    @property
    def guidance(self) -> float:
        return self.loaded.guidance

    @property
    def temperature(self) -> float:
        return self.loaded.temperature

    def fit(self, image: Image.Image) -> Image.Image:
        """``image`` as small as the model sees it (`rows.fitted`)."""
        return fitted(self.loaded.encoder, image)

    @property
    def is_alive(self) -> bool:
        """Whether rows are worked on."""
        return self._thread.is_alive() and not self._is_closed

    @property
    def num_waiting(self) -> int:
        """The number of rows that wait for their turn."""
        with self._changed:
            return sum(not queued.is_over for queued in self._waiting)

    def refuse(self) -> None:
        """Fails what waits and whatever comes from now on; the batch that is being worked on continues."""
        with self._changed:
            self._is_closed = True
            waiting, self._waiting = self._waiting, []
            self._changed.notify_all()
        for queued in waiting:
            queued.emit(Failed(ClosedError()))

    def fail_running(self) -> None:
        """Fails the rows that are being worked on: their batch ends at its next step."""
        with self._changed:
            running = list(self._running)
        for queued in running:
            queued.emit(Failed(ClosedError()))

    def submit(self, rows: Sequence[Row], put: Put) -> Request:
        """Queues the rows, all or none; ``put`` gets their events in the engine's thread, and must not wait.

        Raises:
            BusyError: too many rows wait.
            ClosedError: the engine is being closed.
        """
        request = Request(rows, put, self.time_limit_s)
        with self._changed:
            if self._is_closed:
                raise ClosedError
            self._waiting = [queued for queued in self._waiting if not queued.is_over]
            if len(self._waiting) + len(rows) > self.max_waiting:
                raise BusyError(min(60, 1 + int(self._batch_s)))
            self._waiting += request.queued
            self._changed.notify_all()
        return request

    # -- for callers that may wait

    def chat(self, messages: Messages, images: Sequence[Image.Image], max_new_tokens: int) -> Iterator[str]:
        """`LoadedModel.chat` by way of the queue. Raises `UserError`, also `BusyError` and when the time is over."""
        for _, event in self._events([chat_row(self.loaded, messages, images, max_new_tokens)]):
            if isinstance(event, Piece):
                yield event.text

    def generate(
        self, prompts: Sequence[str], *, seeds: Sequence[int], guidance: float, temperature: float
    ) -> list[Image.Image]:
        """`LoadedModel.generate` by way of the queue. Raises as `chat` does."""
        rows = [
            image_row(self.loaded, prompt, seed=seed, guidance=guidance, temperature=temperature)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        images = {number: event.image for number, event in self._events(rows) if isinstance(event, Drawn)}
        return [images[number] for number in range(len(rows))]

    def _events(self, rows: Sequence[Row]) -> Iterator[tuple[int, Event]]:
        """The events of the rows until all of them are complete. Raises the error of one that fails."""
        events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        request = self.submit(rows, lambda number, event: events.put((number, event)))
        num_left = len(rows)
        try:
            while num_left:
                number, event = events.get()
                if isinstance(event, Failed):
                    raise event.error if isinstance(event.error, UserError) else UserError(DEFECT)
                num_left -= not isinstance(event, Piece)
                yield number, event
        finally:
            request.cancel()

    # -- the engine's thread

    def _work(self) -> None:
        while batch := self._next_batch():
            since = time.monotonic()
            self._run(batch)
            self._batch_s = time.monotonic() - since
            with self._changed:
                self._running = []
            del batch  # its images would stay until the next one

    def _next_batch(self) -> list[QueuedRow]:
        """The rows to work on next; none once the engine is closed."""
        with self._changed:
            while not self._is_closed:
                self._waiting = [queued for queued in self._waiting if not queued.is_over]
                if self._waiting:
                    self._changed.wait_for(lambda: self._is_closed or len(self._waiting) >= self.batch_size, GATHER_S)
                    batch = choose_batch(self._waiting, self.batch_size)
                    self._waiting = [queued for queued in self._waiting if queued not in batch]
                    if batch:
                        self._running = batch
                        return batch
                else:
                    self._changed.wait()
        return []

    def _run(self, batch: list[QueuedRow]) -> None:
        """Works a batch off. If that fails, its rows are tried one by one, so that one does not fail the others."""
        try:
            run_batch(self.loaded, batch)
        except Exception as error:
            left = [queued for queued in batch if not queued.is_over]
            if len(batch) == 1 or self._is_closed:
                if not isinstance(error, UserError):
                    logger.exception("a request failed")
                for queued in left:
                    queued.emit(Failed(error))
                return
            problem = error
        else:
            return
        logger.warning(f"a batch of {len(batch)} failed ({type(problem).__name__}): its rows are tried one by one")
        del problem  # with its traceback go the batch's tensors
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        for queued in left:
            if queued.has_text:  # it would begin again
                queued.emit(Failed(RuntimeError("the batch failed")))
            elif not queued.is_over:
                self._run([queued])


def choose_batch(waiting: Sequence[QueuedRow], batch_size: int) -> list[QueuedRow]:
    """The first of the rows that are not over, and those behind it that can be worked on with it, up to ``batch_size``."""
    batch: list[QueuedRow] = []
    longest = 0
    for queued in waiting:
        if queued.is_over or (batch and queued.row.batch_key != batch[0].row.batch_key):
            continue
        if batch and max(longest, queued.row.num_tokens) * (len(batch) + 1) > batch_size * TOKENS_PER_ROW:
            continue
        longest = max(longest, queued.row.num_tokens)
        batch.append(queued)
        if len(batch) == batch_size:
            break
    return batch
