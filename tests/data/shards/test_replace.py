"""A tar and its index change places with new ones: a kill at any point leaves the old pair or the new pair."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from janus_train.data.shards import replace as shard_swap
from janus_train.data.shards.index import next_index_path, read_head, read_listing
from janus_train.data.shards.replace import Busy, file_lock, finish_swap, relist, replace_shard
from janus_train.data.shards.scan import scan
from janus_train.data.shards.vq_codes import CodesOrigin
from janus_train.data.sources.shards import ShardSource
from tests.helpers import encoded, make_shard, plain_image

OPERATIONS = ("os.replace", "write_bytes", "write_heads", "sync")
"""What a swap does to the disk: a child process dies before the n-th of these."""


def in_a_child_that_dies(n: int, action: Callable[[], Any]) -> bool:
    """Run ``action`` in a fork that exits, as if killed, before its ``n``-th operation. Did it die?"""
    child = os.fork()
    if child == 0:
        left = [n]

        def kill_at(operation: Callable[..., Any]) -> Callable[..., Any]:
            def call(*words: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return operation(*words)

            return call

        try:
            shard_swap.os.replace = kill_at(os.replace)  # type: ignore[assignment]
            for name in OPERATIONS[1:]:
                setattr(shard_swap, name, kill_at(getattr(shard_swap, name)))
            action()
        except BaseException:
            os._exit(7)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def contents(tar: Path) -> list[tuple[str, int]]:
    source = ShardSource([tar])
    return [(source[i].key, sum(c is not None for c in source[i].codes)) for i in range(len(source))]


def test_a_swap_that_dies_at_any_point_leaves_a_whole_shard(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(4, np.uint16))
    old = {"a.json": {"caption": "x"}, "a.png": encoded(plain_image())}
    new = {".codes.json": CodesOrigin("f" * 64, 64).record(), **old, "a.codes.npy": buffer.getvalue()}
    again = {**new, "a.codes.npy": buffer.getvalue()[:-8] + b"\1\0\1\0\1\0\1\0"}
    states = []
    for n in range(30):
        folder = tmp_path / str(n)
        folder.mkdir()
        tar = make_shard(folder / "x.tar", old)  # type: ignore[arg-type]
        make_shard(folder / "y.tar", old)  # type: ignore[arg-type]
        shard_swap.write_listing(folder)
        make_shard(folder / ".x.tar.part", new, index=False)  # type: ignore[arg-type]
        index = scan(folder / ".x.tar.part").index
        died = in_a_child_that_dies(n, lambda: replace_shard(tar, folder / ".x.tar.part", index))  # noqa: B023
        states.append(contents(tar)[0][1])
        assert len(ShardSource([tar, folder / "y.tar"])) == 2
        finish_swap(tar)
        relist(folder)
        assert not next_index_path(tar).exists() and contents(tar)[0][1] == states[-1]
        assert read_listing(folder) == {t: read_head(folder / t) for t in ("x.tar", "y.tar")}
        assert bool(read_head(tar).codes) == bool(states[-1])
        if not died:
            break
    assert states[0] == 0 and states[-1] == 1 and states == sorted(states) and len(states) > 7
    for n in range(30):  # a tar of the same size: sizes alone cannot tell old from new
        folder = tmp_path / f"same{n}"
        folder.mkdir()
        tar = make_shard(folder / "x.tar", new)  # type: ignore[arg-type]
        staging = make_shard(folder / ".x.tar.part", again, index=False)  # type: ignore[arg-type]
        assert staging.stat().st_size == tar.stat().st_size
        index = scan(staging).index
        died = in_a_child_that_dies(n, lambda: replace_shard(tar, staging, index))  # noqa: B023
        codes = ShardSource([tar])[0].codes[0]
        assert codes is not None and codes.tolist() in ([0] * 4, [1] * 4)
        if not died:
            break
    assert codes.tolist() == [1] * 4


def test_a_lock_is_for_one(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with file_lock(path), pytest.raises(Busy), file_lock(path, wait=False):
        pass
    with file_lock(path, wait=False):
        assert path.exists()
    assert not path.exists()
