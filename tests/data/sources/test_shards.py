from __future__ import annotations

import io
import pickle
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from janus_train.data.shards.index import Head, index_path, write_heads, write_listing
from janus_train.data.shuffle import Order
from janus_train.data.sources import shards
from janus_train.data.sources.shards import ShardSource, find_tars
from janus_train.data.storage import remote as storage
from janus_train.data.types import BadSample
from janus_train.errors import UserError
from tests.helpers import encoded, make_shard, plain_image


def codes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(64, dtype=np.uint16))
    return buffer.getvalue()


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    members = {
        "a.json": {"caption": "红苹果"},
        "a.png": encoded(plain_image()),
        "a.codes.npy": codes(),
        "b.c.json": {"caption": "two"},
        "b.c.1.jpg": encoded(plain_image((0, 0, 255)), "JPEG"),
        "b.c.0.jpg": encoded(plain_image((0, 255, 0)), "JPEG"),
        "t.json": {"text": "words"},
    }
    return make_shard(tmp_path / "x.tar", members)


# ------------------------------------------------------------------------------------------------------------- reading


def test_records_come_back_as_they_were_written(tar: Path) -> None:
    source = ShardSource([tar])
    a, b, t = (source[i] for i in range(len(source)))
    assert (a.key, b.key, t.key) == ("a", "b.c", "t")
    assert a.fields == {"caption": "红苹果"}
    assert a.images[0].size == (80, 60)
    assert a.codes[0] is not None and a.codes[0].tolist() == list(range(64))
    assert [p.convert("RGB").getpixel((5, 5))[1] > 200 for p in b.images] == [True, False]  # .0 before .1
    assert b.codes == [None, None]
    assert t.images == []
    assert list(source.codes_origins.values()) == [tar]


@pytest.mark.parametrize("gap", [10, 1 << 18])
def test_members_that_lie_apart_are_read_too(tmp_path: Path, gap: int) -> None:
    tar = make_shard(tmp_path / "x.tar", {"a.json": {"n": 1}, "z.bin": b"x" * gap, "a.png": encoded(plain_image())})
    record = ShardSource([tar])[0]
    assert record.fields == {"n": 1} and record.images[0].size == (80, 60)


def test_several_shards_are_one_sequence(tmp_path: Path, tar: Path) -> None:
    other = make_shard(tmp_path / "y.tar", {"z.json": {"text": "z"}})
    source = ShardSource([tar, other])
    assert len(source) == 4 and source[3].key == "z" and source.shard_sizes == [3, 1]
    assert [record.key for record in source] == ["a", "b.c", "t", "z"]
    for index in (-1, 4):
        with pytest.raises(IndexError):
            source[index]


def test_few_shards_stay_open(tmp_path: Path) -> None:
    tars = [make_shard(tmp_path / f"{i:02d}.tar", {f"{i}.json": {"n": i}}) for i in range(2 * shards.OPEN_SHARDS)]
    source = ShardSource(tars)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert [source[i].fields["n"] for i in [*range(len(tars)), 0, 1]] == [*range(len(tars)), 0, 1]
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= shards.OPEN_SHARDS
    assert source._index.cache_info().currsize == shards.OPEN_SHARDS


def test_a_source_travels_to_other_processes(tar: Path) -> None:
    source = ShardSource([tar])
    source[0]
    assert len(pickle.dumps(source)) < 1000
    assert pickle.loads(pickle.dumps(source))[1].key == "b.c"  # noqa: S301 - our own object


def test_the_digest_follows_the_data(tmp_path: Path, tar: Path) -> None:
    first = ShardSource([tar]).data_digest()
    write_listing(tmp_path)
    assert ShardSource([tar]).data_digest() == first
    make_shard(tar, {"a.json": {"caption": "another"}})
    write_listing(tmp_path)
    assert ShardSource([tar]).data_digest() != first


# ------------------------------------------------------------------------------------------------------------- opening


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tar: tar.write_bytes(tar.read_bytes()[:-512]), "it has 9728 bytes, its index says 10240"),
        (lambda tar: tar.write_bytes(b""), "it has 0 bytes, its index says 10240"),
        (lambda tar: tar.unlink(), "does not exist .its index says 10240 bytes"),
        (lambda tar: _flip(tar, 100), "SHA-256"),  # in the first header
        (lambda tar: _flip(tar, 600), "SHA-256"),  # in the first member
    ],
    ids=["cut", "empty", "missing", "header", "payload"],
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_damaged_shard_is_refused_by_name(tar: Path, damage, message: str, listed: bool) -> None:  # type: ignore[no-untyped-def]
    if listed:
        write_listing(tar.parent)
    damage(tar)
    with pytest.raises(UserError, match=message) as error:
        ShardSource([tar])
    assert "x.tar" in str(error.value) and "\n" not in str(error.value)


def test_a_shard_without_an_index_is_refused(tar: Path) -> None:
    index_path(tar).unlink()
    with pytest.raises(UserError, match=r"has no index x\.tar\.index\.safetensors: run janus-train index"):
        ShardSource([tar])
    with pytest.raises(UserError, match="at least one"):
        ShardSource([])


def test_a_listed_shard_whose_index_went_is_refused_when_it_is_read(tar: Path) -> None:
    write_listing(tar.parent)
    index_path(tar).unlink()
    source = ShardSource([tar])
    with pytest.raises(UserError, match="has no index"):
        source[0]


def test_a_listing_that_is_older_than_the_index_is_noticed(tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "WHOLE_DIGEST_LIMIT", 0)
    write_listing(tar.parent)
    make_shard(tar, {f"{name}.json": {"text": name} for name in ("a", "b", "c")})
    assert tar.stat().st_size == 10240  # as before
    with pytest.raises(UserError, match=r"does not match its folder's shards\.json"):
        ShardSource([tar])[0]


