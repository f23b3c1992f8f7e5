"""The cache of remote pieces: bounded, shared by processes, and never the reason that a run ends."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from janus_train.data.storage import disk_cache as block_cache
from janus_train.data.storage.disk_cache import BlockCache
from janus_train.errors import UserError


@pytest.fixture(autouse=True)
def _any_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_cache, "KEEP_FREE_BYTES", 0)


def pieces(folder: Path) -> list[Path]:
    return [path for path in folder.glob("??/*") if path.is_file()]


def bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in pieces(folder))


def fetches(data: bytes):  # type: ignore[no-untyped-def]
    """A fetch function, and how often it was called."""
    calls: list[int] = []

    def fetch() -> bytes:
        calls.append(1)
        return data

    return fetch, calls


def test_a_piece_is_fetched_once(tmp_path: Path) -> None:
    cache, (fetch, calls) = BlockCache(tmp_path / "c", 1000), fetches(b"0123456789")
    assert [cache.read("a", 2, 3, 10, fetch) for _ in range(3)] == [b"234"] * 3
    assert cache.read("a", 0, None, None, fetch) == b"0123456789" and len(calls) == 1
    assert BlockCache(tmp_path / "c", 1000).read("a", 9, 1, 10, fetch) == b"9" and len(calls) == 1
    cache.drop("a")
    cache.drop("never there")
    assert cache.read("a", 2, 3, 10, fetch) == b"234" and len(calls) == 2


def test_a_piece_that_is_not_whole_is_fetched_again(tmp_path: Path) -> None:
    cache, (fetch, calls) = BlockCache(tmp_path, 1000), fetches(b"0123456789")
    cache.read("a", 0, 10, 10, fetch)
    pieces(tmp_path)[0].write_bytes(b"012")
    assert cache.read("a", 0, 3, 10, fetch) == b"012" and len(calls) == 2


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 100)
    fetched_names: list[str] = []

    def read(name: str) -> None:
        cache.read(name, 0, 10, 10, lambda: fetched_names.append(name) or bytes(10))  # type: ignore[func-returns-value]

    for i in range(10):
        read(f"{i}")
        os.utime(cache._path(f"{i}"), (i, i))
    read("0")  # looked at: now the youngest
    read("new")
    assert bytes_on_disk(tmp_path) <= 100
    fetched_names.clear()
    read("0")
    read("new")
    assert fetched_names == []
    read("1")
    assert fetched_names == ["1"]


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 60), max_size=40))
def test_the_bound_holds_after_every_read(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    folder = tmp_path_factory.mktemp("c")
    cache = BlockCache(folder, 200)
    for number, size in enumerate(sizes):
        data = bytes([number % 256]) * size
        assert cache.read(f"{number % 17} {size}", 0, None, size, lambda data=data: data)[:0] == b""
        assert bytes_on_disk(folder) <= 200


def test_a_piece_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 5)
    assert cache.read("a", 1, 2, 10, lambda: b"0123456789") == b"12" and not pieces(tmp_path)


def test_unfinished_files_of_the_dead_are_removed(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 20)
    (tmp_path / "ab").mkdir()
    for name, age in (("old.part", 0), ("new.part", None)):
        (tmp_path / "ab" / name).write_bytes(b"x")
        if age is not None:
            os.utime(tmp_path / "ab" / name, (age, age))
    for i in range(5):
        cache.read(f"{i}", 0, None, None, lambda: bytes(10))
    assert [path.name for path in tmp_path.glob("??/*.part")] == ["new.part"]


def test_a_lost_count_is_counted_anew(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 100)
    for i in range(8):
        cache.read(f"{i}", 0, None, None, lambda: bytes(10))
    (tmp_path / "bytes").write_text("no number")
    cache.read("8", 0, None, None, lambda: bytes(10))
    assert (tmp_path / "bytes").read_text() == "90" and bytes_on_disk(tmp_path) == 90


@pytest.mark.parametrize("why", ["a file in its place", "a full disk"])
def test_a_cache_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if why == "a full disk":
        monkeypatch.setattr(block_cache, "KEEP_FREE_BYTES", 1 << 60)
    else:
        (tmp_path / "c").write_text("in the way")
    cache = BlockCache(tmp_path / "c", 100)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cache.read("a", 1, 2, 4, lambda: b"abcd") == b"bc"
    assert len(caplog.records) == 1 and "reading continues without it" in caplog.text


WORKER = """
import sys
from pathlib import Path
from janus_train.data.storage import disk_cache as block_cache
block_cache.KEEP_FREE_BYTES = 0
cache = block_cache.BlockCache(Path(sys.argv[1]), 50_000)
for round in range(150):
    number = (round * 37 + int(sys.argv[2])) % 80
    data = cache.read(f"{number}", 0, 1000, 1000, lambda: bytes([number]) * 1000)
    assert data == bytes([number]) * 1000
"""


def test_processes_share_it_and_its_bound(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, tmp_path, str(n)]) for n in range(2)]
    max_bytes = 0
    while any(worker.poll() is None for worker in workers):
        with contextlib.suppress(FileNotFoundError):  # it went while we looked
            max_bytes = max(max_bytes, bytes_on_disk(tmp_path))
    assert [worker.returncode for worker in workers] == [0, 0]
    assert bytes_on_disk(tmp_path) <= 50_000 and max_bytes <= 50_000 + 2 * 2 * 1000  # a piece that each one writes


def test_the_environment_says_where_and_how_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JANUS_CACHE_DIR", str(tmp_path / "c"))
    monkeypatch.delenv("JANUS_CACHE_GIB", raising=False)
    cache = block_cache.block_cache()
    assert cache is not None and (cache.folder, cache.limit) == (tmp_path / "c", 10 << 30)
    monkeypatch.setenv("JANUS_CACHE_GIB", "0.5")
    cache = block_cache.block_cache()
    assert cache is not None and cache.limit == 1 << 29
    monkeypatch.setenv("JANUS_CACHE_GIB", "0")
    assert block_cache.block_cache() is None
    for size in ("much", "-1", "inf", "nan", "0.001"):
        monkeypatch.setenv("JANUS_CACHE_GIB", size)
        with pytest.raises(UserError, match=f"JANUS_CACHE_GIB={size}"):
            block_cache.block_cache()
    monkeypatch.setenv("JANUS_CACHE_GIB", "1")
    monkeypatch.delenv("JANUS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    block_cache._block_cache.cache_clear()
    cache = block_cache.block_cache()
    assert cache is not None and cache.folder == tmp_path / "x/janus_train"
