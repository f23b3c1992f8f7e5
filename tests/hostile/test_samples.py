"""Hostile samples: their JSON and their images, in shards and in lines, through prepare, verify, inspect and train."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.helpers import Run
from tests.hostile.ground import Ground
from tests.hostile.jsons import BAD_JSON, ODD_JSON
from tests.hostile.tars import IMAGE, good_members, tar_of
from tests.hostile.test_tars import SMALL, recipe
from tests.hostile_images import HOSTILE, bomb, hostile_bytes, nothing_runs

BYTES = [kind for kind in HOSTILE if kind != "pipe"]


def shard(ground: Ground, run: Run, fields: bytes, image: bytes = IMAGE) -> Path:
    """An indexed shard with four good samples and one of these bytes."""
    path = ground.data / "a.tar"
    path.write_bytes(tar_of([*good_members(), ("odd.json", fields), ("odd.png", image)]))
    code, _, said = run("index", path, "--workers", 1)
    assert code == 0, said
    return path


def problems(ground: Ground, path: Path) -> list[dict[str, object]]:
    """What verify lists; its code is that of the share of bad samples."""
    listed = ground.out / "problems.jsonl"
    outcome = ground.command("verify", path, "--workers", 1, "--max-bad", 1, "--out", listed)
    ground.is_clean(outcome)
    assert outcome.code == 0
    return [json.loads(line) for line in listed.read_text().split("\n") if line]


@pytest.mark.parametrize("name", BAD_JSON)
def test_fields_that_cannot_be_used_are_a_bad_sample_with_a_reason(ground: Ground, run: Run, name: str) -> None:
    path = shard(ground, run, BAD_JSON[name])
    outcome = ground.command(
        "inspect", *SMALL, f"data.recipe={recipe(ground, 'a.tar')}", "data.max_bad=1", "--steps", 4
    )
    ground.is_clean(outcome)
    assert outcome.code == 0 and '"odd"' not in outcome.out
    assert "samples cannot be used and were replaced by others" in outcome.err
    found = problems(ground, path) if name not in TRAINING_ALONE else [{"key": "odd", "reason": "?"}]
    assert [line["key"] for line in found] == ["odd"]
    reason = found[0]["reason"]
    assert isinstance(reason, str) and 0 < len(reason) < 500 and "\n" not in reason


TRAINING_ALONE = ("caption of 8 MB",)
"""Too long for a row: what verify says only if it is told a row's length."""


@pytest.mark.parametrize("name", ODD_JSON)
def test_odd_fields_are_used_and_do_nothing_else(ground: Ground, run: Run, name: str) -> None:
    path = shard(ground, run, ODD_JSON[name])
    assert problems(ground, path) == []
    outcome = ground.command(
        "inspect", *SMALL, f"data.recipe={recipe(ground, 'a.tar')}", "--steps", 4, "--html", ground.out / "page.html"
    )
    ground.is_clean(outcome)
    assert outcome.code == 0
    assert all(json.loads(line) for line in outcome.out.split("\n") if line)
    assert not set("\x1b\x07\u202e") & set((ground.out / "page.html").read_text())


@pytest.mark.parametrize("kind", BYTES)
def test_hostile_images_in_shards_are_bad_samples(ground: Ground, run: Run, kind: str) -> None:
    with nothing_runs(ground.root):
        path = shard(ground, run, b'{"caption": "a red apple"}', hostile_bytes(kind, ground.root / "marker"))
        assert [line["key"] for line in problems(ground, path)] == ["odd"]
        words = (*SMALL, f"data.recipe={recipe(ground, 'a.tar')}", "data.max_bad=1")
        outcome = ground.command("inspect", *words, "--steps", 4, "--html", ground.out / "page.html")
        ground.is_clean(outcome)
        assert outcome.code == 0 and "samples cannot be used" in outcome.err


def test_a_run_writes_down_what_it_cannot_use(ground: Ground, run: Run, random_base: Path) -> None:
    """All that is bad at once; the run goes on with the good ones."""
    members = good_members()
    for number, fields in enumerate(BAD_JSON.values()):
        members += [(f"bad{number}.json", fields), (f"bad{number}.png", IMAGE)]
    for kind in BYTES:
        members += [(f"{kind}.json", b'{"caption": "x"}'), (f"{kind}.png", hostile_bytes(kind, ground.root / "m"))]
    (ground.data / "a.tar").write_bytes(tar_of(members))
    assert run("index", ground.data / "a.tar", "--workers", 1)[0] == 0
    with nothing_runs(ground.root):
        outcome = ground.train(
            "+stage=1", f"init_from={random_base}", f"data.recipe={recipe(ground, 'a.tar')}", "data.max_bad=1"
        )
    ground.is_clean(outcome)
    assert outcome.code == 0, outcome.err
    listed = [json.loads(line) for line in (ground.out / "run/quarantine.jsonl").read_text().split("\n") if line]
    assert listed and all(not line["key"].startswith("s") and line["reason"] for line in listed)


