"""The files that indices are kept in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from janus_train.data.shards.index import (
    Head,
    Member,
    ShardIndex,
    index_path,
    next_index_path,
    read_head,
    read_listing,
    write_listing,
)
from janus_train.errors import UserError
from tests.helpers import make_shard

MEMBERS = st.builds(
    Member,
    st.sampled_from(["json", "0.jpg", "codes.npy"]),
    st.integers(0, 2**40),
    st.integers(0, 2**33),
    st.binary(min_size=8, max_size=8),
)


@settings(max_examples=40, deadline=None)
@given(
    samples=st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=9), st.lists(MEMBERS, min_size=1, max_size=4)
    )
)
def test_an_index_comes_back_from_its_bytes(samples: dict[str, list[Member]]) -> None:
    data = ShardIndex.of(2**50, "ab", samples).to_bytes()
    index = ShardIndex.from_bytes(data, Path("x"))
    assert index.head == Head(2**50, "ab", len(samples)) and len(index) == len(samples)
    assert {index.key(i): index.members(i) for i in range(len(index))} == samples
    assert index.to_bytes() == data


def test_the_same_tar_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (make_shard(tmp_path / f"{n}.tar", {"a.json": {"x": 1}, "a.0.jpg": b"x"}) for n in "xy")
    assert index_path(first).read_bytes() == index_path(second).read_bytes()


@given(cut=st.integers(0, 400), flip=st.integers(0, 399))
def test_a_damaged_index_is_refused_by_name(cut: int, flip: int) -> None:
    """Cut anywhere it is refused; a changed byte at least never ends in anything but a `UserError`."""
    data = ShardIndex.of(9999, "ab" * 32, {"a": [Member("json", 512, 9, b"12345678")]}).to_bytes()
    with pytest.raises(UserError, match=r"x\.index is damaged"):
        ShardIndex.from_bytes(data[: min(cut, len(data) - 1)], Path("x.index"))
    damaged_bytes = bytearray(data)
    damaged_bytes[flip] ^= 0x10
    try:
        ShardIndex.from_bytes(bytes(damaged_bytes), Path("x.index"))
    except UserError as error:
        assert "x.index" in str(error)


def test_an_index_of_another_schema_names_both(tmp_path: Path) -> None:
    tar = make_shard(tmp_path / "x.tar", {"a.json": {}})
    index_path(tar).write_bytes(index_path(tar).read_bytes().replace(b'\\"schema\\": 3', b'\\"schema\\": 9'))
    with pytest.raises(UserError, match="has schema 9, this version reads 3"):
        read_head(tar)


def test_the_head_is_read_without_the_rest(tmp_path: Path) -> None:
    tar = make_shard(tmp_path / "x.tar", {f"{i}.json": {} for i in range(100)})
    head = read_head(tar)
    assert head.samples == 100 and head.size == tar.stat().st_size
    with index_path(tar).open("r+b") as file:
        file.truncate(file.seek(0, 2) - 3000)
    assert read_head(tar) == head


def test_a_folders_listing(tmp_path: Path) -> None:
    assert write_listing(tmp_path) is None and read_listing(tmp_path) == {}
    tars = [make_shard(tmp_path / f"红{n}.tar", {f"{i}.json": {} for i in range(n + 1)}) for n in range(3)]
    make_shard(tmp_path / "unindexed.tar", {"a.json": {}}, index=False)
    assert write_listing(tmp_path) == tmp_path / "shards.json"
    assert read_listing(tmp_path) == {tar.name: read_head(tar) for tar in tars}
    tars[0].write_bytes(b"")  # changed since it was indexed
    write_listing(tmp_path)
    assert list(read_listing(tmp_path)) == [tar.name for tar in tars[1:]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"schema": 3, "shards": [{"name": "a.tar"}]}', "is damaged"),
        ('{"schema": 7, "shards": []}', "has schema 7, this version reads 3"),
        (
            json.dumps({"schema": 3, "shards": [{"name": "../a.tar", "size": 1, "sha256": "", "samples": 1}]}),
            "names '../a.tar', which is not a tar in its folder",
        ),
    ],
)
def test_a_wrong_listing_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "shards.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_listing(tmp_path)


def test_an_index_that_waits_counts_once_its_tar_is_there(tmp_path: Path) -> None:
    """Between the two renames of a replacement (shard_swap.py) the tar is new and its index has the other name."""
    tar = make_shard(tmp_path / "x.tar", {"a.json": {}})
    new_tar = make_shard(tmp_path / "y.tar", {f"{i}.json": {"more": "x" * 600} for i in range(40)})
    old_head = read_head(tar)
    index_path(new_tar).rename(next_index_path(tar))
    assert read_head(tar) == old_head
    new_tar.rename(tar)
    assert read_head(tar).samples == 40 and read_head(tar).size == tar.stat().st_size
