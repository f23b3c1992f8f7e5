"""GenEval's rule: whether an image is right, from the objects that a detector has found in it.

    objects -> confident ones, at most 16 a class -> enough of each class, of its colour, at its place -> none too many

An object counts if its score is above 0.3, in counting prompts above 0.9. Of a class only the most confident objects are
looked at, as many as the prompt asks for. One stands left of another if their centres are apart by more than a tenth of
both widths, and mostly in this direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.drawing.geneval_prompts import GenevalPrompt, Requirement

MIN_SCORE, MIN_COUNTING_SCORE = 0.3, 0.9
MAX_OBJECTS = 16
"""Of one class."""
MARGIN = 0.1
"""Of the sum of both objects' sizes, by which their centres may be apart without standing beside each other."""
_DIRECTION = 0.5
"""The least share of the distance that goes in a direction: at 45 degrees an object is left of another and above it."""


@dataclass(frozen=True)
class DetectedObject:
    """An object in an image. ``box``: left, top, right, bottom in pixels; ``colour``: as classified, None if nobody did."""

    name: str
    box: tuple[float, float, float, float]
    score: float
    colour: str | None = None


@dataclass(frozen=True)
class Judgement:
    """Whether an image is right, and what is wrong with it."""

    correct: bool
    reasons: tuple[str, ...]


def judge(prompt: GenevalPrompt, objects: Sequence[DetectedObject]) -> Judgement:
    """Judges an image by all the objects found in it. Raises `UserError` if an object lacks the colour that decides."""
    found = confident_objects(prompt.tag, objects)
    reasons: list[str] = []
    groups: list[list[DetectedObject] | None] = []
    for requirement in prompt.include:
        group = found.get(requirement.name, [])[: requirement.count]
        problem = _problem(requirement, group, groups)
        if problem:
            reasons.append(problem)
        groups.append(None if problem else group)
    for requirement in prompt.exclude:
        number = len(found.get(requirement.name, []))
        if number >= requirement.count:
            reasons.append(f"{requirement.name}: fewer than {requirement.count} expected, {number} found")
    return Judgement(not reasons, tuple(reasons))


def confident_objects(tag: str, objects: Sequence[DetectedObject]) -> dict[str, list[DetectedObject]]:
    """Returns the objects that count in a prompt of this tag, by class, the most confident first."""
    least = MIN_COUNTING_SCORE if tag == "counting" else MIN_SCORE
    found: dict[str, list[DetectedObject]] = {}
    for each in sorted(objects, key=lambda each: -each.score):
        of_class = found.setdefault(each.name, [])
        if each.score > least and len(of_class) < MAX_OBJECTS:
            of_class.append(each)
    return {name: of_class for name, of_class in found.items() if of_class}


def _problem(
    requirement: Requirement, group: Sequence[DetectedObject], groups: Sequence[Sequence[DetectedObject] | None]
) -> str:
    """What is wrong with the objects of a requirement; empty if nothing is."""
    if len(group) < requirement.count:
        return f"{requirement.name}: {requirement.count} expected, {len(group)} found"
    if requirement.colour is not None:
        colours = [_colour(each) for each in group]
        if colours.count(requirement.colour) < requirement.count:
            return f"{requirement.name}: {requirement.colour} expected, {', '.join(colours)} found"
    if requirement.relation is None:
        return ""
    targets = groups[requirement.target]
    if targets is None:
        return f"{requirement.name}: nothing there to be {requirement.relation}"
    for each in group:
        for target in targets:
            relations = relations_of(each, target)
            if requirement.relation not in relations:
                said = " and ".join(sorted(relations)) or "at the same place"
                return f"{requirement.name}: {requirement.relation} {target.name} expected, {said} found"
    return ""


def _colour(each: DetectedObject) -> str:
    if each.colour is None:
        raise UserError(f"the {each.name} with score {each.score:g} has no color, which the prompt asks for")
    return each.colour


def relations_of(each: DetectedObject, other: DetectedObject) -> set[str]:
    """Returns where ``each`` stands, seen from ``other``: none, one or two of `RELATIONS`. y grows downwards."""
    offset = [_centre(each, axis) - _centre(other, axis) for axis in (0, 1)]
    beyond = [
        math.copysign(max(abs(offset[axis]) - MARGIN * (_size(each, axis) + _size(other, axis)), 0.0), offset[axis])
        for axis in (0, 1)
    ]
    if max(map(abs, beyond)) < 1e-3:
        return set()
    distance = math.hypot(*offset)
    right, down = (value / distance for value in beyond)
    names = {"left of": -right, "right of": right, "above": -down, "below": down}
    return {name for name, share in names.items() if share > _DIRECTION}


def _centre(each: DetectedObject, axis: int) -> float:
    return (each.box[axis] + each.box[axis + 2]) / 2


def _size(each: DetectedObject, axis: int) -> float:
    return abs(each.box[axis + 2] - each.box[axis])
