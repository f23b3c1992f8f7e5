"""`janus-train verify`: every fault is found, named once and counted as what it is; what is fine passes."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from janus_train.data.shards.index import index_path, write_listing
from janus_train.data.special_tokens import EOS
from janus_train.datatools.verify import pool
from tests.helpers import Run, encoded, make_shard, plain_image, read_lines
from tests.processes import SERVER


def good_samples(number: int, start: int = 0) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for n in range(start, start + number):
        members |= {f"g{n:04d}.json": {"caption": f"number {n}"}, f"g{n:04d}.png": encoded(plain_image(size=(9, 8)))}
    return members


def row_of(output: str, name: str) -> list[str]:
    return next([c.strip() for c in line.strip("│ \n").split("│")] for line in output.splitlines() if name in line)


def test_what_is_fine_passes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    unusual = {"cmyk": Image.new("CMYK", (8, 9)), "grey": Image.new("L", (8, 9)), "palette": Image.new("P", (8, 9))}
    members: dict[str, Any] = good_samples(3)
    for name, image in unusual.items():
        form = "JPEG" if name == "cmyk" else "PNG"
        members |= {
            f"{name}.json": {"class_name": name},
            f"{name}.{form.lower().replace('jpeg', 'jpg')}": encoded(image, form),
        }
    members |= {
        "deep.json": {"class_name": "deep"},
        "deep.png": encoded(Image.fromarray(np.full((8, 9), 60000, np.uint16))),
    }
    turns = [
        {"role": "user", "content": "<image_placeholder> and <image_placeholder>?"},
        {"role": "assistant", "content": "No."},
    ]
    members |= {
        "talk.json": {"conversations": turns},
        "talk.0.png": encoded(plain_image()),
        "talk.1.png": encoded(plain_image()),
    }
    members |= {
        "ask.json": {"question": "What?", "answer": "That."},
        "ask.png": encoded(plain_image()),
        "read.json": {"text": "文"},
    }
    make_shard(tmp_path / "a.tar", members)
    make_shard(tmp_path / "b.tar", good_samples(2))
    code, output, error_output = run("verify", ".", "--out", "q.jsonl")
    assert code == 0 and not error_output
    assert row_of(output, ".")[1:5] == ["12", "12", "0", "0"]
    assert output.endswith("fit for training: 12 samples, none damaged, none bad\n")
    assert read_lines(tmp_path / "q.jsonl") == []


def huge() -> bytes:
    """A PNG of 13,000 x 13,000 by what its header says."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 13_000, 13_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


