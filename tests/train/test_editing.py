"""Editing data: prepared, trained on, and drawn from, through the same commands as everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from janus_train.config import Config
from janus_train.train.run import run
from tests.datatools.prepare.making import image_bytes, make, write
from tests.helpers import read_lines


def test_editing_data_trains(small: Callable[..., Config], tmp_path: Path) -> None:
    """As docs/data.md has it: an `<image>` in the answer is the image to draw, and it alone has loss."""
    for n in range(8):
        write(tmp_path / f"pictures/{n}.png", image_bytes(n, "PNG"))
    said = [{"from": "human", "value": "<image>\nMake it red."}, {"from": "gpt", "value": "<image>"}]
    records = [{"image": [f"{n}.png", f"{n + 1}.png"], "conversations": said} for n in range(0, 8, 2)]
    lines = write(tmp_path / "edits.jsonl", records)
    made = make("conversations", lines, out=tmp_path / "edits", images=str(tmp_path / "pictures"))
    assert made["samples"] == 4
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: edits\nlicence: mine\nsources:\n  - {name: edits, kind: generation, type: shards, template: conversation, weight: 1, paths: [edits/*.tar]}\n"
    )
    only = ("ratio.understanding=0", "ratio.text=0", f"data.recipe={recipe}", "data.guidance_dropout=0")
    folder = run(small(3, *only, "+peft=lora", "run.steps=2", "precision=fp32"))
    for line in read_lines(folder / "metrics.jsonl"):
        assert math.isfinite(line["loss/generation"]) and line["loss"] == line["loss/generation"]
        assert line["loss/text"] is None and line["loss/understanding"] is None
        assert line["samples/generation"] > 0 and line["quarantined"] == 0
