"""The values of the evaluation's sections: its measures, generated images and answers.

The files may come from somebody else. Texts are taken unchanged, because the templates escape them; values that set a
width must be numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from janus_train.pages.images import image_uri
from janus_train.report.read import EvaluationRecord, Line

MAX_IMAGES, MAX_ANSWERS = 24, 12
"""Limits that keep the page within a few MB."""
NONE = "–"


@dataclass(frozen=True)
class Measure:
    """A measure's share (percent) with its interval, chance, the target, and the detector's own accuracy."""

    label: Any
    percent: float
    low: float
    high: float
    num: Any
    chance: str
    target: str
    target_percent: float | None
    """The mark in the bar; None: no target."""
    reached: bool | None
    """None: no target."""
    true_images: str
    round_trips: str


@dataclass(frozen=True)
class MeasureGroup:
    """Measures that are shown in one table."""

    name: str
    measures: list[Measure]
    has_ceilings: bool


@dataclass(frozen=True)
class TextResult:
    """The perplexity of held-out dialogues."""

    perplexity: str
    num_tokens: Any
    num_dialogues: Any


@dataclass(frozen=True)
class Results:
    """The content of results.json."""

    num_prompts: Any
    num_questions: Any
    num_objects: Any
    guidance: str
    groups: list[MeasureGroup]
    text: TextResult | None


@dataclass(frozen=True)
class JudgedImage:
    """A generated image, the true one, and the detector's verdicts. An image is a ``data:`` URI, or None if missing."""

    prompt: Any
    generated: str | None
    truth: str | None
    verdicts: list[tuple[str, bool]]


@dataclass(frozen=True)
class Answer:
    """A question, the model's answer and the expected one."""

    sort: Any
    question: Any
    text: Any
    expected: Any
    right: bool
    has_image: bool
    image: str | None


def results_of(evaluation: EvaluationRecord) -> Results:
    """Returns the content of results.json, with the measures in groups."""
    values = evaluation.results
    groups: dict[str, list[Line]] = {}
    for measure in values.get("measures", []):
        groups.setdefault(measure["group"], []).append(measure)
    text = values.get("text")
    return Results(
        num_prompts=values.get("num_prompts", 0),
        num_questions=values.get("num_questions", 0),
        num_objects=values.get("num_objects", 0),
        guidance=f"{values.get('guidance', 0):g}",
        groups=[_group(name, measures) for name, measures in groups.items()],
        text=TextResult(f"{text['perplexity']:.2f}", text["tokens"], text["n"]) if text else None,
    )


def _group(name: str, measures: list[Line]) -> MeasureGroup:
    has_ceilings = any("true_pictures" in measure for measure in measures)
    return MeasureGroup(name.capitalize(), [_measure(measure) for measure in measures], has_ceilings)


def _measure(line: Line) -> Measure:
    target = line.get("asked")
    return Measure(
        label=line["label"],
        percent=float(line["percent"]),
        low=float(line["low"]),
        high=float(line["high"]),
        num=line["n"],
        chance=NONE if line.get("chance") is None else f"{line['chance']:.2g} %",
        target=f"{target['percent']:g} %" if target else NONE,
        target_percent=float(target["percent"]) if target else None,
        reached=bool(line["reached"]) if target else None,
        true_images=_ceiling(line.get("true_pictures")),
        round_trips=_ceiling(line.get("round_trips")),
    )


def _ceiling(share: Line | None) -> str:
    return f"{share['percent']:.1f} %" if share else NONE


def images_of(evaluation: EvaluationRecord) -> list[JudgedImage]:
    """Returns the first generated images, each with its prompt and the true image of the same scene."""
    return [
        JudgedImage(
            prompt=line["prompt"],
            generated=image_uri(evaluation.folder, line["picture"]),
            truth=image_uri(evaluation.folder, line["true_picture"]),
            verdicts=[(name, bool(right)) for name, right in line.get("right", {}).items()],
        )
        for line in evaluation.images[:MAX_IMAGES]
    ]


def answers_of(evaluation: EvaluationRecord) -> list[Answer]:
    """Returns questions about held-out images, a few of each sort."""
    return [
        Answer(
            sort=line["sort"],
            question=line["question"],
            text=line["answer"],
            expected=line["expected"],
            right=bool(line["right"]),
            has_image=bool(line.get("picture")),
            image=image_uri(evaluation.folder, line.get("picture")),
        )
        for line in _spread(evaluation.answers, "sort", MAX_ANSWERS)
    ]


def _spread(lines: list[Line], key: str, number: int) -> list[Line]:
    """Takes lines from each value of ``key`` in turn, ``number`` in all."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line[key], []).append(line)
    selection: list[Line] = []
    for position in range(number):
        selection += [group[position] for group in groups.values() if position < len(group)]
    return selection[:number]
