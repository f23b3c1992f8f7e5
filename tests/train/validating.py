"""A recipe of the demonstration's images that holds samples out, for tests of validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from janus_train.paths import ROOT

SHARE = 0.2
NUM_SCENES = 150


def held_out_recipe(folder: Path, **changes: Any) -> Path:
    """Stage 2's sources with 150 samples each, of which a fifth is held out, and a source that is only validated on."""
    demo = ROOT / "data_recipes/demo"
    values = yaml.safe_load((demo / "stage2.yaml").read_text())
    for source in values["sources"]:
        source |= {"num_scenes": NUM_SCENES, "held_out": SHARE, "paths": [str(demo / "shards/*.tar")]}
    more = {key: value for key, value in values["sources"][2].items() if key not in ("weight", "held_out")}
    values["validation"] = [more | {"name": "more", "num_scenes": 5}]
    path = folder / "held_out.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path
