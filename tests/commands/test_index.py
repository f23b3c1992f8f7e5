"""``janus-train index`` as a user calls it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import webdataset

from janus_train.data.shards.index import index_path, read_listing
from janus_train.data.sources.shards import ShardSource, find_tars
from tests.helpers import Run, encoded, make_shard, plain_image


@pytest.fixture
def run(run: Run) -> Run:
    return partial(run, "index")


def shard(path: Path, number: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_shard(path, {f"{i}.json": {"text": path.stem} for i in range(number)}, index=False)


def test_a_tar_becomes_readable(run: Run, tmp_path: Path) -> None:
    tar = shard(tmp_path / "x.tar")
    code, output, notes = run(tar)
    assert (code, notes) == (0, "")
    assert output == f"{tmp_path / 'shards.json'}: 1 tars, 2 samples\n"
    assert ShardSource([tar])[1].fields == {"text": "x"}


def test_folders_and_tars_in_processes(run: Run, tmp_path: Path) -> None:
    for name in ("a/1.tar", "a/2.tar", "b/3.tar", "b/4.tar"):
        shard(tmp_path / name)
    (tmp_path / "a/notes.txt").write_text("no tar")
    code, output, _ = run(tmp_path / "a", tmp_path / "b/3.tar", tmp_path / "b/3.tar", "--workers", 2)
    assert code == 0 and output.splitlines() == [
        f"{tmp_path / 'a/shards.json'}: 2 tars, 4 samples",
        f"{tmp_path / 'b/shards.json'}: 1 tars, 2 samples; 1 more tars in the folder have no index",
    ]
    assert list(read_listing(tmp_path / "a")) == ["1.tar", "2.tar"]
    assert len(ShardSource(find_tars(tmp_path / "a"))) == 4


def test_only_what_is_missing(run: Run, tmp_path: Path) -> None:
    tars = [shard(tmp_path / f"{i}.tar") for i in range(3)]
    assert run(tars[0])[0] == 0
    times = index_path(tars[0]).stat().st_mtime_ns
    assert run(tmp_path, "--missing")[1].endswith("shards.json: 3 tars, 6 samples\n")
    assert index_path(tars[0]).stat().st_mtime_ns == times
    make_shard(tars[0], {f"{i}.json": {"text": "x" * 900} for i in range(9)}, index=False)  # now of another size
    assert run(tmp_path, "--missing")[1].endswith("shards.json: 3 tars, 13 samples\n")
    assert run(tmp_path, "--missing")[1].endswith("shards.json: 3 tars, 13 samples\n")  # nothing to do


def test_tars_that_others_wrote(run: Run, tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "x.tar")) as writer:
        for i in range(3):
            writer.write(
                {"__key__": f"s{i}", "jpg": encoded(plain_image(), "JPEG"), "txt": f"dog {i}", "cls": i, "pyd": [i]}
            )
        writer.write({"__key__": "alone", "jpg": encoded(plain_image(), "JPEG")})
    code, output, notes = run(tmp_path)
    assert code == 0 and output.endswith("shards.json: 1 tars, 3 samples\n")
    assert notes.splitlines() == [
        "note: 6 members are not used and were ignored: 3 cls, 3 pyd",
        "note: 1 keys have neither .json nor .txt: these samples are left out",
    ]
    source = ShardSource([tmp_path / "x.tar"])
    assert source[2].fields == {"caption": "dog 2"} and source[2].images[0].size == (80, 60)


def test_one_damaged_tar_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "y.tar").write_bytes(b"no tar")
    code, output, notes = run(tmp_path / "y.tar")
    assert (code, output) == (2, "") and notes.count("\n") == 1
    assert notes.startswith("error: ") and "y.tar" in notes and "not a readable tar" in notes
    assert not index_path(tmp_path / "y.tar").exists() and not (tmp_path / "shards.json").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_tars_and_duplicate_keys_are_all_named(run: Run, tmp_path: Path, workers: int) -> None:
    for name in ("good/a.tar", "bad/a.tar", "bad/b.tar", "bad/c.tar"):
        shard(tmp_path / name)
    (tmp_path / "bad/a.tar").write_bytes((tmp_path / "bad/a.tar").read_bytes()[:700])
    make_shard(tmp_path / "bad/b.tar", {"k.json": {}, "k.JSON": {}}, index=False)
    code, output, notes = run(tmp_path / "good", tmp_path / "bad", "--workers", workers)
    assert code == 2 and output == f"{tmp_path / 'good/shards.json'}: 1 tars, 2 samples\n"
    lines = notes.splitlines()
    assert "bad/a.tar: cannot be indexed, it is not a readable tar" in lines[0]
    assert "bad/b.tar: cannot be indexed, keys must be unique" in lines[1] and lines[1].endswith("'k'")
    assert lines[2:] == ["error: 2 of 4 tars cannot be indexed, see above"]
    assert index_path(tmp_path / "bad/c.tar").exists() and not (tmp_path / "bad/shards.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.tar"], "there is no such file"),
        (["empty"], "there is no .tar in this folder"),
        (["x.zip"], "a shard's name ends in .tar"),
        (["x.tar", "--workers", "0"], "--workers"),
        (["s3://bucket/x.tar"], "index tars where they are made"),
    ],
)
def test_mistakes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    shard(tmp_path / "x.tar")
    (tmp_path / "x.zip").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    code, output, notes = run(*words)
    assert (code, output) == (2, "") and message in notes and notes.count("\n") == 1


def test_a_folder_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    """A folder in the index's place: also root cannot write there."""
    tar = shard(tmp_path / "x.tar")
    index_path(tar).mkdir()
    code, _, notes = run(tar)
    assert code == 2 and "cannot be written" in notes and notes.count("\n") == 1
