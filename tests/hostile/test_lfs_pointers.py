"""A clone without git-lfs: each large file of data is a pointer, which every reader names with the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from janus_train.data.image_files import ImageError, open_image
from janus_train.data.shards.index import index_path, write_listing
from janus_train.data.shards.scan import scan
from janus_train.data.sources.jsonl import JsonlSource
from janus_train.data.sources.shards import ShardSource
from janus_train.data.types import BadSample
from janus_train.errors import UserError
from tests.helpers import LFS_POINTER, Run, encoded, make_shard, plain_image

REMEDY = "is a git-lfs pointer, not the file itself: run git lfs pull"


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    return make_shard(tmp_path / "shards/a.tar", {"a.json": {"caption": "a"}, "a.png": encoded(plain_image())})


def pointer(path: Path) -> Path:
    path.write_bytes(LFS_POINTER)
    return path


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda tar: pointer(tar), "a.tar"),
        (lambda tar: pointer(index_path(tar)), "a.tar.index.safetensors"),
        (lambda tar: (write_listing(tar.parent), pointer(tar.parent / "shards.json")), "shards.json"),
    ],
)
def test_shards(tar: Path, run: Run, change: Callable[[Path], object], name: str) -> None:
    change(tar)
    with pytest.raises(UserError, match=rf"{name} {REMEDY}"):
        ShardSource([tar])
    if name != "shards.json":  # verify reads each tar's own index
        code, _, err = run("verify", tar)
        assert code == 1 and f"{name} {REMEDY}" in err


def test_tars_to_index_or_to_prepare(tar: Path, tmp_path: Path, run: Run) -> None:
    pointer(tar)
    with pytest.raises(UserError, match=rf"a\.tar {REMEDY}"):
        scan(tar)
    code, _, err = run("prepare", "webdataset", tar, "--out", tmp_path / "out")
    assert code and err.count("error: ") == 1 and f"a.tar {REMEDY}" in err
    assert not (tmp_path / "out").exists()


def test_images_and_json_lines(tmp_path: Path) -> None:
    image = pointer(tmp_path / "a.png")
    with pytest.raises(ImageError, match=REMEDY):
        open_image(image)
    (tmp_path / "data.jsonl").write_text(json.dumps({"caption": "a", "image": "a.png"}) + "\n")
    with pytest.raises(BadSample, match=REMEDY):
        JsonlSource([tmp_path / "data.jsonl"])[0]
    with pytest.raises(UserError, match=rf"data\.jsonl {REMEDY}"):
        JsonlSource([pointer(tmp_path / "data.jsonl")])
