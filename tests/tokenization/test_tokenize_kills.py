"""A kill at any point leaves shards that training can read, and the same command goes on; processes share the work."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from janus_train.config import ROOT
from janus_train.data import shard_swap
from janus_train.data.cached_codes import CodesOrigin
from janus_train.data.shard_index import index_path, next_index_path, read_head, read_listing
from janus_train.data.shard_scan import scan
from janus_train.data.shard_swap import Busy, finish_swap, locked, relist, replace_shard
from janus_train.data.shards import ShardSource
from tests.helpers import make_shard
from tests.tokenization.conftest import Run, noise

OPERATIONS = ("os.replace", "write_bytes", "write_heads", "sync")
"""What a swap does to the disk: a child process dies before the n-th of these."""


def in_a_child_that_dies(n: int, action: Callable[[], Any]) -> bool:
    """Run ``action`` in a fork that exits, as if killed, before its ``n``-th operation. Did it die?"""
    child = os.fork()
    if child == 0:
        left = [n]

        def dying(operation: Callable[..., Any]) -> Callable[..., Any]:
            def call(*words: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return operation(*words)

            return call

        try:
            shard_swap.os.replace = dying(os.replace)  # type: ignore[assignment]
            for name in OPERATIONS[1:]:
                setattr(shard_swap, name, dying(getattr(shard_swap, name)))
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
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.zeros(4, np.uint16))
    old = {"a.json": {"caption": "x"}, "a.png": noise(1)}
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
    with locked(path), pytest.raises(Busy), locked(path, wait=False):
        pass
    with locked(path, wait=False):
        assert path.exists()
    assert not path.exists()


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "janus_train.cli", "tokenize", *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def digests(shards: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for tar in shards for path in (tar, index_path(tar))]


def test_kill_9_in_the_middle_then_the_same_command_goes_on(run: Run, shards: list[Path], random_base: Path) -> None:
    copy = shutil.copytree(shards[0].parent, shards[0].parent.with_name("copy"))
    victim = start(shards[0].parent, "--model", random_base)
    assert victim.stderr and victim.stdout
    for line in victim.stderr:
        if "s-0.tar: 6 pictures" in line:
            victim.kill()
            break
    assert victim.wait(timeout=60) == -9
    victim.stdout.close()
    victim.stderr.close()
    source = ShardSource(shards)
    assert all(source[i].pictures or source[i].fields for i in range(len(source)))
    assert read_head(shards[0]).codes and not read_head(shards[2]).codes
    code, printed, said = run("tokenize", shards[0].parent, "--model", random_base)
    assert code == 0 and "had nothing to do" in printed, said
    assert all(read_head(tar).codes for tar in shards)
    assert not list(shards[0].parent.glob(".*")), "nothing is left over"
    run("tokenize", copy, "--model", random_base)
    assert digests(shards) == digests([copy / tar.name for tar in shards]), "as if never killed"


@pytest.mark.parametrize("share", [("0", "1"), ("0", "0")], ids=["shares", "the same tars"])
def test_two_processes_at_once(shards: list[Path], random_base: Path, share: tuple[str, str]) -> None:
    number = "2" if share == ("0", "1") else "1"
    words = [shards[0].parent, "--model", random_base, "--num-processes", number, "--process-index"]
    both = [start(*words, index) for index in share]
    told = [one.communicate(timeout=240) for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    assert all(read_head(tar).codes for tar in shards)
    source = ShardSource(shards)
    assert sum(c is not None for i in range(len(source)) for c in source[i].codes) == 14
    assert read_listing(shards[0].parent) == {tar.name: read_head(tar) for tar in shards}
    assert not list(shards[0].parent.glob(".*"))