PNG = encoded(plain_image())
JPEG = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8)), "JPEG")
TURN = {"role": "user", "content": "<image_placeholder> What?"}
ANSWER = {"role": "assistant", "content": "That."}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "cut jpeg": ({"x.json": {"caption": "x"}, "x.jpg": JPEG[: len(JPEG) // 2]}, "cannot be decoded"),
    "cut png": ({"x.json": {"caption": "x"}, "x.png": PNG[: len(PNG) // 2]}, "cannot be"),
    "no image": ({"x.json": {"caption": "x"}, "x.png": b"<html>"}, "not an image"),
    "no image at all": ({"x.json": {"caption": "x"}}, "0 images where"),
    "too large": ({"x.json": {"caption": "x"}, "x.png": huge()}, "13000 x 13000"),
    "bad JSON": ({"x.json": b"{", "x.png": PNG}, "JSON cannot be read"),
    "bad UTF-8": ({"x.json": b'{"caption": "\xff"}', "x.png": PNG}, "cannot be read"),
    "a list": ({"x.json": b"[1]", "x.png": PNG}, "not an object"),
    "no field": ({"x.json": {"words": "x"}, "x.png": PNG}, "none of the fields"),
    "empty": ({"x.json": {"caption": " "}, "x.png": PNG}, "is empty"),
    "wrong type": ({"x.json": {"text": 3}}, "not a string"),
    "special token": ({"x.json": {"text": f"a {EOS} b"}}, "special token"),
    "placeholders": ({"x.json": {"conversations": [TURN, ANSWER]}}, "1 placeholders but 0 images"),
    "turns": ({"x.json": {"conversations": [ANSWER]}}, "do not alternate"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_sample_is_named_with_its_reason(run: Run, tmp_path: Path, name: str) -> None:
    members, reason = FAULTS[name]
    make_shard(tmp_path / "x.tar", {**good_samples(2), **members})
    code, output, _ = run("verify", tmp_path / "x.tar", "--out", tmp_path / "q.jsonl")
    [line] = read_lines(tmp_path / "q.jsonl")
    assert code == 1 and "source 'x.tar' has 1 bad of 3 samples, over 1 %" in output
    assert (line["source"], line["index"], line["key"], line["damaged"]) == ("x.tar", 2, "x", False)
    assert reason in line["reason"] and "\n" not in line["reason"]
    assert run("verify", tmp_path / "x.tar", "--max-bad", 0.5)[0] == 0


def flip(tar: Path, place: int) -> None:
    data = bytearray(tar.read_bytes())
    data[place] ^= 1
    tar.write_bytes(bytes(data))


def test_damage_is_counted_apart_and_the_rest_is_looked_at(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped JSON, a flipped header, a cut tar, one without index, a flipped image, and a whole one between them."""
    folder = tmp_path / "shards"
    folder.mkdir()
    tars = [make_shard(folder / f"{n}.tar", good_samples(3, 3 * n)) for n in range(6)]
    write_listing(folder)
    flip(tars[0], tars[0].read_bytes().index(b'{"caption": "number 1"}') + 15)
    flip(tars[1], 120)  # of the first header: its mode's text
    tars[2].write_bytes(tars[2].read_bytes()[:-1024])
    index_path(tars[3]).unlink()
    flip(tars[5], tars[5].read_bytes().index(b"\x89PNG") + 30)
    bad = {**good_samples(150), "bad.json": {"text": ""}}
    make_shard(folder / "4.tar", bad)
    write_listing(folder)
    monkeypatch.chdir(tmp_path)
    code, output, _ = run("verify", "shards", "--out", tmp_path / "q.jsonl")
    assert code == 1
    found = [(line["index"], Path(line["key"]).name, line["damaged"]) for line in read_lines(tmp_path / "q.jsonl")]
    assert found == [
        (None, "2.tar", True),
        (None, "3.tar", True),
        (None, "0.tar", True),
        (1, "g0001", True),
        (None, "1.tar", True),
        (156, "bad", False),
        (None, "5.tar", True),
        (157, "g0015", True),
    ]
    assert row_of(output, "shards")[1:5] == ["160", "157", "1", "7"]
    assert "not fit for training: 7 damaged" in output and str(tmp_path / "q.jsonl") in output


def test_one_in_a_hundred_is_the_limit(run: Run, tmp_path: Path) -> None:
    make_shard(tmp_path / "x.tar", {**good_samples(99), "x.json": {"text": ""}})
    code, output, error_output = run("verify", tmp_path / "x.tar")
    assert code == 0 and "fit for training: 100 samples, none damaged, 1 bad" in output
    assert error_output == "x.tar: x: field 'text' is empty\n", "without --out the first ones are told"
    make_shard(tmp_path / "x.tar", {**good_samples(98), "x.json": {"text": ""}, "y.json": {"text": ""}})
    assert run("verify", tmp_path / "x.tar")[0] == 1


def recipe(path: Path, *sources: dict[str, Any]) -> Path:
    path.write_text(
        yaml.safe_dump({"name": "own", "licence": "none", "sources": [{"weight": 1, **s} for s in sources]})
    )
    return path


def test_a_recipes_template_is_what_counts(run: Run, tmp_path: Path) -> None:
    make_shard(tmp_path / "x.tar", {**good_samples(3), "t.json": {"text": "words"}})
    as_text = {"name": "read", "kind": "text", "type": "shards", "template": "text", "paths": ["x.tar"]}
    as_image = {
        "name": "draw",
        "kind": "generation",
        "type": "shards",
        "template": "text_to_image",
        "paths": ["x.tar"],
    }
    path = recipe(tmp_path / "own.yaml", as_text, as_image)
    code, output, _ = run("verify", path, "--out", tmp_path / "q.jsonl")
    assert code == 1
    assert row_of(output, "read")[1:5] == ["4", "0", "3", "0"]
    assert row_of(output, "draw")[1:5] == ["4", "3", "1", "0"]
    assert [line["source"] for line in read_lines(tmp_path / "q.jsonl")] == ["read"] * 3 + ["draw"]


def test_sources_without_shards(run: Run, tmp_path: Path) -> None:
    plain_image(size=(9, 9)).save(tmp_path / "a.png")
    lines = [
        {"caption": "a", "image": "a.png"},
        {"caption": "b", "image": "none.png"},
        {"caption": "c", "image": "../a.png"},
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "classes/dog").mkdir(parents=True)
    plain_image().save(tmp_path / "classes/dog/1.png")
    (tmp_path / "classes/dog/2.jpg").write_bytes(JPEG[:300])
    path = recipe(
        tmp_path / "own.yaml",
        {
            "name": "lines",
            "kind": "understanding",
            "type": "jsonl",
            "template": "image_caption",
            "paths": ["data.jsonl"],
        },
        {
            "name": "classes",
            "kind": "generation",
            "type": "imagefolder",
            "template": "class_to_image",
            "paths": ["classes"],
        },
    )
    code, output, _ = run("verify", path, "--out", tmp_path / "q.jsonl")
    assert code == 1
    found = [(line["source"], line["index"], line["key"]) for line in read_lines(tmp_path / "q.jsonl")]
    assert found == [("lines", 1, "data.jsonl:2"), ("lines", 2, "data.jsonl:3"), ("classes", 1, "dog/2.jpg")]
    assert row_of(output, "lines")[1:5] == ["3", "1", "2", "0"] and row_of(output, "classes")[1] == "2"


def test_images_per_sample_are_counted(run: Run, tmp_path: Path) -> None:
    turns = [{"role": "User", "content": "Which one?"}, {"role": "Assistant", "content": "None."}]
    shown = [{"role": "User", "content": "<image_placeholder>" * 2 + "?"}, turns[1]]
    make_shard(tmp_path / "words.tar", {f"{n}.json": {"conversations": turns} for n in range(3)})
    mixed: dict[str, Any] = {"a.json": {"conversations": turns}, "c.json": {"conversations": shown}}
    mixed |= {f"c.{n}.png": encoded(plain_image()) for n in range(2)}
    mixed |= {"bad.json": {"conversations": shown}, "bad.png": encoded(plain_image())}
    make_shard(tmp_path / "mixed.tar", mixed)
    sources = [
        {
            "name": name,
            "kind": kind,
            "type": "shards",
            "template": "conversation",
            "paths": [f"{name.partition('-')[0]}.tar"],
        }
        for name, kind in (("words", "understanding"), ("mixed", "understanding"), ("words-text", "text"))
    ]
    path = recipe(tmp_path / "r.yaml", *sources)
    code, output, notes = run("verify", path, "--max-bad", 0.5, "--json", tmp_path / "verify.json")
    assert code == 0
    assert [row_of(output, f"{name} ")[-1] for name in ("words", "mixed")] == ["0", "0: 1, 2: 1"]
    [warning] = [line for line in notes.splitlines() if line.startswith("warning")]
    assert warning.startswith(
        "warning: source 'words' is of kind understanding, but none of its 3 good samples has an image"
    )
    values = json.loads((tmp_path / "verify.json").read_text())
    assert [(s["source"], s["images_per_sample"], s["images"], s["bad"]) for s in values["sources"]] == [
        ("words", {"0": 3}, 0, 0),
        ("mixed", {"0": 1, "2": 1}, 2, 1),
        ("words-text", {"0": 3}, 0, 0),
    ]
    assert values["fit"] and values["warnings"] == [warning.removeprefix("warning: ")]


def test_what_stands_beside_the_tars_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data/more").mkdir(parents=True)
    make_shard(tmp_path / "data/a.tar", good_samples(2))
    make_shard(tmp_path / "data/more/b.tar", good_samples(2))
    write_listing(tmp_path / "data")
    (tmp_path / "data/c.tar.gz").write_bytes(b"x")
    code, output, notes = run("verify", tmp_path / "data", "--json", tmp_path / "verify.json")
    assert code == 0 and "2 samples" in output
    assert notes == "not used: 1 file .gz, 1 folder with tars inside a folder or pattern of tars\n"
    assert json.loads((tmp_path / "verify.json").read_text())["unused"]["files .gz"] == 1


def test_lengths_are_counted_with_a_tokenizer(run: Run, tmp_path: Path, random_base: Path) -> None:
    long_text = "word " * 300
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho."}]
    members = {
        "cap.json": {"caption": long_text},
        "cap.png": PNG,
        "text.json": {"text": long_text},
        "talk.json": {"conversations": [*turns, {"role": "user", "content": long_text}, ANSWER]},
        "monologue.json": {"conversations": [{"role": "user", "content": long_text}, ANSWER]},
        **good_samples(2),
    }
    make_shard(tmp_path / "x.tar", members)
    words = ("verify", tmp_path / "x.tar", "--out", tmp_path / "q.jsonl", "--model", random_base, "--row-tokens")
    code, output, _ = run(*words, 256)
    assert code == 1
    assert (
        "source 'x.tar': 4 of 6 samples are longer than a row of 256 tokens: 2 skipped and counted as bad, 1 without their "
        "last turns, 1 cut over several rows\n" in output
    )
    found = {line["key"]: line["reason"] for line in read_lines(tmp_path / "q.jsonl")}
    assert set(found) == {"cap", "monologue"}, "texts are cut, dialogues lose their last turns"
    assert all("do not fit a row of 256" in reason for reason in found.values())
    assert run(*words, 10)[0] == 1 and len(read_lines(tmp_path / "q.jsonl")) == 5  # an image has 64 tokens
    code, output, _ = run(*words, 5000)
    assert code == 0 and "longer than a row" not in output
    _, output, _ = run("verify", tmp_path / "x.tar")
    assert "lengths were not counted: --model FOLDER and --row-tokens N (batch.row_tokens) do\n" in output


def test_several_processes_find_the_same_in_the_same_order(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked from a server that has imported everything; tests/test_plugins.py has spawned ones."""
    monkeypatch.setattr(pool.multiprocessing, "get_context", lambda _: SERVER)
    folder = tmp_path / "shards"
    folder.mkdir()
    for n in range(3):
        members = {
            **good_samples(250, 1000 * n),
            **{f"z{n}{i}.json": {"text": "" if i % 3 else "words"} for i in range(20)},
        }
        make_shard(folder / f"{n}.tar", members)
    flip(folder / "1.tar", folder.joinpath("1.tar").read_bytes().index(b'"number 1001"') + 3)
    found = []
    for workers in (1, 2):
        code, output, _ = run("verify", folder, "--out", tmp_path / "q.jsonl", "--workers", workers)
        found.append((code, output, (tmp_path / "q.jsonl").read_text()))
    assert found[0] == found[1] and len(found[0][2].splitlines()) == 41


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["NOWHERE"], "NOWHERE: there is nothing"),
        (["FOLDER"], "it is neither a .tar nor a folder with .tar files nor a recipe's .yaml"),
        (["none.yaml"], "there is no file"),
        (["x.tar", "--model", "BASE"], "--model and --row-tokens need each other"),
        (["x.tar", "--model", "FOLDER", "--row-tokens", "9"], "config.json is missing"),
        (["x.tar", "--model", "NOWHERE", "--row-tokens", "9"], "there is no such folder"),
        (["x.tar", "--out", "FOLDER"], "FOLDER is a folder"),
        (["x.tar", "--out", "NOWHERE/q.jsonl"], "there is no folder NOWHERE"),
        (["x.tar", "--max-bad", "2"], "'--max-bad'"),
        (["odd.yaml"], "there is no template 'nonsense'"),
        (["ftp://example.org/x.tar"], "URLs may begin with"),
    ],
)
def test_mistakes_are_one_line(
    run: Run, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    make_shard(tmp_path / "x.tar", good_samples(1))
    source = {"name": "s", "kind": "text", "type": "shards", "template": "nonsense", "paths": ["x.tar"]}
    recipe(tmp_path / "odd.yaml", source)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    code, output, error_output = run("verify", *[str(random_base) if word == "BASE" else word for word in words])
    assert code == 2 and not output and error_output.count("\n") == 1 and message in error_output, error_output
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
