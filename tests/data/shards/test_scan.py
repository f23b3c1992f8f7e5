"""Indexing: what a tar's members are taken for, and what is refused."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from janus_train.data.shards.index import index_path
from janus_train.data.shards.scan import Scan, scan, write_index
from janus_train.data.sources.shards import ShardSource
from janus_train.errors import UserError
from tests.helpers import encoded, make_shard, plain_image

PNG, JPEG = encoded(plain_image()), encoded(plain_image(), "JPEG")


def scan_of(folder: Path, members: dict[str, object]) -> Scan:
    return scan(make_shard(folder / "x.tar", members, index=False))  # type: ignore[arg-type]


def content(result: Scan) -> dict[str, list[str]]:
    index = result.index
    return {index.key(i): [member.ending for member in index.members(i)] for i in range(len(index))}


# ------------------------------------------------------------------------------------------------ what members are


def test_members_may_come_in_any_order(tmp_path: Path) -> None:
    members = {"b.1.jpg": JPEG, "a.png": PNG, "b.json": {}, "a.json": {}, "b.0.jpg": JPEG, "a.codes.npy": b"x"}
    assert content(scan_of(tmp_path, members)) == {
        "b": ["1.jpg", "json", "0.jpg"],
        "a": ["png", "json", "codes.npy"],
    }


def test_what_is_not_read_is_counted_and_left_alone(tmp_path: Path) -> None:
    members = {"a.json": {}, "a.jpg": JPEG, "a.cls": b"3", "b.json": {}, "b.cls": b"4", "b.pickle": b"x", "README": b""}
    result = scan_of(tmp_path, {**members, "._a.jpg": b"x", "a.seg.png": PNG})
    assert content(result) == {"a": ["json", "jpg"], "b": ["json"]}
    assert result.ignored_counts == {"cls": 2, "pickle": 1, "no ending": 1, "hidden file": 1, "seg.png": 1}
    assert result.num_left_out == 0


def test_a_text_file_alone_is_a_caption(tmp_path: Path) -> None:
    tar = make_shard(
        tmp_path / "x.tar", {"a.jpg": JPEG, "a.txt": " 一只狗\n".encode(), "b.txt": b"x", "b.json": {"c": 1}}
    )
    source = ShardSource([tar])
    assert [source[i].fields for i in range(2)] == [{"caption": "一只狗"}, {"c": 1}]
    assert scan(tar).ignored_counts == {"txt beside a .json": 1}


def test_folders_capitals_and_dots_in_names(tmp_path: Path) -> None:
    result = scan_of(tmp_path, {"./d/a.b.JPEG": JPEG, "./d/a.b.JSON": {}, "v_1.5.json": {}, "v_1.5.jpg": JPEG})
    assert content(result) == {"d/a.b": ["jpeg", "json"], "v_1.5": ["json", "jpg"]}


def test_a_number_belongs_to_the_key_that_has_fields(tmp_path: Path) -> None:
    """``a.0.jpg`` is image 0 of ``a``, unless there is an ``a.0.json``; leading zeros say nothing."""
    result = scan_of(
        tmp_path, {"a.0.json": {}, "a.0.jpg": JPEG, "b.json": {}, "b.00.jpg": JPEG, "b.01.codes.npy": b"x"}
    )
    assert content(result) == {"a.0": ["json", "jpg"], "b": ["json", "0.jpg", "1.codes.npy"]}


def test_links_and_folders_are_no_samples(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("a.json")
        info.size = 2
        tar.addfile(info, io.BytesIO(b"{}"))
    result = scan(tmp_path / "x.tar")
    assert content(result) == {"a": ["json"]} and result.ignored_counts == {"link or special file": 2}


def test_names_that_are_no_utf_8_are_written_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        info = tarfile.TarInfo(b"\xff\xe9.json".decode("utf-8", "surrogateescape"))
        info.size = 2
        tar.addfile(info, io.BytesIO(b"{}"))
    assert list(content(scan(tmp_path / "x.tar"))) == [r"\xff\xe9"]


def test_a_tar_of_webdatasets_own_writer(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"s{i}", "json": {"caption": f"{i}"}, "jpg": plain_image((i, 0, 0)), "cls": i})
    source = ShardSource([write_index(tmp_path / "x.tar") and tmp_path / "x.tar"])
    assert [(r.key, r.fields, r.images[0].size) for r in source] == [
        (f"s{i}", {"caption": f"{i}"}, (80, 60)) for i in range(3)
    ]


@settings(max_examples=30, deadline=None)
@given(
    samples=st.dictionaries(
        st.text("ab.中-", min_size=1, max_size=6).filter(lambda key: key[0] != "." and key[-1] != "."),
        st.integers(0, 3),
        min_size=1,
        max_size=8,
    ),
    order=st.randoms(use_true_random=False),
)
def test_every_sample_is_found_whole_in_any_order(tmp_path_factory: pytest.TempPathFactory, samples, order) -> None:  # type: ignore[no-untyped-def]
    members: dict[str, object] = {}
    for key, images in samples.items():
        members[f"{key}.json"] = {"k": key}
        members |= {f"{key}.{number}.png": PNG for number in range(images)}
    names = list(members)
    order.shuffle(names)
    tar = make_shard(tmp_path_factory.mktemp("s") / "x.tar", {name: members[name] for name in names})  # type: ignore[misc]
    source = ShardSource([tar])
    result = {record.key: (record.fields, len(record.images)) for record in source}
    assert result == {key: ({"k": key}, images) for key, images in samples.items()}


# ------------------------------------------------------------------------------------------------------- what is refused


def refusal(tar: Path, message: str) -> str:
    with pytest.raises(UserError, match=message) as error:
        write_index(tar)
    assert not index_path(tar).exists()
    assert str(tar) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("twice", "keys"),
    [
        (["a.json", "a.json"], "'a'"),
        (["a.json", "a.JSON"], "'a'"),
        (["a.json", "a.jpg", "a.png"], "'a'"),
        (["a.json", "a.0.jpg", "a.00.png"], "'a'"),
        ([f"{k}.json" for k in "abcdefgabcdefg"], "'a', 'b', 'c', 'd', 'e' and 2 more"),
    ],
)
def test_keys_that_come_twice_are_listed(tmp_path: Path, twice: list[str], keys: str) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in twice:
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    assert refusal(tmp_path / "x.tar", "keys must be unique").endswith(keys)


def test_a_tar_without_fields_is_refused(tmp_path: Path) -> None:
    refusal(make_shard(tmp_path / "x.tar", {"a.png": PNG, "b.cls": b"1"}, index=False), "none of its 1 samples has")


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return make_shard(
        tmp_path / "x.tar", {f"{i}.{e}": v for i in range(9) for e, v in (("json", {}), ("png", PNG))}, index=False
    )


@pytest.mark.parametrize("kept", [0, 100, 512, 700, 1024, 1300, 1536, 5000])
def test_a_truncated_tar_is_refused(tar: Path, kept: int) -> None:
    """At any place: in a header, in the bytes of a member, and between two members."""
    tar.write_bytes(tar.read_bytes()[:kept])
    refusal(tar, "not a readable tar")


@pytest.mark.parametrize("place", [0, 1024, 2048])
def test_a_damaged_header_is_refused(tar: Path, place: int) -> None:
    data = bytearray(tar.read_bytes())
    data[place : place + 512] = b"\xa5" * 512
    tar.write_bytes(bytes(data))
    refusal(tar, "not a readable tar")


def test_samples_behind_a_header_of_zeros_are_not_lost_silently(tar: Path) -> None:
    data = bytearray(tar.read_bytes())
    data[1024:1536] = bytes(512)
    tar.write_bytes(bytes(data))
    refusal(tar, "no header where one should be, at byte 1024")


def test_compressed_tars_and_other_files_are_refused(tar: Path) -> None:
    packed_tar = tar.with_name("y.tar")
    packed_tar.write_bytes(gzip.compress(tar.read_bytes()))
    refusal(packed_tar, "not a readable tar without compression")
    packed_tar.write_bytes(b"not a tar at all" * 100)
    refusal(packed_tar, "not a readable tar")
    refusal(tar.with_name("no.tar"), "cannot be read")