def test_large_sources_are_not_read_whole_when_they_open(tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _flip(tar, 600)
    monkeypatch.setattr(shards, "WHOLE_DIGEST_LIMIT", tar.stat().st_size - 1)
    assert len(ShardSource([tar])) == 3


# -------------------------------------------------------------------------------------------------------- bad samples


def _flip(tar: Path, place: int) -> None:
    data = bytearray(tar.read_bytes())
    data[place] ^= 1
    tar.write_bytes(bytes(data))


@pytest.mark.parametrize("ending", ["json", "png", "codes.npy"])
def test_a_flipped_payload_is_a_damaged_sample(tar: Path, ending: str) -> None:
    source = ShardSource([tar])
    place = next(member for member in source._index(0).members(0) if member.ending == ending)
    _flip(tar, place.offset + 3)
    with pytest.raises(BadSample, match=rf"x\.tar: the bytes of its \.{ending} are not those indexed") as error:
        source[0]
    assert error.value.damaged and error.value.key == "a"
    assert source[1].key == "b.c"


def test_a_tar_that_shrinks_or_goes_while_open_ends_the_run(tar: Path) -> None:
    source = ShardSource([tar])
    data = tar.read_bytes()
    tar.write_bytes(data[:600])
    with pytest.raises(UserError, match=r"x\.tar is damaged: it ends before byte"):
        source[2]
    tar.unlink()
    with pytest.raises(UserError, match=r"x\.tar has gone"):
        pickle.loads(pickle.dumps(source))[0]  # noqa: S301


def np_of_objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.json": b"{"}, "its JSON cannot be read"),
        ({"a.json": b"\xff\xfe"}, "its JSON cannot be read"),
        ({"a.json": b"[1]"}, "its JSON is not an object"),
        ({"a.json": b""}, "its JSON cannot be read"),
        ({"a.txt": b"\xc3\x28", "a.jpg": encoded(plain_image(), "JPEG")}, "its text cannot be read"),
        ({"a.json": {}, "a.png": b"no image"}, "not an image of the formats JPEG, PNG, WEBP"),
        ({"a.json": {}, "a.png": b""}, "not an image of the formats"),
        ({"a.json": {}, "a.jpg": encoded(plain_image(), "GIF")}, "not an image of the formats"),
        ({"a.json": {}, "a.png": encoded(plain_image()), "a.codes.npy": np_of_objects()}, "codes cannot be read"),
        ({"a.json": {}, "a.png": encoded(plain_image()), "a.codes.npy": b"x"}, "codes cannot be read"),
    ],
)
def test_a_sample_that_cannot_be_read_is_bad_and_not_damaged(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    source = ShardSource([make_shard(tmp_path / "x.tar", members)])
    with pytest.raises(BadSample, match=message) as error:
        source[0]
    assert error.value.key == "a" and not error.value.damaged


# ----------------------------------------------------------------------------------------------------------- I/O errors


def test_reading_is_tried_again_and_nothing_skipped(tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, pauses = [0], []
    pread = storage.os.pread

    def sometimes(*arguments: int) -> bytes:
        calls[0] += 1
        if calls[0] % 3:
            raise OSError(5, "Input/output error")
        return pread(*arguments)

    monkeypatch.setattr(storage.os, "pread", sometimes)
    monkeypatch.setattr(storage.time, "sleep", pauses.append)
    assert [record.key for record in ShardSource([tar])] == ["a", "b.c", "t"]
    assert set(pauses) == {0.5, 1.0}


def test_a_disk_that_stays_unreadable_ends_the_run(tar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, pauses = ShardSource([tar]), []

    def fail_if_called(*arguments: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage.os, "pread", fail_if_called)
    monkeypatch.setattr(storage.time, "sleep", pauses.append)
    with pytest.raises(UserError, match=r"x\.tar cannot be read, 5 tries failed: .*Input/output error"):
        source[0]
    assert pauses == [0.5, 1, 2, 4]


# -------------------------------------------------------------------------------------------------------------- paths


def test_what_a_path_stands_for(tmp_path: Path) -> None:
    (tmp_path / "[1] data").mkdir()
    tars = [make_shard(tmp_path / f"[1] data/{n}.tar", {"a.json": {}}) for n in "ab"]
    (tars[0].parent / "notes.md").write_text("x")
    assert find_tars(tars[0]) == tars[:1]
    assert find_tars(tars[0].parent) == tars
    assert find_tars(tmp_path / "*") == tars
    assert find_tars(tmp_path / "*data" / "*") == tars
    assert find_tars(tmp_path / "no*.tar") == []


# ------------------------------------------------------------------------------------------------------------- scale


def test_100_million_samples_open_in_seconds_and_in_little_memory(tmp_path: Path) -> None:
    """Needed: below 10 s and 1 GiB with all that a process holds (benchmarks/data.py prints it)."""
    heads = {f"{i:05d}.tar": Head(1 << 30, "0" * 64, 10_000) for i in range(10_000)}
    for name in heads:
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 30)  # no bytes on the disk
    write_heads(tmp_path, heads)
    tracemalloc.start()
    start = time.process_time()  # of this process: others may be at work
    source = ShardSource(find_tars(tmp_path))
    place = Order(0, "s", source.shard_sizes).index(0, 77_777_777)
    seconds, peak_bytes = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(source) == 100_000_000 and 0 <= place < len(source)
    assert seconds < 10 and peak_bytes < 64 << 20
    assert len(pickle.dumps(source)) < 4 << 20
