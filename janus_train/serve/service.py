"""Between the routes and the engine: a request's rows are prepared in a few threads, and their events come to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

import anyio
import fastapi

from janus_train.data.special_tokens import SPECIAL_TOKENS
from janus_train.infer.engine import Engine
from janus_train.infer.rows import Event, Failed, Piece, Request, Row
from janus_train.serve.bodies import Bodies
from janus_train.serve.errors import CLIENT_GONE, ApiError, as_api_error

T = TypeVar("T")
PREPARED_AT_ONCE = 2
"""A large image takes some hundred megabytes until it is fitted to the model."""


class Service:
    """What the routes share."""

    def __init__(self, engine: Engine, name: str, max_body_bytes: int):
        self.engine, self.name = engine, name
        self.bodies = Bodies(max_body_bytes)
        self._limiter = anyio.CapacityLimiter(PREPARED_AT_ONCE)

    async def in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Calls ``function`` in one of a few threads."""
        return await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)

    def check_model(self, model: str) -> None:
        if model != self.name:
            message = f"there is no model {model[:100]!r}: this server has {self.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def submit(self, rows: Sequence[Row]) -> Rows:
        """Raises `BusyError` and `ClosedError`."""
        return Rows(self.engine, rows)


class Rows:
    """The rows of one request in the engine."""

    def __init__(self, engine: Engine, rows: Sequence[Row]):
        loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._num_left = len(rows)

        def put(number: int, event: Event) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, (number, event))

        self._request: Request = engine.submit(rows, put)

    def cancel(self) -> None:
        """To be called in the end, however it ends."""
        self._request.cancel()

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """The rows' numbers and events until all rows are complete. Raises `ApiError` if one fails."""
        while self._num_left:
            number, event = await self._events.get()
            if isinstance(event, Failed):
                raise as_api_error(event.error)
            self._num_left -= not isinstance(event, Piece)
            yield number, event

    async def all_events(self, request: fastapi.Request) -> list[tuple[int, Event]]:
        """All events at once. Raises as `events`, and when the client is gone."""
        try:
            collecting = asyncio.ensure_future(_collect(self.events()))
            watching = asyncio.ensure_future(_gone(request))
            try:
                await asyncio.wait({collecting, watching}, return_when=asyncio.FIRST_COMPLETED)
                if not collecting.done():
                    raise ApiError(CLIENT_GONE, "the client is gone")
                return collecting.result()
            finally:
                collecting.cancel()
                watching.cancel()
        finally:
            self.cancel()


async def _collect(events: AsyncIterator[tuple[int, Event]]) -> list[tuple[int, Event]]:
    return [event async for event in events]


async def _gone(request: fastapi.Request) -> None:
    """Returns when the client has closed its connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def check_text(text: str, param: str) -> None:
    """Raises `ApiError` for a text with a special token, which could open a turn or stand for an image."""
    for token in SPECIAL_TOKENS:
        if token in text:
            raise ApiError(400, f"the text contains the special token {token}", param=param, code="special_token")
