"""The values of the sections on an evaluation of own data: losses, scores, answers, generated images, origin.

In: what ``janus-train evaluate MODEL DATA`` wrote, or somebody else. Texts are taken unchanged, because the templates
escape them; figures must be numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from janus_train.jsonl import Line
from janus_train.pages.images import image_uri
from janus_train.report.read import OWN_DATA, EvaluationRecord
from janus_train.report.stages import flatten

MAX_EXAMPLES, MAX_IMAGES, MAX_GROUPS = 24, 24, 20
"""Limits that keep the page within a few MB."""
NONE = "–"
_UNITS = {"exact": "exact match", "contains": "contains the true one", "f1": "F1 of words"}


@dataclass(frozen=True)
class FigureTable:
    """A table of figures, as the pages' macro shows it."""

    title: str
    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class ScoreRow:
    """A score in percent with the ends of its interval."""

    label: Any
    num: Any
    percent: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreTable:
    """The scores of one measure: of all answers, by source, and by the values of a field."""

    title: str
    rows: list[ScoreRow]


@dataclass(frozen=True)
class Example:
    """A question, what the model answered, and the true answers. Images are ``data:`` URIs, or None if missing."""

    label: Any
    question: Any
    answer: Any
    true: list[Any]
    verdict: str
    is_right: bool | None
    """None: it is a caption, which is not right or wrong."""
    images: list[str | None]


@dataclass(frozen=True)
class ImagePair:
    """A prompt, the generated image, the true one, and the one to edit if there is one."""

    label: Any
    prompt: Any
    generated: str | None
    truth: str | None
    source: str | None
    has_source: bool
    note: str


@dataclass(frozen=True)
class OwnData:
    """Everything that the page shows of one evaluation."""

    model: Any
    data: Any
    facts: list[str]
    losses: FigureTable
    scores: list[ScoreTable]
    captions: FigureTable | None
    image_scores: FigureTable | None
    image_notes: list[Any]
    answers: list[Example]
    caption_examples: list[Example]
    images: list[ImagePair]
    notes: list[Any]
    origin: list[tuple[str, str]]


def is_own_data(evaluation: EvaluationRecord) -> bool:
    return evaluation.results.get("evaluation") == OWN_DATA


def own_data_of(evaluation: EvaluationRecord) -> OwnData:
    """Returns the values of the sections. Raises what a file that the command did not write leads to."""
    results = evaluation.results
    manifest, tasks, images = results["manifest"], results["tasks"], results["images"]
    by = tasks["by"]
    num_used = sum(int(source["num_used"]) for source in results["sources"].values())
    facts = [
        f"{num_used:,} samples",
        f"{int(tasks['num_asked']):,} questions asked",
        f"{int(tasks['num_drawn']):,} images generated",
    ]
    examples = [_example(line, evaluation) for line in evaluation.answers[: 2 * MAX_EXAMPLES]]
    image_table, image_notes = _image_scores(images)
    return OwnData(
        model=manifest["model"],
        data=manifest["data"],
        facts=facts,
        losses=_losses(results),
        scores=_score_tables(results["answers"], by),
        captions=_captions(results["captions"], by),
        image_scores=image_table,
        image_notes=image_notes,
        answers=[example for example in examples if example.is_right is not None][:MAX_EXAMPLES],
        caption_examples=[example for example in examples if example.is_right is None][:MAX_EXAMPLES],
        images=[_image_pair(line, evaluation) for line in evaluation.images[:MAX_IMAGES]],
        notes=list(results["notes"]),
        origin=flatten(manifest),
    )


def sections_of(own_data: OwnData) -> list[tuple[object, str, str]]:
    """The sections for the page's menu: content, anchor, name."""
    return [
        (own_data, "own-data", "Data"),
        (own_data.losses, "losses", "Losses"),
        (own_data.scores or own_data.captions or own_data.image_scores, "scores", "Scores"),
        (own_data.answers, "answers", "Answers"),
        (own_data.caption_examples, "captions", "Captions"),
        (own_data.images, "images", "Images"),
        (own_data.origin, "origin", "Origin"),
    ]


