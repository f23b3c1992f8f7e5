"""Hostile tars through every way that reads one: index, prepare, verify, inspect, train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from janus_train.data.shards.index import index_path
from tests.helpers import Run
from tests.hostile.ground import Ground
from tests.hostile.tars import HARMLESS, REFUSED, damaged_index, good

SMALL = ("+stage=1", "batch.row_tokens=256", "batch.rows_per_step=2", "batch.micro_rows=1")


ONE_AFTER_THE_OTHER = ("a member twice",)
"""What is wrong only for random access: `prepare` writes the samples anew, under keys of its own."""


def recipe(ground: Ground, *paths: str) -> Path:
    """A recipe of stage 1 over tars, both kinds of which come from them."""
    source = {"type": "shards", "weight": 1, "paths": list(paths)}
    sources = [
        {"name": "in", "kind": "understanding", "template": "image_caption", **source},
        {"name": "out", "kind": "generation", "template": "text_to_image", **source},
    ]
    path = ground.data / "recipe.yaml"
    path.write_text(json.dumps({"name": "r", "licence": "none", "sources": sources}))
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_a_tar_that_lies_is_refused_by_all_that_read_it_whole(ground: Ground, name: str) -> None:
    make, line = REFUSED[name]
    (ground.data / "bad.tar").write_bytes(make())
    (ground.data / "good.tar").write_bytes(good())
    outcome = ground.command("index", ground.data / "bad.tar", "--workers", 1)
    ground.refuses(outcome, line)
    assert "bad.tar" in outcome.line and not index_path(ground.data / "bad.tar").exists()
    ground.reports(ground.command("verify", ground.data / "bad.tar", "--workers", 1), r"bad\.tar")


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in ONE_AFTER_THE_OTHER])
def test_a_tar_that_lies_is_not_prepared(ground: Ground, name: str) -> None:
    (ground.data / "bad.tar").write_bytes(REFUSED[name][0]())
    outcome = ground.command(
        "prepare", "webdataset", ground.data / "bad.tar", "--out", ground.out / "o", "--workers", 1
    )
    ground.refuses(outcome, r"bad\.tar|cannot be used|nothing to prepare|no sample|no record")
    assert not list(ground.out.glob("o/*.tar"))


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_tar_hides_is_left_alone(ground: Ground, name: str) -> None:
    (ground.data / "odd.tar").write_bytes(HARMLESS[name]())
    indexed = ground.command("index", ground.data / "odd.tar", "--workers", 1)
    ground.is_clean(indexed)
    if indexed.code:
        assert len(indexed.line) < 1500
        return
    prepared = ground.command(
        "prepare", "webdataset", ground.data / "odd.tar", "--out", ground.out / "o", "--max-bad", 1, "--workers", 1
    )
    ground.is_clean(prepared)
    verified = ground.command("verify", ground.data / "odd.tar", "--workers", 1, "--max-bad", 1)
    ground.is_clean(verified)
    assert verified.code == 0
    inspected = ground.command(
        "inspect",
        *SMALL,
        f"data.recipe={recipe(ground, 'odd.tar')}",
        "data.max_bad=1",
        "--html",
        ground.out / "page.html",
    )
    ground.is_clean(inspected)
    assert inspected.code == 0 and "<script" not in (ground.out / "page.html").read_text()


DAMAGES = ("empty", "cut", "noise", "header of 2^62", "deep header", "no metadata")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_named(ground: Ground, run: Run, damage: str) -> None:
    tar = ground.data / "a.tar"
    tar.write_bytes(good())
    assert run("index", tar, "--workers", 1)[0] == 0
    (ground.data / "shards.json").unlink()
    path = index_path(tar)
    path.write_bytes(damaged_index(path)[damage])
    for words in (("verify", tar), ("inspect", *SMALL, f"data.recipe={recipe(ground, 'a.tar')}")):
        check = ground.reports if words[0] == "verify" else ground.refuses
        check(ground.command(*words), r"index .*a\.tar\.index\.safetensors is damaged")


@pytest.mark.parametrize(
    "listing",
    ["", "[]", "[" * 100_000, '{"tars": 1}', '{"schema": 3, "tars": {"../../outside/x.tar": {}}}', "\ufeff{}"],
)
def test_a_damaged_listing_is_named(ground: Ground, run: Run, listing: str) -> None:
    tar = ground.data / "a.tar"
    tar.write_bytes(good())
    assert run("index", tar, "--workers", 1)[0] == 0
    (ground.data / "shards.json").write_text(listing, encoding="utf-8")
    outcome = ground.command("inspect", *SMALL, f"data.recipe={recipe(ground, 'a.tar')}")
    ground.is_clean(outcome)
    assert outcome.code == 0 or "shards.json" in outcome.line


def test_a_tar_replaced_by_a_hostile_one_after_indexing_is_named(ground: Ground, run: Run) -> None:
    tar = ground.data / "a.tar"
    tar.write_bytes(good())
    assert run("index", tar, "--workers", 1)[0] == 0
    tar.write_bytes(REFUSED["2^62 bytes"][0]() + bytes(512))
    for words in (("verify", tar), ("inspect", *SMALL, f"data.recipe={recipe(ground, 'a.tar')}")):
        (ground.reports if words[0] == "verify" else ground.refuses)(ground.command(*words), r"a\.tar")
    ground.refuses(ground.train("+stage=1", f"data.recipe={recipe(ground, 'a.tar')}"), r"a\.tar")
