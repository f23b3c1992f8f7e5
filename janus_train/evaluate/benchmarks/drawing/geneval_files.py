"""What has been found out about GenEval's images: the scorer's results, or a detector's objects. Both are JSON lines.

results     {"filename": ".../00000/samples/0000.png", "tag": "counting", "correct": true, ...}
detections  {"image": "00000/samples/0000.png", "objects": [{"class", "box": [l, t, r, b], "score", "color"}, ...]}
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from janus_train.errors import UserError, shortened
from janus_train.evaluate.benchmarks.drawing.geneval_prompts import COLOURS, TAGS, GenevalPrompt
from janus_train.evaluate.benchmarks.drawing.geneval_rule import DetectedObject, judge
from janus_train.evaluate.benchmarks.drawing.json_lines import numbered_objects
from janus_train.jsonl import Line

SAMPLES = 4
"""Images of each prompt."""


@dataclass(frozen=True)
class JudgedImage:
    """An image of one prompt, right or wrong. ``image``: its `image_name`; empty if the file does not say."""

    image: str
    tag: str
    correct: bool
    reasons: tuple[str, ...] = ()


def image_name(number: int, sample: int) -> str:
    """The path of an image below the images' folder, as published: ``00000/samples/0000.png``."""
    return f"{number:05d}/samples/{sample:04d}.png"


def read_judgements(path: Path, prompts: Sequence[GenevalPrompt]) -> tuple[list[JudgedImage], str]:
    """Reads results or detections, and says which they are: ``results`` or ``detections``.

    Raises `UserError` for a line that is neither, that is about no image of ``prompts``, or about one a second time.
    """
    prompt_of = {image_name(n, sample): prompt for n, prompt in enumerate(prompts) for sample in range(SAMPLES)}
    judged: list[JudgedImage] = []
    kinds: set[str] = set()
    seen: set[str] = set()
    for where, line in numbered_objects(path, "give the file that the scorer wrote"):
        kind = "detections" if "objects" in line else "results"
        kinds.add(kind)
        if len(kinds) > 1:
            raise UserError(f"{where} is one of {kind}, and earlier lines are not: give one file of one kind")
        each = _detection(line, where, prompt_of) if kind == "detections" else _result(line, where, prompt_of)
        if each.image in seen:
            raise UserError(f"{where}: {each.image} stands there twice")
        seen |= {each.image} if each.image else set()
        judged.append(each)
    return judged, kinds.pop()


def _result(line: Line, where: str, prompt_of: dict[str, GenevalPrompt]) -> JudgedImage:
    tag, correct = line.get("tag"), line.get("correct")
    if tag not in TAGS:
        raise UserError(f"{where}: tag {shortened(tag)} is none of {', '.join(TAGS)}")
    if correct not in (0, 1):  # True and False are 1 and 0
        raise UserError(f"{where}: correct is {shortened(correct)}, not true or false")
    if "filename" not in line:
        return JudgedImage("", tag, bool(correct))
    name = _name(line["filename"], where, prompt_of)
    if prompt_of[name].tag != tag:
        raise UserError(
            f"{where}: tag {tag}, but the prompt of {name} has {prompt_of[name].tag}: these are other prompts"
        )
    return JudgedImage(name, tag, bool(correct))


def _detection(line: Line, where: str, prompt_of: dict[str, GenevalPrompt]) -> JudgedImage:
    name = _name(line.get("image"), where, prompt_of)
    if not isinstance(line["objects"], list):
        raise UserError(f"{where}: objects is not a list")
    objects = [_object(value, where) for value in line["objects"]]
    try:
        judgement = judge(prompt_of[name], objects)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return JudgedImage(name, prompt_of[name].tag, judgement.correct, judgement.reasons)


def _name(value: Any, where: str, prompt_of: dict[str, GenevalPrompt]) -> str:
    """The `image_name` at the end of a path."""
    name = "/".join(PurePosixPath(value).parts[-3:]) if isinstance(value, str) else ""
    if name not in prompt_of:
        raise UserError(f"{where}: {shortened(value)} is none of the images, such as {image_name(0, 0)}")
    return name


def _object(value: Any, where: str) -> DetectedObject:
    if not isinstance(value, dict) or not isinstance(value.get("class"), str):
        raise UserError(f"{where}: {shortened(value)} has no class")
    values: dict[str, Any] = {"box": None, "score": None, "color": None, **value}
    name, box, score, colour = (values[key] for key in ("class", "box", "score", "color"))
    if not _are_numbers(box, 4):
        raise UserError(f"{where}: {name} has box {shortened(box)}, not [left, top, right, bottom]")
    if not _are_numbers([score], 1):
        raise UserError(f"{where}: {name} has score {shortened(score)}, not a number")
    if colour is not None and colour not in COLOURS:
        raise UserError(f"{where}: {name} has color {shortened(colour)}, none of {', '.join(COLOURS)}")
    left, top, right, bottom = box
    return DetectedObject(name, (left, top, right, bottom), score, colour)


def _are_numbers(values: Any, number: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == number
        and all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
    )
