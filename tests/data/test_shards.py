from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from janus_train.config import UserError
from janus_train.data.shards import Shard, ShardSource, index_path, write_index
from tests.helpers import encoded, make_shard, picture


def codes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(64, dtype=np.uint16))
    return buffer.getvalue()


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    members = {
        "a.json": {"caption": "红苹果"},
        "a.png": encoded(picture()),
        "a.codes.npy": codes(),
        "b.c.json": {"caption": "two"},
        "b.c.1.jpg": encoded(picture((0, 0, 255)), "JPEG"),
        "b.c.0.jpg": encoded(picture((0, 255, 0)), "JPEG"),
        "t.json": {"text": "words"},
    }
    return make_shard(tmp_path / "x.tar", members)


def test_records_come_back_as_they_were_written(tar: Path) -> None:
    source = ShardSource([tar])
    a, b, t = (source[i] for i in range(len(source)))
    assert (a.key, b.key, t.key) == ("a", "b.c", "t")
    assert a.fields == {"caption": "红苹果"}
    assert a.pictures[0].size == (80, 60)
    assert a.codes[0] is not None and a.codes[0].tolist() == list(range(64))
    assert [p.convert("RGB").getpixel((5, 5))[1] > 200 for p in b.pictures] == [True, False]  # .0 before .1
    assert b.codes == [None, None]
    assert t.pictures == []


def test_several_shards_are_one_sequence(tmp_path: Path, tar: Path) -> None:
    other = make_shard(tmp_path / "y.tar", {"z.json": {"text": "z"}})
    source = ShardSource([tar, other])
    assert len(source) == 4 and source[3].key == "z" and source.shard_sizes == [3, 1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tar: tar.write_bytes(tar.read_bytes()[:-512]), "damaged"),
        (lambda tar: tar.write_bytes(b""), "damaged"),
        (lambda tar: tar.unlink(), "does not exist"),
        (lambda tar: index_path(tar).unlink(), "no index"),
        (lambda tar: index_path(tar).write_text("{"), "is damaged"),
        (lambda tar: index_path(tar).write_text("[]"), "is damaged"),
        (lambda tar: _flip(tar, 600), "SHA-256"),
        (lambda tar: _edit_index(tar, "schema", 9), "schema 9"),
    ],
    ids=["cut", "empty", "missing", "no index", "bad index", "list index", "flipped bit", "newer"],
)
def test_a_damaged_shard_is_refused_by_name(tar: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(tar)
    with pytest.raises(UserError, match=message) as error:
        Shard(tar)
    assert "x.tar" in str(error.value) and "\n" not in str(error.value)


def _flip(tar: Path, place: int) -> None:
    data = bytearray(tar.read_bytes())
    data[place] ^= 1
    tar.write_bytes(bytes(data))


def _edit_index(tar: Path, key: str, value: object) -> None:
    content = json.loads(index_path(tar).read_text())
    index_path(tar).write_text(json.dumps(content | {key: value}))


def test_a_payload_that_changed_while_open_is_noticed(tar: Path) -> None:
    shard = Shard(tar)
    offset = shard.samples[0]["members"]["json"][0]
    _flip(tar, offset + 3)
    with pytest.raises(UserError, match=r"x\.tar.*a\.json differs from its digest"):
        shard.record(0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.json": {}, "evil.pickle": b"x"}, "evil.pickle"),
        ({"a.json": {}, "a.pyd": b"x"}, "a.pyd"),
        ({"a.png": b"x"}, "have no .json"),
    ],
)
def test_index_refuses_what_is_no_sample(tmp_path: Path, members: dict[str, object], message: str) -> None:
    tar = make_shard(tmp_path / "x.tar", members, index=False)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        write_index(tar)
    assert not index_path(tar).exists()


def test_index_refuses_a_file_that_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"not a tar at all" * 100)
    with pytest.raises(UserError, match="no readable tar"):
        write_index(tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.json": b"{", "a.png": encoded(picture())}, "cannot be read"),
        ({"a.json": b"\xff\xfe", "a.png": encoded(picture())}, "cannot be read"),
        ({"a.json": b"[1]"}, "not an object"),
        ({"a.json": {}, "a.png": b"no picture"}, "picture or codes cannot be read"),
    ],
)
def test_a_sample_that_cannot_be_read_is_named(tmp_path: Path, members: dict[str, object], message: str) -> None:
    shard = Shard(make_shard(tmp_path / "x.tar", members))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"sample 'a'.*{message}"):
        shard.record(0)


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    tar = make_shard(tmp_path / "x.tar", {"a.json": {}, "a.png": encoded(picture()), "a.codes.npy": buffer.getvalue()})
    with pytest.raises(UserError, match="codes cannot be read"):
        Shard(tar).record(0)
