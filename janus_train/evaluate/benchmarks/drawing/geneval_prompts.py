"""GenEval's prompts: evaluation_metadata.jsonl, one JSON object a line with ``tag``, ``include``, ``exclude`` and ``prompt``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus_train.errors import UserError, shortened
from janus_train.evaluate.benchmarks.drawing.json_lines import numbered_objects
from janus_train.jsonl import Line

PROMPTS_FILE = "evaluation_metadata.jsonl"
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The six tasks, in the order in which the paper prints them."""
NUM_PROMPTS = 553
"""The published prompts; another number is another benchmark."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class Requirement:
    """So many objects of a class that an image must have, or, among the excluded ones, must not reach."""

    name: str
    count: int
    colour: str | None = None
    relation: str | None = None
    """One of `RELATIONS`, to the objects of the requirement number ``target``."""
    target: int = 0


@dataclass(frozen=True)
class GenevalPrompt:
    """One line of the file. ``line`` is the line itself, for metadata.jsonl beside the images."""

    tag: str
    prompt: str
    include: tuple[Requirement, ...]
    exclude: tuple[Requirement, ...]
    line: Line


def read_geneval_prompts(path: Path) -> list[GenevalPrompt]:
    """Reads the prompts. Raises `UserError` with the number of the first line that is not as published."""
    hint = f"GenEval's prompts are prompts/{PROMPTS_FILE} of its repository, put them there"
    return [_prompt(line, where) for where, line in numbered_objects(path, hint)]


def _prompt(line: Line, where: str) -> GenevalPrompt:
    prompt, tag = line.get("prompt"), line.get("tag")
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"{where} has no prompt")
    if tag not in TAGS:
        raise UserError(f"{where}: tag {shortened(tag)} is none of {', '.join(TAGS)}")
    include = _requirements(line.get("include"), f"{where}: include")
    if not include:
        raise UserError(f"{where} has nothing in include: no image could be wrong")
    for number, requirement in enumerate(include):
        if requirement.relation is not None and not 0 <= requirement.target < number:
            raise UserError(f"{where}: a position names entry {requirement.target} of include, not an earlier one")
    return GenevalPrompt(tag, prompt, include, _requirements(line.get("exclude", []), f"{where}: exclude"), line)


def _requirements(values: Any, where: str) -> tuple[Requirement, ...]:
    if not isinstance(values, list):
        raise UserError(f"{where} is not a list")
    return tuple(_requirement(value, where) for value in values)


def _requirement(value: Any, where: str) -> Requirement:
    if not isinstance(value, dict) or not isinstance(value.get("class"), str):
        raise UserError(f"{where}: {shortened(value)} has no class")
    name, count = value["class"], value.get("count")
    colour, position = value.get("color"), value.get("position")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UserError(f"{where}: {name} has count {shortened(count)}, not a number from 1")
    if colour is not None and colour not in COLOURS:
        raise UserError(f"{where}: {name} has color {shortened(colour)}, none of {', '.join(COLOURS)}")
    if position is None:
        return Requirement(name, count, colour)
    if not (
        isinstance(position, list) and len(position) == 2 and position[0] in RELATIONS and type(position[1]) is int
    ):
        raise UserError(
            f"{where}: {name} has position {shortened(position)}, not [RELATION, NUMBER] with a relation of {', '.join(RELATIONS)}"
        )
    return Requirement(name, count, colour, position[0], position[1])