@pytest.mark.parametrize("name", [name for name in BAD_JSON if name not in TRAINING_ALONE])
def test_lines_that_cannot_be_used_are_skipped_by_prepare(ground: Ground, name: str) -> None:
    """Beside a good one, in a file of JSON lines; too many of them end it with one line."""
    (ground.data / "a.png").write_bytes(IMAGE)
    fields = BAD_JSON[name].replace(b"{", b'{"image": "a.png", ', 1) if BAD_JSON[name][:2] == b'{"' else BAD_JSON[name]
    good = b'{"image": "a.png", "caption": "a red apple"}\n'
    (ground.data / "x.jsonl").write_bytes(good * 3 + fields + b"\n" + good)
    words = ("prepare", "captions", ground.data / "x.jsonl", "--workers", 1, "--out")
    outcome = ground.command(*words, ground.out / "o", "--max-bad", 1)
    ground.is_clean(outcome)
    if outcome.code:  # damaged as a file, not as a record
        assert "x.jsonl" in outcome.line
        return
    skipped = ground.out / "o/skipped.jsonl"
    if skipped.is_file():
        assert all(json.loads(line)["reason"] for line in skipped.read_text().split("\n") if line)


PATHS = {
    "above": "../outside/secret.png",
    "far above": "../" * 40 + "etc/passwd",
    "absolute": "/etc/passwd",
    "home": "~/secret.png",
    "address": "http://127.0.0.1:9/a.png",
    "file address": "file:///etc/passwd",
    "pipe address": "pipe:touch code_ran",
    "null": "a\0.png",
    "empty": "",
    "a folder": ".",
    "long": "x" * 10_000,
    "deep": "x/" * 3_000 + "a.png",
    "a device": "zero.png",
    "a pipe": "pipe.png",
    "a link out": "link.png",
    "markup": "[/bold][link=http://x]a.png",
    "control": "a\x1b[2J\u202e.png",
    "a number": 1,
    "nested": [["a.png"]],
    "an object": {"path": "../outside/secret.png"},  # {"path": "a.png"} is a layout that is read
    "an object with an address": {"url": "http://127.0.0.1:9/a.png"},
    "too many": ["a.png"] * 1000,
}


@pytest.mark.parametrize("name", PATHS)
def test_paths_in_records_lead_nowhere_else(ground: Ground, name: str) -> None:
    """In prepare, and as a source of JSON lines in a recipe."""
    (ground.data / "a.png").write_bytes(IMAGE)
    (ground.data / "zero.png").symlink_to("/dev/zero")
    (ground.data / "link.png").symlink_to(ground.secret)
    os.mkfifo(ground.data / "pipe.png")
    lines = [{"image": "a.png", "caption": "a red apple"}] * 3 + [{"image": PATHS[name], "caption": "x"}]
    path = ground.data / "x.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = ground.command(
        "prepare", "captions", path, "--out", ground.out / "o", "--max-bad", 1, "--max-pictures", 8, "--workers", 1
    )
    ground.is_clean(outcome)
    if outcome.code:
        assert len(outcome.line) < 1500
    sources = [
        {"name": n, "kind": k, "type": "jsonl", "template": t, "weight": 1, "paths": ["x.jsonl"]}
        for n, k, t in (("in", "understanding", "image_caption"), ("out", "generation", "text_to_image"))
    ]
    (ground.data / "recipe.yaml").write_text(json.dumps({"name": "r", "licence": "none", "sources": sources}))
    words = ("inspect", *SMALL, f"data.recipe={ground.data / 'recipe.yaml'}", "data.max_bad=1", "--steps", 4)
    outcome = ground.command(*words)
    ground.is_clean(outcome)
    assert outcome.code == 0 and f'"{path.name}:4"' not in outcome.out


def test_the_header_of_a_bomb_is_all_that_is_read_of_it() -> None:
    assert len(bomb()) < 100
