"""Turns judgements (right or wrong) into measures: shares with their intervals, chance levels and targets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from janus_train.demo.detector import DetectedObject, Detection
from janus_train.demo.objects import UNIT, Scene

Z95 = 1.959964
"""Two-sided 95 % point of the normal distribution."""

NUM_NEAR = 10
"""``object_near``: the named object is among this many nearest ones."""

LABELS = {
    "background": "Background colour",
    "count": "Number of objects",
    "side": "Left or right side",
    "side_one": "- of one object",
    "side_two": "- of two objects",
    "object": "Named object, top 1",
    "object_near": f"Named object, top {NUM_NEAR}",
    "answer_colour": "Background colour",
    "answer_count": "Number of objects",
    "answer_place": "Where an object is",
    "answer_object": "Which object it is",
}
"""The measures and their labels, in the order of the results."""

TARGETS: dict[str, dict[str, float]] = {
    "background": {"percent": 90.0},
    "object": {"times_chance": 10.0},
    "side": {"percent": 80.0},
    "answer_colour": {"percent": 80.0},
    "answer_count": {"percent": 80.0},
}
"""The targets of the demo."""


def interval(num_right: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, in percent: honest for small n and for shares near 0 and 1."""
    if n == 0:
        return 0.0, 100.0
    share, z2 = num_right / n, Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = 100 * (middle - half), 100 * (middle + half)
    return max(0.0, round(low, 6)), min(100.0, round(high, 6))  # rounded: 0 of n is 0, not 5e-17


def share(judgements: Sequence[bool]) -> dict[str, Any]:
    """The share as n, right, percent and the ends of its interval."""
    n, num_right = len(judgements), sum(judgements)
    low, high = interval(num_right, n)
    return {"n": n, "right": num_right, "percent": 100 * num_right / n if n else 0.0, "low": low, "high": high}


def commonest(values: Iterable[Hashable]) -> float:
    """The percentage that always giving the commonest value would get right."""
    counts = Counter(values)
    return 100 * max(counts.values()) / sum(counts.values()) if counts else 0.0


def measure(name: str, group: str, judgements: Sequence[bool], chance: float) -> dict[str, Any]:
    """One line of the results; ``chance`` in percent."""
    result: dict[str, Any] = {
        "name": name,
        "group": group,
        "label": LABELS[name],
        **share(judgements),
        "chance": chance,
    }
    if group == "generation" and name.startswith("object") and chance:
        result["times_chance"] = result["percent"] / chance
    target = TARGETS.get(name)
    if target:
        key, value = next(iter(target.items()))
        result |= {"asked": target, "reached": bool(judgements) and result[key] >= value}
    return result


def judge(scene: Scene, detection: Detection) -> dict[str, list[bool]]:
    """Judge an image of ``scene``: measure -> judgements, one per named object; none if the measure does not apply."""
    ranks = [
        detected_object.rank(placed_object.object.number) if detected_object else None
        for placed_object, detected_object in zip(scene.objects, _pairs(scene, detection), strict=True)
    ]
    side = _side(scene, detection)
    return {
        "background": [detection.background == scene.background],
        "count": [len(detection.objects) == len(scene.objects)],
        "side": side,
        "side_one": side if len(scene.objects) == 1 else [],
        "side_two": side if len(scene.objects) == 2 else [],
        "object": [rank == 0 for rank in ranks],
        "object_near": [rank is not None and rank < NUM_NEAR for rank in ranks],
    }


def _pairs(scene: Scene, detection: Detection) -> list[DetectedObject | None]:
    """For each named object the object in the image to compare it with: the one at its place, else an unmatched one.

    There is exactly one each, so that chance is one in all objects, and a right object at a wrong place still counts.
    """
    at_place = [detection.at(placed_object.place) for placed_object in scene.objects]
    unmatched_objects = [
        detected_object
        for detected_object in detection.objects
        if not any(detected_object is match for match in at_place)
    ]
    return [
        detected_object or (unmatched_objects.pop(0) if unmatched_objects else None) for detected_object in at_place
    ]


def _side(scene: Scene, detection: Detection) -> list[bool]:
    """Judge left and right, for scenes that have them: one object beside the middle, or two objects side by side.

    Two objects have to be nearer to their own images than to the exchanged ones.
    """
    places = tuple(placed_object.place for placed_object in scene.objects)
    if places in (("left",), ("right",)):
        if not detection.objects:
            return [False]
        x = sum(detected_object.slot.x for detected_object in detection.objects) / len(detection.objects)
        return [x < UNIT / 2 if places == ("left",) else x > UNIT / 2]
    if places == ("left", "right"):
        left, right = detection.at("left"), detection.at("right")
        if len(detection.objects) != 2 or left is None or right is None:
            return [False]
        a, b = (placed_object.object.number for placed_object in scene.objects)
        distance, swapped_distance = left.distances[a] + right.distances[b], left.distances[b] + right.distances[a]
        return [bool(distance < swapped_distance)]
    return []
