"""Reads the bodies of requests within limits of bytes, time and memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.datastructures import FormData

from janus_train.serve.errors import ApiError

MAX_BODY_MB = 32
"""Default: some photos, which are a third longer as text."""
BODIES_AT_ONCE = 8
"""So many of the longest bodies are held in memory at a time, and as many bytes of shorter ones."""
READ_S = 60
"""A body has to be here after this time."""


class Bodies:
    """Those that are being read and decoded at the moment."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._bytes_left = BODIES_AT_ONCE * max_bytes

    @asynccontextmanager
    async def room_for(self, request: Request, media_type: str) -> AsyncIterator[None]:
        """Reserves memory for the body while the block runs.

        Raises:
            ApiError: the body is of another type, too long, or of unknown length, or too many are being read.
        """
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if given != media_type:  # also keeps out forms of other sites' pages, which cannot send JSON
            raise ApiError(415, f"the body must be {media_type}")
        length = request.headers.get("content-length", "")
        if not length.isdecimal():  # what follows is as long as it says: the server sees to that
            raise ApiError(411, "a request must say how long its body is (Content-Length)")
        if int(length) > self.max_bytes:
            # without closing the connection, which clients would see in place of the answer: what comes is dropped
            raise ApiError(413, f"the body has more than {self.max_bytes >> 20} MB")
        if int(length) > self._bytes_left:
            message = "too many bodies are being read at the moment: try again later"
            raise ApiError(429, message, code="queue_full", headers={"Retry-After": "1"})
        self._bytes_left -= int(length)
        try:
            yield
        finally:
            self._bytes_left += int(length)


async def read_body(request: Request) -> bytes:
    """Raises `ApiError` if the body does not come in time."""
    # not request.body(), which would keep it as long as the request
    try:
        async with asyncio.timeout(READ_S):
            return b"".join([chunk async for chunk in request.stream()])
    except TimeoutError:
        raise _too_slow() from None


async def read_form(request: Request, max_files: int, max_fields: int, max_field_bytes: int) -> FormData:
    """Raises `ApiError` if the form does not come in time. The caller closes it."""
    try:
        async with asyncio.timeout(READ_S):
            return await request.form(max_files=max_files, max_fields=max_fields, max_part_size=max_field_bytes)
    except TimeoutError:
        raise _too_slow() from None


def _too_slow() -> ApiError:
    return ApiError(408, f"the body was not complete after {READ_S} s", headers={"Connection": "close"})
