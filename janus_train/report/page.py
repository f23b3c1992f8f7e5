"""Renders the report as one page, with its sections, title and summary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from janus_train.data.types import KINDS
from janus_train.errors import UserError
from janus_train.pages.render import render
from janus_train.report.benchmarks import Benchmarks, benchmarks_of
from janus_train.report.own_data import OwnData, is_own_data, own_data_of, sections_of
from janus_train.report.read import ReportInput
from janus_train.report.results import Answer, JudgedImage, Results, answers_of, images_of, results_of
from janus_train.report.stages import parts_of, stage_of
from janus_train.text import duration


def page(source: ReportInput) -> str:
    """Renders the HTML document. Raises `UserError` if a folder's files are not as training or evaluation writes them."""
    runs, evaluation = source.runs, source.evaluation
    results: Results | None = None
    images: list[JudgedImage] = []
    answers: list[Answer] = []
    own_data: OwnData | None = None
    if evaluation and is_own_data(evaluation):
        with _reading(evaluation.folder, "results.json, images.jsonl or answers.jsonl", "janus-train evaluate"):
            own_data = own_data_of(evaluation)
    elif evaluation:
        with _reading(evaluation.folder, "results.json, pictures.jsonl or answers.jsonl", "janus-train evaluate"):
            results, images, answers = results_of(evaluation), images_of(evaluation), answers_of(evaluation)
    benchmarks: Benchmarks | None = None
    if source.benchmarks is not None:
        with _reading(source.folder, "results.json", "janus-train benchmark"):
            benchmarks = benchmarks_of(source.benchmarks)
    stages = []
    for number, run in enumerate(runs, 1):
        with _reading(run.folder, "config.yaml, manifest.json or metrics.jsonl", "training"):
            stages.append(stage_of(run, f"run-{number}"))
    with _reading(source.folder, "config.yaml, manifest.json or results.json", "training"):
        title, summary, parts = _title(source), _summary(source), parts_of(runs)
    sections: list[tuple[object, str, str]] = [
        (images, "images", "Images"),
        (results, "results", "Results"),
        (answers, "answers", "Answers"),
        *(sections_of(own_data) if own_data else ()),
        (benchmarks, "benchmarks", "Benchmarks"),
        (stages, "parts", "Parts"),
        *((stage, stage.anchor, stage.title) for stage in stages),
        (stages, "setting", "Configuration"),
    ]
    return render(
        "report.html.j2",
        title=title,
        summary=summary,
        menu=[{"anchor": anchor, "name": name} for content, anchor, name in sections if content],
        results=results,
        images=images,
        answers=answers,
        own_data=own_data,
        benchmarks=benchmarks,
        parts=parts,
        stages=stages,
        kinds=KINDS,
    )


@contextmanager
def _reading(folder: Path, files: str, writer: str) -> Iterator[None]:
    """Turns errors from files that may come from elsewhere and contain anything into a `UserError` that names them."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{folder}: {files} are not as {writer} writes them ({reason})") from error


def _title(source: ReportInput) -> str:
    if not source.runs:
        return "Evaluation" if source.evaluation else "Published benchmarks"
    model = (source.runs[-1].config.get("model") or {}).get("name", "Janus")
    stages = [str(run.config.get("stage", run.name)) for run in source.runs]
    return f"{model}: stage {stages[0]}" if len(stages) == 1 else f"{model}: stages {', '.join(stages)}"


def _summary(source: ReportInput) -> str:
    """One line with the number of parameters, the duration, the hardware and the commit."""
    facts = []
    if source.runs:
        manifest = source.runs[-1].manifest
        num_parameters = sum(part["parameters"] for part in (manifest.get("parts") or {}).values())
        facts += [f"{num_parameters / 1e6:.1f} M parameters"] if num_parameters else []
        facts.append(f"trained for {duration(sum(run.seconds for run in source.runs))}")
        hardware = manifest.get("hardware") or {}
        facts += [f"on {_machine(hardware)}"] if hardware else []
        facts += [f"commit {manifest['commit'][:10]}"] if manifest.get("commit") else []
    if source.evaluation and "seconds" in source.evaluation.results:
        facts.append(f"evaluated in {duration(source.evaluation.results['seconds'])}")
    return " · ".join(facts)


def _machine(hardware: dict[str, Any]) -> str:
    gpus = hardware.get("gpus") or []
    return f"{len(gpus)} x {gpus[0]}" if gpus else f"{hardware.get('cpus', '?')} CPU cores"
