"""The section of published benchmarks: a table of the model's figures beside the papers' rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from janus_train.report.read import Line
from janus_train.text import rounded

MODELS = {"janus_1_3b": "Janus-1.3B", "janus_pro_1b": "Janus-Pro-1B", "janus_pro_7b": "Janus-Pro-7B"}
"""Keys of the papers' figures in results.json -> the models' names."""
NONE = "–"


@dataclass(frozen=True)
class BenchmarkRow:
    """A benchmark: what the papers print of it, of this model and of theirs."""

    title: Any
    measure: str
    score: str
    interval: str
    num_samples: Any
    num_unparsed: Any
    published: list[str]
    """In the order of `MODELS`."""
    groups: list[tuple[str, str, str]]
    """(measure and group, score, interval) of every score besides."""


@dataclass(frozen=True)
class Benchmarks:
    """The content of a benchmark's results.json."""

    rows: list[BenchmarkRow]
    models: list[str]
    sources: list[str]
    """Where the papers' figures are printed."""
    protocols: list[str]
    remarks: list[str]
    """Warnings, and what remains to be done."""


def benchmarks_of(results: Line) -> Benchmarks:
    """The section's values of results.json, whose texts may come from anywhere: the template escapes them."""
    tasks = list(results["tasks"].values())
    return Benchmarks(
        rows=[_row(task) for task in tasks],
        models=list(MODELS.values()),
        sources=sorted({str(task["published"]["source"]) for task in tasks}),
        protocols=sorted({str(task["manifest"]["protocol"]) for task in tasks}),
        remarks=[str(text) for task in tasks for text in (*task["warnings"], task["note"]) if text],
    )


def _row(task: Line) -> BenchmarkRow:
    headline = task["headline"]
    scores = [score for score in task["scores"] if score != headline]
    return BenchmarkRow(
        title=task["title"],
        measure=_name(headline) if headline else NONE,
        score=rounded(headline["value"]) if headline else NONE,
        interval=_interval(headline) if headline else "",
        num_samples=task["manifest"]["num_samples"],
        num_unparsed=task["num_unparsed"],
        published=[_figure(task["published"][model]) for model in MODELS],
        groups=[(_name(score), rounded(score["value"]), _interval(score)) for score in scores],
    )


def _name(score: Line) -> str:
    return f"{score['name']}, {score['group']}" if score["group"] else str(score["name"])


def _interval(score: Line) -> str:
    return "" if score["low"] is None else f"{rounded(score['low'])} to {rounded(score['high'])}"


def _figure(value: float | None) -> str:
    return NONE if value is None else rounded(value, 2 if value < 1 else 1)
