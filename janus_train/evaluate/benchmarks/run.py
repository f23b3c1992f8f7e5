"""Runs benchmarks: each process answers its share of the items, then the first one scores and writes the results.

out/results.json                  all tasks of the command
out/TASK/manifest.json            what the answers are made from; another one is refused
out/TASK/answers.jsonl            a line per item, written after each batch; a second run goes on behind it
out/TASK/results.json             scores, manifest, warnings
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from janus_train.data.prompt_format import PromptStyle
from janus_train.evaluate.benchmarks import manifest as manifests
from janus_train.evaluate.benchmarks.answers import ANSWERS, AnswerFile, merge
from janus_train.evaluate.benchmarks.processes import Processes
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.registry import Context, OpenTask, Task
from janus_train.evaluate.options import Progress, counter
from janus_train.files import write_json
from janus_train.infer.load import LoadedModel
from janus_train.jsonl import read_json_lines
from janus_train.train.run_lock import RunLock

RESULTS = "results.json"


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of all tasks."""

    seed: int = 0
    batch_size: int = 16
    limit: int | None = None
    """Only the first items of each task are answered, to try it out."""


def open_tasks(tasks: Sequence[Task], data: Path, protocol: Protocol) -> dict[str, OpenTask]:
    """Reads the data of all tasks, before a model is loaded. Raises `UserError`."""
    return {task.name: task.open(data, protocol) for task in tasks}


def run_benchmarks(
    model: LoadedModel,
    tasks: Sequence[Task],
    open_tasks: Mapping[str, OpenTask],
    protocol: Protocol,
    out: Path,
    options: BenchmarkOptions,
    processes: Processes,
    progress: Progress,
) -> dict[str, Any]:
    """Runs the tasks one after the other and returns the content of results.json; empty for all processes but the first.

    Raises `UserError` in all processes if one of them does.
    """
    results: dict[str, Any] = {}
    with RunLock(out, "--out") as lock:
        model_values: dict[str, Any] = {}
        with processes.meeting():
            if processes.is_main:
                lock.acquire()
                model_values = manifests.model_values(model)
        for task in tasks:
            open_task, folder, manifest = open_tasks[task.name], out / task.name, {}
            with processes.meeting():
                if processes.is_main:
                    manifest = manifests.task_values(task.name, open_task, protocol, model, options.seed, options.limit)
                    manifest |= model_values
                    manifests.begin(folder, manifest)
                    merge(folder, open_task.keys)
            context = Context(model, folder, options.seed, options.batch_size)
            # not a meeting: an error ends this process at once, and with it the launcher's others
            _answer(open_task, context, _share(open_task, folder, options, processes), processes, progress)
            processes.wait()
            with processes.meeting():
                if processes.is_main:
                    notes = warnings(task, open_task.style, protocol, model, options)
                    results[task.name] = score_task(task, open_task, folder, manifest, notes)
        if processes.is_main:
            write_json(out / RESULTS, {"tasks": results})
    return {"tasks": results} if processes.is_main else {}


def warnings(
    task: Task, style: PromptStyle, protocol: Protocol, model: LoadedModel, options: BenchmarkOptions
) -> list[str]:
    """Why a task's scores are not comparable with the papers', one line for each reason."""
    lines = []
    if task.name in protocol.not_original:
        lines.append(f"{task.name}: these prompts are not the papers': {protocol.not_original[task.name]}")
    read_roles = manifests.roles(style, model)
    for asked, read in zip((style.user, style.assistant), read_roles, strict=True):
        if asked not in (None, read):
            lines.append(f"{task.name}: this model has no token {asked}: it reads the word {read}")
    if options.limit is not None:
        lines.append(f"{task.name}: only the first {options.limit} samples were answered")
    return lines


def _share(task: OpenTask, folder: Path, options: BenchmarkOptions, processes: Processes) -> list[int]:
    """The numbers of the items that are not answered yet and that this process answers."""
    with processes.meeting():  # nobody appends before all have read
        answered = {line["key"] for line in read_json_lines(folder / ANSWERS)}
    pending = [number for number, key in enumerate(task.keys[: options.limit]) if key not in answered]
    return pending[processes.rank :: processes.count]


def _answer(task: OpenTask, context: Context, share: Sequence[int], processes: Processes, progress: Progress) -> None:
    """Answers the items of ``share``, a batch at a time."""
    phase = context.folder.name + (f" (process 0 of {processes.count})" if processes.count > 1 else "")
    count = counter(progress, phase, len(share))
    with closing(AnswerFile(context.folder, processes.rank)) as file:
        for start in range(0, len(share), context.batch_size):
            batch = share[start : start + context.batch_size]
            file.append(task.answer(context, batch))
            if processes.is_main:
                count(len(batch))


def score_task(
    task: Task, open_task: OpenTask, folder: Path, manifest: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    """Scores all answers and writes the task's results."""
    lines = list(merge(folder, open_task.keys).values())
    assert len(lines) == manifest["num_samples"], "a process has not written all of its answers"
    result = {
        "title": task.title,
        **open_task.score(lines, folder).values(),
        "published": asdict(task.published),
        "warnings": notes,
        "manifest": manifest,
    }
    write_json(folder / RESULTS, result)
    return result
