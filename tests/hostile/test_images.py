"""Files that pretend to be images, through the commands that take images: chat, generate, prepare."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.ground import Ground
from tests.hostile_images import HOSTILE, hostile_file, nothing_runs


@pytest.mark.parametrize("kind", HOSTILE)
def test_chat_and_generate_refuse_hostile_images(ground: Ground, random_base: Path, kind: str) -> None:
    path = hostile_file(kind, ground.data)
    with nothing_runs(ground.data):
        for command in ("chat", "generate"):
            out = ("--out", ground.out / "images") if command == "generate" else ()
            words = (command, random_base, "--image", path, "--prompt", "x", "--device", "cpu", *out)
            ground.refuses(ground.command(*words), r"holiday\.png cannot be read as an? (image|image)")


@pytest.mark.parametrize("kind", HOSTILE)
def test_prepare_skips_hostile_images(ground: Ground, kind: str) -> None:
    folder = ground.data / "apples"
    folder.mkdir()
    hostile_file(kind, folder)
    with nothing_runs(folder):
        outcome = ground.command(
            "prepare", "imagefolder", ground.data, "--out", ground.out / "o", "--max-bad", 0, "--workers", 1
        )
        ground.refuses(outcome, r"1 of 1 records cannot be used|no image|nothing|holiday")
