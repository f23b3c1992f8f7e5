"""Names that are more than names: markup, options, control characters, paths; of files, folders, runs, keys and sources."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.helpers import Run
from tests.hostile.ground import Ground
from tests.hostile.tars import IMAGE, good, good_members, tar_of
from tests.hostile.test_tars import SMALL, recipe

NAMES = {
    "markup": "[bold]x[/bold]",
    "closing markup": "x[/x]",
    "a link": "[link=http://127.0.0.1:9]x",
    "html": "<img src=x onerror=alert(1)>",
    "control characters": "x\x1b[2J\x07y",
    "bidirectional": "x\u202egnp.y",
    "line separators": "x\u2028y\u0085z",
    "a newline": "x\nerror: y",
    "no UTF-8": os.fsdecode(b"x\xff\xfey"),
    "a dash": "-rf",
    "an option": "--max-bad=1",
    "a format": "%s%n{0}{x.__class__}",
    "a variable": "${oc.env:HOME}",
    "a shell": "$(touch code_ran);`touch code_ran`|touch code_ran",
    "a pattern": "*?[a-z]",
    "quotes": "x'\"y",
    "a scheme": "http:x",
    "space": " x ",
    "long": "x" * 200,
    "a tilde": "~root",
}
NO_TERMINAL = set(map(chr, (*range(10), *range(11, 32), *range(127, 160)))) | set("\u202e\u2028\u2066")


def says_no_control(text: str) -> None:
    assert not NO_TERMINAL & set(text), text[-500:]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_and_a_tar_of_any_name(ground: Ground, run: Run, name: str) -> None:
    """Whatever they are called, they are indexed, checked and drawn from, or refused in one line."""
    folder = ground.data / NAMES[name]
    tar = folder / f"{NAMES[name]}.tar"
    tar.parent.mkdir(parents=True)
    tar.write_bytes(good())
    outcomes = [
        ground.command("index", tar.parent, "--workers", 1),
        ground.command("verify", tar.parent, "--workers", 1),
        ground.command("prepare", "webdataset", tar, "--out", ground.out / NAMES[name], "--workers", 1),
        ground.command("index", f"{folder}/none.tar", "--workers", 1),
        ground.command("verify", f"{folder}/none.tar"),
    ]
    for outcome in outcomes:
        ground.is_clean(outcome)
        says_no_control(outcome.err)
        says_no_control(outcome.out)
        if outcome.code == 2:
            assert outcome.line
    assert [outcome.code for outcome in outcomes[:2]] == [0, 0] or name in ("a pattern", "no UTF-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_key_of_any_name(ground: Ground, run: Run, name: str) -> None:
    """Of a sample that is used and of one that is not: in the lines, the table and the page."""
    key = NAMES[name].replace("\n", " ").strip()
    members = [(f"{key}.json", b'{"caption": "a red apple"}'), (f"{key}.png", IMAGE)]
    members += [(f"{key}bad.json", b"{"), (f"{key}bad.png", IMAGE)]
    (ground.data / "a.tar").write_bytes(tar_of([*good_members(), *members]))
    assert run("index", ground.data / "a.tar", "--workers", 1)[0] == 0
    verified = ground.command("verify", ground.data / "a.tar", "--workers", 1, "--max-bad", 1)
    ground.is_clean(verified)
    says_no_control(verified.err + verified.out)
    words = (*SMALL, f"data.recipe={recipe(ground, 'a.tar')}", "data.max_bad=1")
    inspected = ground.command("inspect", *words, "--steps", 4, "--html", ground.out / "page.html")
    ground.is_clean(inspected)
    assert inspected.code == 0
    says_no_control(inspected.err + inspected.out)
    html = (ground.out / "page.html").read_text(encoding="utf-8")
    says_no_control(html)
    assert "<img src=x" not in html and "<script" not in html


@pytest.mark.parametrize("name", NAMES)
def test_a_source_of_any_name(ground: Ground, run: Run, name: str) -> None:
    (ground.data / "a.tar").write_bytes(tar_of([*good_members(), ("bad.json", b"{"), ("bad.png", IMAGE)]))
    assert run("index", ground.data / "a.tar", "--workers", 1)[0] == 0
    text = NAMES[name].encode("utf-8", "replace").decode()
    source = {"kind": "generation", "type": "shards", "template": "text_to_image", "weight": 1, "paths": ["a.tar"]}
    path = ground.data / "recipe.yaml"
    path.write_text(json.dumps({"name": text, "licence": "none", "sources": [{"name": text, **source}]}))
    for words in (
        ("verify", path, "--workers", 1, "--max-bad", 1),
        (
            "inspect",
            *SMALL,
            "ratio.understanding=0",
            f"data.recipe={path}",
            "data.max_bad=1",
            "--html",
            ground.out / "p.html",
        ),
        ("inspect", *SMALL, "ratio.understanding=0", f"data.recipe={path}", "data.max_bad=0", "--steps", 9),
    ):
        outcome = ground.command(*words)
        ground.is_clean(outcome)
        says_no_control(outcome.err + outcome.out)
    says_no_control((ground.out / "p.html").read_text(encoding="utf-8"))
    assert "<img src=x" not in (ground.out / "p.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_an_image_and_a_model_of_any_name(ground: Ground, random_base: Path, name: str) -> None:
    """Refused: neither is what it is called."""
    path = ground.data / NAMES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"words")
    for words in (
        ("chat", random_base, "--image", path, "--prompt", "x"),
        ("chat", path, "--prompt", "x"),
        ("generate", ground.data / "none" / NAMES[name], "--prompt", "x", "--out", ground.out / "o"),
        ("report", path),
    ):
        outcome = ground.command(*words)
        ground.refuses(outcome, ".")
        says_no_control(outcome.err)
