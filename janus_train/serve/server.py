"""Runs the HTTP server until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from janus_train.errors import UserError
from janus_train.infer.engine import Engine

KEY_VARIABLE = "JANUS_TRAIN_API_KEY"
MAX_CONNECTIONS = 512
GRACE_S = 10
"""For what is being worked on when the server is asked to end."""


def key_of_environment() -> str | None:
    """The API key, or None. Raises `UserError` for one that cannot be sent."""
    key = os.environ.get(KEY_VARIABLE)
    if key is not None and (not key or not key.isascii() or not key.isprintable() or " " in key):
        problem = "has spaces or other characters that cannot be sent" if key else "is empty"
        raise UserError(f"{KEY_VARIABLE} {problem}: set it to letters, digits and signs, or unset it")
    return key


class Server(uvicorn.Server):
    """uvicorn's, which also tells the engine to accept nothing more."""

    def __init__(self, app: FastAPI, engine: Engine):
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=GRACE_S + 5,  # for connections that do not end with their requests
        )
        super().__init__(config)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.refuse()
        failing = asyncio.get_running_loop().call_later(GRACE_S, self._engine.fail_running)
        await super().shutdown(sockets)
        failing.cancel()


def run(app: FastAPI, engine: Engine, bound: socket.socket, line: str) -> None:
    """Serves ``app`` at the socket, which is closed in the end. Prints ``line`` when requests are taken.

    Ctrl-C ends it as in other commands (`KeyboardInterrupt`), SIGTERM with exit code 143.
    """
    signal.signal(signal.SIGTERM, _exit)
    bound.listen(2048)
    print(line, flush=True)
    Server(app, engine).run([bound])


def _exit(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