def _losses(results: dict[str, Any]) -> FigureTable:
    rows = []
    for name, source in results["sources"].items():
        values = source["losses"]
        figures = _loss(values) if values else [NONE] * 3
        rows.append([name, source["kind"], source["template"], f"{int(source['num_used']):,}", *figures])
    for kind, values in results["losses"]["by_kind"].items():
        rows.append(["all sources", kind, "", "", *_loss(values)])
    return FigureTable("", ["source", "kind", "template", "samples", "targets", "loss", "perplexity"], rows)


def _loss(values: dict[str, Any]) -> list[str]:
    return [f"{int(values['targets']):,}", f"{values['loss']:.4f}", f"{math.exp(min(values['loss'], 700)):.2f}"]


def _score_tables(answers: dict[str, Any], by: Any) -> list[ScoreTable]:
    if not answers:
        return []
    tables = []
    for key, unit in _UNITS.items():
        rows = []
        for label, scores in _rows(answers, by):
            score = scores[key]
            values = [100 * float(score[end]) for end in ("mean", "low", "high")] if key == "f1" else _percents(score)
            rows.append(ScoreRow(label, f"{int(scores['n']):,}", *map(float, values)))
        tables.append(ScoreTable(unit.capitalize(), rows))
    return tables


def _percents(share: dict[str, Any]) -> list[float]:
    return [share["percent"], share["low"], share["high"]]


def _captions(captions: dict[str, Any], by: Any) -> FigureTable | None:
    if not captions:
        return None
    rows = []
    for label, scores in _rows(captions, by):
        figures = [f"{int(scores['n']):,}", f"{int(scores['num_references']):,}", *_mean(scores["cider"])]
        rows.append([label, *figures])
    return FigureTable("", ["", "images", "true captions", "CIDEr-D", "95 %"], rows)


def _image_scores(images: dict[str, Any]) -> tuple[FigureTable | None, list[Any]]:
    """The table of the scores, and how each was measured."""
    rows, notes = [], []
    if "clip" in images:
        clip = images["clip"]
        rows.append(["CLIP score", *_mean(clip), f"{clip['of_true_images']:.2f}"])
        notes.append(f"CLIP score: {clip['how']}")
    if "fid" in images:
        rows.append(["FID", f"{images['fid']['value']:.2f}", NONE, NONE])
        notes.append(f"FID: {images['fid']['how']}")
    return (FigureTable("", ["", "score", "95 %", "true images"], rows) if rows else None), notes


def _mean(mean: dict[str, Any]) -> list[str]:
    return [f"{mean['mean']:.2f}", f"{mean['low']:.2f} to {mean['high']:.2f}"]


def _rows(scores: dict[str, Any], by: Any) -> list[tuple[Any, dict[str, Any]]]:
    """(label, scores) of all, of the sources if there are several, and of the most frequent values of the field ``by``."""
    rows: list[tuple[Any, dict[str, Any]]] = [("all", scores["all"])]
    if len(scores["by_source"]) > 1:
        rows += scores["by_source"].items()
    groups = sorted(scores.get("by_group", {}).items(), key=lambda pair: -int(pair[1]["n"]))
    rows += [(f"{by}: {name}", of_group) for name, of_group in groups[:MAX_GROUPS]]
    return rows


def _example(line: Line, evaluation: EvaluationRecord) -> Example:
    is_caption = line["task"] == "caption"
    return Example(
        label=line["group"] or line["source"],
        question=line["question"],
        answer=line["answer"],
        true=list(line["true"]),
        verdict=f"CIDEr-D {line['cider']:.2f}" if is_caption else f"F1 {100 * line['f1']:.0f} %",
        is_right=None if is_caption else bool(line["exact"]),
        images=[image_uri(evaluation.folder, name) for name in _names(line.get("images"))],
    )


def _names(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _image_pair(line: Line, evaluation: EvaluationRecord) -> ImagePair:
    note = f"CLIP score {line['clip']:.2f}, of the true image {line['true_clip']:.2f}" if "clip" in line else ""
    return ImagePair(
        label=line["group"] or line["source"],
        prompt=line["prompt"],
        generated=image_uri(evaluation.folder, line["image"]),
        truth=image_uri(evaluation.folder, line["true_image"]),
        source=image_uri(evaluation.folder, line.get("input_image")),
        has_source="input_image" in line,
        note=note,
    )
