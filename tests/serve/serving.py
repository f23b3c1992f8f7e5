"""A server in a thread of the test's process, over the tiny random model."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from janus_train.infer.engine import Engine

NAME = "my/model"


@contextmanager
def served(engine: Engine, *, api_key: str | None = None, max_body_bytes: int = 1 << 20) -> Iterator[str]:
    """The address of a server over ``engine``, which runs until the block's end."""
    from janus_train.infer.address import bind
    from janus_train.serve.app import create_app
    from janus_train.serve.server import Server

    app = create_app(engine, NAME, api_key=api_key, max_body_bytes=max_body_bytes)
    with bind("127.0.0.1", 0) as bound:
        bound.listen(128)
        server = Server(app, engine)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        try:
            until(lambda: server.started)
            yield address
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def until(condition: Any, seconds: float = 60) -> None:
    """Waits for it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]
