"""Reads what a report shows from the folders that training and evaluation write."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from janus_train.errors import UserError
from janus_train.files import read_json_object, read_json_object_if_any, read_yaml
from janus_train.jsonl import Line, read_json_lines

OWN_DATA = "own_data"
"""The ``evaluation`` in results.json of ``janus-train evaluate MODEL DATA``; without one it is the demonstration's."""


@dataclass(frozen=True)
class StageRun:
    """The records of one stage's run."""

    name: str
    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    steps: list[Line]
    """The lines of metrics.jsonl."""
    previews: list[Path]
    """samples/step-*.png, oldest first."""
    answers: dict[int, list[Line]] = field(default_factory=dict)
    """Step -> the answers to the questions about held-out images, of samples/step-*.json."""

    @property
    def parts(self) -> dict[str, Line]:
        """Part -> {parameters, trains, new}; empty if the manifest has none."""
        return self.manifest.get("parts") or {}

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Returns the steps and values of a metric, without steps whose value is missing or not finite."""
        lines = [line for line in self.steps if isinstance(line.get(key), (int, float)) and math.isfinite(line[key])]
        return [int(line["step"]) for line in lines], [float(line[key]) for line in lines]

    @property
    def seconds(self) -> float:
        return sum(self.series("step_s")[1])


@dataclass(frozen=True)
class EvaluationRecord:
    """The files that `janus-train evaluate` wrote."""

    folder: Path
    results: dict[str, Any]
    images: list[Line]
    """The lines of images.jsonl, or of the demonstration's pictures.jsonl."""
    answers: list[Line]


@dataclass(frozen=True)
class ReportInput:
    """Everything that one report shows."""

    folder: Path
    runs: list[StageRun] = field(default_factory=list)
    evaluation: EvaluationRecord | None = None
    benchmarks: Line | None = None
    """The results.json of ``janus-train benchmark``."""


def read_folder(folder: Path) -> ReportInput:
    """Reads the folder of a run (metrics.jsonl; stage*/ of the stages before it), a demo (stage1/, ..., evaluation/) or results.

    The results of ``janus-train benchmark`` stand in ``folder`` or in its benchmarks/.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}: give a run's or a demo's, for example outputs/demo")
    stage_folders = sorted(path for path in folder.glob("stage*") if (path / "metrics.jsonl").is_file())
    runs = [_read_run(path) for path in [*stage_folders, folder] if (path / "metrics.jsonl").is_file()]
    evaluation = _read_evaluation(folder / "evaluation") or _read_evaluation(folder)
    benchmarks = _read_benchmarks(folder / "benchmarks") or _read_benchmarks(folder)
    if not runs and evaluation is None and benchmarks is None:
        raise UserError(
            f"{folder} contains neither a run (metrics.jsonl), nor stage*/ with one, nor the results.json of an evaluation "
            "or of benchmarks"
        )
    return ReportInput(folder, runs, evaluation, benchmarks)


def _read_run(folder: Path) -> StageRun:
    steps = read_json_lines(folder / "metrics.jsonl")
    return StageRun(
        name=folder.resolve().name,
        folder=folder,
        config=_config(folder / "config.yaml"),
        manifest=read_json_object_if_any(folder / "manifest.json"),
        steps=[line for line in steps if "step" in line],
        previews=sorted((folder / "samples").glob("step-*.png"), key=step_of),
        answers={
            step_of(path): read_json_object(path).get("answers", [])
            for path in sorted((folder / "samples").glob("step-*.json"), key=step_of)
        },
    )


def _config(path: Path) -> dict[str, Any]:
    """Empty if there is none."""
    values = read_yaml(path) if path.is_file() else {}
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it holds no configuration")
    return values


def step_of(path: Path) -> int:
    """Returns the step in the name of a preview's file."""
    match = re.search(r"step-(\d+)", path.name)
    return int(match[1]) if match else 0


def _read_evaluation(folder: Path) -> EvaluationRecord | None:
    path = folder / "results.json"
    if not path.is_file():
        return None
    results = read_json_object(path)
    if _is_of_benchmarks(results):
        return None
    return EvaluationRecord(
        folder=folder,
        results=results,
        images=read_json_lines(
            folder / ("images.jsonl" if results.get("evaluation") == OWN_DATA else "pictures.jsonl")
        ),
        answers=read_json_lines(folder / "answers.jsonl"),
    )


def _read_benchmarks(folder: Path) -> Line | None:
    results = read_json_object_if_any(folder / "results.json")
    return results if _is_of_benchmarks(results) else None


def _is_of_benchmarks(results: Line) -> bool:
    """Whether ``janus-train benchmark`` wrote it; an evaluation on own data has other tasks."""
    return "tasks" in results and "evaluation" not in results
