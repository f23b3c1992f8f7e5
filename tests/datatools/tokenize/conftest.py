"""Shards to cache codes in, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from janus_train.data.shards.index import write_listing
from tests.helpers import encoded, make_shard


def noise(seed: int, size: tuple[int, int] = (90, 70)) -> bytes:
    """An image with detail, so that no two have the same codes."""
    coarse = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return encoded(Image.fromarray(coarse).resize(size))


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Three tars of captioned images with a listing; in the first also a sample of two images and one of none."""
    folder = tmp_path / "shards"
    folder.mkdir()
    tars = []
    for number in range(3):
        members: dict[str, object] = {}
        for n in range(4):
            members |= {
                f"{number}{n}.png": noise(10 * number + n),
                f"{number}{n}.json": {"caption": f"Image {n}. Noise."},
            }
        if number == 0:
            members |= {"two.json": {"conversations": []}, "two.1.png": noise(91), "two.0.png": noise(90)}
            members |= {"none.json": {"text": "words"}, "notes.xml": b"<left alone/>"}
        tars.append(make_shard(folder / f"s-{number}.tar", members))  # type: ignore[arg-type]
    write_listing(folder)
    return tars
