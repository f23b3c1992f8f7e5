"""Fifty clients at once, bad requests and such as hang up among them: all answers are right, and nothing grows or hangs."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from janus_train.infer.engine import Engine
from janus_train.infer.load import load_model
from tests.serve.serving import NAME, served, until

pytest.importorskip("httpx", reason="httpx is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
CLIENTS = 50
KINDS = {"chat", "stream", "look", "draw", "refused", "leave"}
GROWTH_BYTES = 64 << 20
"""Of a minute: what fragments of memory are kept, not what each of thousands of requests would leave."""


def test_fifty_clients_get_what_is_theirs(loaded):
    from tests.serve.load import Load

    load = Load(loaded, NAME)
    with Engine(loaded) as engine, served(engine) as address:
        asyncio.run(load.run(address, CLIENTS, seconds=4))
        until(lambda: not engine._running and not engine.num_waiting)
    assert load.counts.keys() >= KINDS, load.counts


@pytest.mark.slow
def test_a_minute_of_fifty_clients_leaves_no_memory_behind(random_base):
    from tests.serve.load import Load
    from tests.serve.test_server import command, ended

    load = Load(load_model(random_base), "tiny")
    with command(random_base, "--max-body", "1") as (process, address):
        server = psutil.Process(process.pid)
        asyncio.run(load.run(address, CLIENTS, seconds=20))
        before = server.memory_info().rss
        asyncio.run(load.run(address, CLIENTS, seconds=60))
        grown = server.memory_info().rss - before
        threads = server.num_threads()
        process.terminate()
        assert ended(process) == (143, "")
    print(load.counts, f"{grown / 2**20:.1f} MB more, {before / 2**20:.0f} MB before, {threads} threads")
    assert load.counts.keys() >= KINDS and load.counts.total() > 500, load.counts
    assert grown < GROWTH_BYTES and threads < 60
