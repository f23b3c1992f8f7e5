"""From judgements (right or wrong) to shares with their intervals, and what each is to be compared with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from janus_train.data.scene_things import UNIT, Scene
from janus_train.evaluate.detector import Detection, Found

Z95 = 1.959964
"""Two-sided 95 % point of the normal distribution."""

NEAR = 10
"""``object_near``: the named object is among so many nearest ones."""

LABELS = {
    "background": "Background colour",
    "count": "Number of objects",
    "side": "Left or right side",
    "side_one": "- of one object",
    "side_two": "- of two objects",
    "object": "Named object, top 1",
    "object_near": f"Named object, top {NEAR}",
    "answer_colour": "Background colour",
    "answer_count": "Number of objects",
    "answer_place": "Where an object is",
    "answer_object": "Which object it is",
}
"""Every measure in the order in which it is shown."""

ASKED: dict[str, dict[str, float]] = {
    "background": {"percent": 90.0},
    "object": {"times_chance": 10.0},
    "side": {"percent": 80.0},
    "answer_colour": {"percent": 80.0},
    "answer_count": {"percent": 80.0},
}
"""What the demo sets out to reach."""


def interval(right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent: honest for small n and for shares near 0 and 1."""
    if n == 0:
        return 0.0, 100.0
    share, z2 = right / n, Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = 100 * (middle - half), 100 * (middle + half)
    return max(0.0, round(low, 6)), min(100.0, round(high, 6))  # rounded: 0 of n is 0, not 5e-17


def share(judgements: Sequence[bool]) -> dict[str, Any]:
    """n, right, percent and the interval's ends."""
    n, right = len(judgements), sum(judgements)
    low, high = interval(right, n)
    return {"n": n, "right": right, "percent": 100 * right / n if n else 0.0, "low": low, "high": high}


def commonest(values: Iterable[Hashable]) -> float:
    """Percent that always giving the commonest value would get right."""
    counts = Counter(values)
    return 100 * max(counts.values()) / sum(counts.values()) if counts else 0.0


def measure(name: str, group: str, judgements: Sequence[bool], chance: float) -> dict[str, Any]:
    """One line of the results; ``chance`` in percent."""
    found: dict[str, Any] = {"name": name, "group": group, "label": LABELS[name], **share(judgements), "chance": chance}
    if group == "generation" and name.startswith("object") and chance:
        found["times_chance"] = found["percent"] / chance
    asked = ASKED.get(name)
    if asked:
        key, value = next(iter(asked.items()))
        found |= {"asked": asked, "reached": bool(judgements) and found[key] >= value}
    return found


def judge(scene: Scene, detection: Detection) -> dict[str, list[bool]]:
    """What is right about an image of ``scene``: measure -> judgements (one a named object; none where it does not apply)."""
    ranks = [
        found.rank(placed.thing.number) if found else None
        for placed, found in zip(scene.placed, _pairs(scene, detection), strict=True)
    ]
    side = _side(scene, detection)
    return {
        "background": [detection.background == scene.background],
        "count": [len(detection.found) == len(scene.placed)],
        "side": side,
        "side_one": side if len(scene.placed) == 1 else [],
        "side_two": side if len(scene.placed) == 2 else [],
        "object": [rank == 0 for rank in ranks],
        "object_near": [rank is not None and rank < NEAR for rank in ranks],
    }


def _pairs(scene: Scene, detection: Detection) -> list[Found | None]:
    """For each named object the one thing in the image it is compared with: what is at its place, else one left over.

    Exactly one each, so that chance is one in all objects, and so that a right object at a wrong place still counts.
    """
    at_place = [detection.at(placed.place) for placed in scene.placed]
    rest = [found for found in detection.found if not any(found is used for used in at_place)]
    return [found or (rest.pop(0) if rest else None) for found in at_place]


def _side(scene: Scene, detection: Detection) -> list[bool]:
    """Left and right, for scenes that have them: one object beside the middle, or two objects side by side.

    Of two objects each has to be nearer to its own image than the two exchanged.
    """
    places = tuple(placed.place for placed in scene.placed)
    if places in (("left",), ("right",)):
        if not detection.found:
            return [False]
        x = sum(found.slot.x for found in detection.found) / len(detection.found)
        return [x < UNIT / 2 if places == ("left",) else x > UNIT / 2]
    if places == ("left", "right"):
        left, right = detection.at("left"), detection.at("right")
        if len(detection.found) != 2 or left is None or right is None:
            return [False]
        a, b = (placed.thing.number for placed in scene.placed)
        as_asked, swapped = left.distances[a] + right.distances[b], left.distances[b] + right.distances[a]
        return [bool(as_asked < swapped)]
    return []
