"""The recipes: the demonstration's without the new objects, and its third one mixed with own data about them.

Own data is what a user brings: `NUM_OWN` images with captions and as many with questions, of the new objects alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_train.files import read_yaml
from janus_train.paths import ROOT

NEW_OBJECTS = ("penguin", "pizza", "snowman", "guitar", "crown")
"""Objects of the demonstration that the three stages never show or name. The VQ tokenizer knows their cells, as Janus-Pro's
knows most images; the base's language model and vision encoder have met them too, as a real model's have most things."""
NUM_OWN = 500
STAGES = (1, 2, 3)


@dataclass(frozen=True)
class Mixture:
    replay: float
    """The share of the old data among the samples about images."""
    num_old: int | None = None
    """Old images with captions, and as many with questions and texts; None: all that the stages had."""


MIXTURES = {
    "own": Mixture(0),
    "replay20": Mixture(0.2),
    "replay50": Mixture(0.5),
    "replay80": Mixture(0.8),
    "few50": Mixture(0.5, NUM_OWN),
}

_DEMO = ROOT / "data_recipes" / "demo"


def recipes() -> dict[str, dict[str, Any]]:
    """File -> recipe, of the stages and of the mixtures."""
    stages = {f"stage{stage}.yaml": _without_new_objects(_DEMO / f"stage{stage}.yaml") for stage in STAGES}
    mixtures = {f"{name}.yaml": _mixed(name, mixture, stages["stage3.yaml"]) for name, mixture in MIXTURES.items()}
    return stages | mixtures


def _without_new_objects(path: Path) -> dict[str, Any]:
    recipe = read_yaml(path)
    sources = [
        source | {"paths": [str(path.parent / place) for place in source["paths"]], "without": list(NEW_OBJECTS)}
        for source in recipe["sources"]
    ]
    return recipe | {"sources": sources}


def _mixed(name: str, mixture: Mixture, old: Mapping[str, Any]) -> dict[str, Any]:
    """Own data, and the old data with its share of the weight of each kind that own data has too."""
    sources = []
    for source in old["sources"]:
        if source["kind"] != "text":
            own = {key: value for key, value in source.items() if key != "without"}
            own |= {"name": f"own_{source['name']}", "only": list(NEW_OBJECTS), "num_scenes": NUM_OWN}
            sources.append(own | {"weight": round(1 - mixture.replay, 2)})
        if mixture.replay:
            number = {} if mixture.num_old is None else {"num_scenes": mixture.num_old}
            weight = {} if source["kind"] == "text" else {"weight": mixture.replay}
            sources.append(source | number | weight)
    return dict(old) | {"name": f"demo-{name}", "sources": sources}
