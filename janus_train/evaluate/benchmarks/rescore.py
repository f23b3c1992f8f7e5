"""Scores images that were drawn before: from the file of a scorer outside of this project, or by a quick check.

--score FILE        checked, copied into the task's folder, then scored without a model
--detector FOLDER   GenEval's images through a detector, then scored
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.answers import merge
from janus_train.evaluate.benchmarks.drawing.drawings import OpenDrawings
from janus_train.evaluate.benchmarks.drawing.judgements import keep_judgements
from janus_train.evaluate.benchmarks.drawing.quick_check import quick_check
from janus_train.evaluate.benchmarks.manifest import MANIFEST
from janus_train.evaluate.benchmarks.registry import OpenTask, Task
from janus_train.evaluate.benchmarks.run import RESULTS, score_task
from janus_train.evaluate.benchmarks.tasks.geneval import OpenGeneval
from janus_train.evaluate.options import Progress
from janus_train.files import file_sha256, read_json_object_if_any, write_json
from janus_train.train.run_lock import RunLock


def score_from_file(tasks: Sequence[Task], open_tasks: Mapping[str, OpenTask], out: Path, file: Path) -> dict[str, Any]:
    """Scores the one task of ``tasks`` from what its scorer wrote, and returns the content of results.json.

    Raises `UserError` for several tasks, for one without such a scorer, and for a file that is not about its prompts.
    """
    open_task = open_tasks[tasks[0].name]
    if len(tasks) != 1 or not isinstance(open_task, OpenDrawings):
        raise UserError("--score is about one task: give --tasks geneval or --tasks dpg")
    with RunLock(out, "--out") as lock:
        lock.acquire()
        manifest = _manifest(tasks[0], open_task, out)
        open_task.check_judgements(file)
        keep_judgements(file, out / tasks[0].name)
        return _scored(tasks[0], open_task, out, manifest, {})


def check_detector(tasks: Sequence[Task], detector: Path | None, clip: Path | None) -> None:
    """Raises `UserError`, before anything is drawn, for a quick check without GenEval, a detector, or one of the folders."""
    if clip is not None and detector is None:
        raise UserError("--clip names the colours of what --detector finds: give both")
    if detector is not None and all(task.name != "geneval" for task in tasks):
        raise UserError("--detector checks GenEval's images: give --tasks geneval")
    for option, folder in (("--detector", detector), ("--clip", clip)):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{option} {folder}: there is no such folder; nothing is fetched, bring the model")


def score_by_detector(
    tasks: Sequence[Task],
    open_tasks: Mapping[str, OpenTask],
    out: Path,
    detector: Path,
    clip: Path | None,
    device: str,
    results: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Checks GenEval's images by a detector, and returns ``results`` with its scores. Raises `UserError`."""
    task = next(task for task in tasks if task.name == "geneval")
    open_task = open_tasks[task.name]
    assert isinstance(open_task, OpenGeneval)
    with RunLock(out, "--out") as lock:
        lock.acquire()
        quick_check(open_task.prompts, out / task.name, detector, clip, device, progress)
        return _scored(task, open_task, out, _manifest(task, open_task, out), results["tasks"])


def _manifest(task: Task, open_task: OpenTask, out: Path) -> dict[str, Any]:
    """The manifest that was written when the images were drawn."""
    folder = out / task.name
    manifest = read_json_object_if_any(folder / MANIFEST)
    if not manifest:
        raise UserError(f"{folder} has no images: draw them first, with the same command without --score")
    data = sorted(file_sha256(path) for path in open_task.files)
    if manifest["prompts_digest"] != open_task.prompts_digest or sorted(manifest["data"].values()) != data:
        raise UserError(f"{folder} was drawn from other prompts, or by another protocol: give those, or another --out")
    num_drawn, num_all = len(merge(folder, open_task.keys)), manifest["num_samples"]
    if num_drawn < num_all:
        raise UserError(
            f"{folder} has {num_drawn} of {num_all} drawings: draw the others first, with the same command without --score"
        )
    return manifest


def _scored(
    task: Task, open_task: OpenTask, out: Path, manifest: dict[str, Any], others: dict[str, Any]
) -> dict[str, Any]:
    """Scores the task again and writes results.json beside the results of ``others``."""
    folder = out / task.name
    warnings = read_json_object_if_any(folder / RESULTS).get("warnings", [])
    results = {"tasks": {**others, task.name: score_task(task, open_task, folder, manifest, warnings)}}
    write_json(out / RESULTS, results)
    return results
