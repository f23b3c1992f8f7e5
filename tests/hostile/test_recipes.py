"""Recipes and options from somebody else, through the commands that read them: inspect, verify, plan, train."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers import Run
from tests.hostile.ground import Ground
from tests.hostile.tars import good
from tests.hostile.test_tars import SMALL

SOURCE = "{name: a, kind: generation, type: shards, template: text_to_image, weight: 1, paths: [a.tar]}"
HEAD = "name: r\nlicence: none\nsources:\n"


def with_source(**changes: str) -> str:
    """A recipe whose one source has these values, as YAML."""
    values = {
        "name": "a",
        "kind": "generation",
        "type": "shards",
        "template": "text_to_image",
        "weight": "1",
        "paths": "[a.tar]",
    }
    return HEAD + "  - {" + ", ".join(f"{key}: {value}" for key, value in (values | changes).items()) + "}\n"


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines) + "\nname: *a11\nlicence: none\nsources: *a11\n"


RECIPES: dict[str, tuple[str, str]] = {
    "empty": ("", "the recipe is empty"),
    "a list": ("[1, 2]", "the recipe is empty"),
    "words": ("these are words", "the recipe is empty"),
    "no sources": ("name: r\nlicence: none\nsources: []\n", "the recipe is empty"),
    "a tag of code": ("!!python/object/apply:os.system ['touch ../code_ran']", "not valid YAML"),
    "a tag of code in a name": (
        with_source(name="!!python/object/apply:os.system ['touch ../code_ran']"),
        "not valid YAML",
    ),
    "a tag of its own": (with_source(name="!evil x"), "not valid YAML"),
    "a bomb of aliases": (bomb(), "not valid YAML|recipe"),
    "an alias of itself": ("a: &a [*a]\nname: *a\nlicence: none\nsources: *a\n", "not valid YAML|recipe"),
    "nested deep": ("[" * 100_000, "not valid YAML"),
    "control characters": (with_source(name='"a\x07b"'), "not valid YAML"),
    "two documents": (f"{with_source()}---\n{with_source()}", "not valid YAML"),
    "a merge of lists": ("<<: [1]\nname: r\n", "not valid YAML|recipe"),
    "an unknown key": (with_source(evil="1"), "evil"),
    "an unknown key above": ("evil: 1\n" + with_source(), "evil"),
    "a target of code": (with_source(_target_="os.system"), "_target_"),
    "an unknown type": (with_source(type="os.system"), "type"),
    "an unknown template": (with_source(template="__import__"), "__import__"),
    "an unknown kind": (with_source(kind="evil"), "kind"),
    "a weight of NaN": (with_source(weight=".nan"), "weight"),
    "a weight of infinity": (with_source(weight=".inf"), "weight|a\\.tar|ratio|sources"),
    "a weight below zero": (with_source(weight="-1"), "weight"),
    "a weight of letters": (with_source(weight="much"), "weight"),
    "a weight of 10^400": (with_source(weight="1" + "0" * 400), "weight"),
    "a weight that is a date": (with_source(weight="2026-13-45"), "weight|YAML"),
    "no paths": (with_source(paths="[]"), "paths"),
    "paths that are numbers": (with_source(paths="[1]"), "paths"),
    "a path to nothing": (with_source(paths="[no*.tar]"), "nothing is at 'no"),
    "a path with a null": (with_source(paths='["a\\0.tar"]'), "a"),
    "a long path": (with_source(paths=f"[{'x' * 10_000}]"), "is longer than a path can be"),
    "a path to a device": (with_source(paths="[/dev/zero]"), "/dev/zero"),
    "a path to a pipe": (with_source(paths="[pipe.tar]"), "pipe.tar"),
    "a path to a folder of others": (with_source(paths="[/etc]"), "/etc"),
    "a path to a file of others": (with_source(paths="[/etc/passwd]"), "/etc/passwd"),
    "a pipe address": (with_source(paths='["pipe:touch code_ran"]'), "pipe"),
    "a pipe URL": (with_source(paths='["pipe://touch code_ran"]'), "URLs may begin with"),
    "a chained URL": (
        with_source(paths='["simplecache::http://127.0.0.1:9/a.tar"]'),
        "URLs may begin with|nothing is at",
    ),
    "a URL of a shell": (with_source(paths='["ssh://x/a.tar"]'), "URLs may begin with"),
    "a URL with a password": (with_source(paths='["http://u:secret@127.0.0.1:9/a.tar"]'), "^(?!.*secret)"),
    "a pattern without end": (with_source(paths=f"['{'*/' * 12}x.tar']"), "nothing is at"),
    "one name twice": (HEAD + f"  - {SOURCE}\n  - {SOURCE}\n", "two sources are called 'a'"),
    "a name of markup": (with_source(name='"[/bold][link=x]"', paths="[no.tar]"), "nothing is at"),
    "a long name": (with_source(name="n" * 100_000, paths="[no.tar]"), "."),
    "a list of 5,000 sources": (HEAD + "  - {}\n" * 5_000, "sources"),
    "an option of another type": (with_source(view="x"), "view is an option of type scenes"),
}
"""Name -> (the file, what is said of it)."""


@pytest.fixture
def data(ground: Ground, run: Run) -> Path:
    (ground.data / "a.tar").write_bytes(good())
    assert run("index", ground.data / "a.tar", "--workers", 1)[0] == 0
    os.mkfifo(ground.data / "pipe.tar")
    return ground.data


@pytest.mark.parametrize("name", RECIPES)
def test_a_hostile_recipe_is_refused_in_one_line(ground: Ground, data: Path, name: str) -> None:
    text, line = RECIPES[name]
    path = data / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    ways = (
        ("inspect", *SMALL, "ratio.understanding=0", f"data.recipe={path}"),
        ("verify", path, "--workers", 1),
    )
    for words in ways:
        outcome = ground.command(*words)
        (ground.reports if outcome.code == 1 else ground.refuses)(outcome, line)


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device", "no UTF-8", "a link out", "missing"])
def test_a_recipe_that_is_no_text_is_refused(ground: Ground, kind: str) -> None:
    path = ground.data / "recipe.yaml"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind in ("a device", "a link out"):
        path.symlink_to("/dev/zero" if kind == "a device" else ground.secret)
    elif kind == "no UTF-8":
        path.write_bytes(b"\xff\xfe\x00")
    ground.refuses(ground.command("inspect", *SMALL, f"data.recipe={path}"), r"recipe\.yaml")
    ground.refuses(ground.train("+stage=1", f"data.recipe={path}"), r"recipe\.yaml")


OVERRIDES = {
    "a target of code": "+model._target_=os.system",
    "a resolver": "output_dir=${oc.env:HOME}",
    "an unknown resolver": "output_dir='${evil:touch code_ran}'",
    "a nested dictionary": "+a.b.c.d={e: {f: 1}}",
    "a number of 400 digits": "batch.row_tokens=" + "9" * 400,
    "rows below zero": "batch.rows_per_step=-1",
    "NaN": "optim.learning_rate=nan",
    "infinity": "optim.learning_rate=inf",
    "a huge row": "batch.row_tokens=9223372036854775808",
    "no end of quotes": "output_dir='x",
    "a list": "batch.row_tokens=[1,2]",
    "control characters": "seed=\x1b[2J",
    "a group that leaves": "model=../../../etc/passwd",
    "an absolute group": "model=/etc/passwd",
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_hostile_options_are_refused_in_one_line(ground: Ground, name: str) -> None:
    override = OVERRIDES[name]
    for words in (("inspect", *SMALL, override), ("plan", "+stage=1", override)):
        outcome = ground.command(*words)
        ground.is_clean(outcome)
        if name != "a resolver":  # hydra's own, of the one who types: it is a path like another
            ground.refuses(outcome, ".")
