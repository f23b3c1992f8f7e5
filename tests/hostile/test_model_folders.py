"""Model folders from somebody else through every way that loads one: generate, chat, export, init_from, model=from_folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.hostile.ground import Ground, Outcome
from tests.hostile.models import HARMLESS, REFUSED

WAYS = ("generate", "chat", "export", "init_from", "from_folder")


@pytest.fixture
def model(ground: Ground, random_base: Path) -> Path:
    """A good folder, to be spoilt."""
    return Path(shutil.copytree(random_base, ground.data / "model"))


def enter(ground: Ground, model: Path, way: str) -> Outcome:
    if way == "generate":
        words = ("--prompt", "a dog", "--num-images", 1, "--out", ground.out / "images", "--device", "cpu")
        return ground.command("generate", model, *words)
    if way == "chat":
        return ground.command("chat", model, "--prompt", "What?", "--max-new-tokens", 2, "--device", "cpu")
    if way == "export":
        return ground.command("export", model, "--out", ground.out / "exported", "--format", "hf")
    return ground.train(
        "+stage=1", f"init_from={model}", "data=demo", *(("model=from_folder",) if way == "from_folder" else ())
    )


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_folder_is_refused_in_one_line(ground: Ground, model: Path, name: str) -> None:
    """By the ways that take turns with the cases; each of them is tried with many of the faults."""
    change, line = REFUSED[name]
    change(model)
    place = list(REFUSED).index(name)
    for way in {WAYS[place % 2], WAYS[2 + place % 3]}:
        ground.refuses(enter(ground, model, way), line)
    assert not list(ground.out.rglob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_folder_is_refused_by_every_way(ground: Ground, model: Path, name: str, way: str) -> None:
    change, line = REFUSED[name]
    change(model)
    ground.refuses(enter(ground, model, way), line)


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("way", ("chat", "generate", "init_from"))
def test_code_in_a_folder_is_never_run(ground: Ground, model: Path, name: str, way: str) -> None:
    HARMLESS[name](model)
    ground.is_clean(enter(ground, model, way))


@pytest.mark.parametrize(
    "name",
    [
        "../../etc",
        "org/../../etc",
        "http://127.0.0.1:9/model",
        "file:///etc",
        "pipe:touch code_ran",
        "a\0b",
        "x" * 5000,
        "",
        " ",
    ],
)
@pytest.mark.parametrize("way", ("chat", "init_from"))
def test_hostile_names_of_models_are_refused(
    ground: Ground, name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcome = (
        ground.command("chat", name, "--prompt", "x", "--device", "cpu")
        if way == "chat"
        else ground.train("+stage=1", "data=demo", f"init_from='{name}'")
    )
    ground.refuses(outcome, ".")
