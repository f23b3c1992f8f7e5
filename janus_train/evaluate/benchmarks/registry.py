"""Tasks by name: ``janus-train benchmark --tasks NAME,...`` runs them.

A task's module registers it when it is imported; `TASK_MODULES` are the built-in ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol as Interface

from janus_train.data.prompt_format import PromptStyle
from janus_train.errors import UserError
from janus_train.evaluate.benchmarks.protocol import Protocol
from janus_train.evaluate.benchmarks.result import Published, Result
from janus_train.infer.load import LoadedModel
from janus_train.jsonl import Line
from janus_train.plugins import Registry

TASK_MODULES = ("pope", "mme", "mmbench", "seed", "mmmu", "gqa", "mmvet", "geneval", "dpg")
"""The modules in ``tasks/``."""


@dataclass(frozen=True)
class Context:
    """What a task answers with."""

    model: LoadedModel
    folder: Path
    """The task's own folder, for files beside its answers."""
    seed: int
    """Item i uses ``seed + i``, so that an answer depends neither on its batch nor on the number of processes."""
    batch_size: int


class OpenTask(Interface):
    """A benchmark whose data has been read: ``keys`` has one entry per item, in the data's order."""

    files: Sequence[Path]
    """The files of the data; their digests are in the manifest."""
    keys: Sequence[str]
    prompts_digest: str
    """A SHA-256 of everything that the model is given beside images."""
    style: PromptStyle
    """The roles and the system prompt of the prompts."""

    def answer(self, context: Context, numbers: Sequence[int]) -> list[Line]:
        """Lets the model answer (or draw) the items of ``numbers`` and returns a line for each, with its ``key``."""

    def score(self, lines: Sequence[Line], folder: Path) -> Result:
        """Scores the lines of all items, in the order of ``keys``; ``folder`` is the task's."""


class Task(Interface):
    """A benchmark. Its ``name`` is that in --tasks, its ``title`` that in the table."""

    name: str
    title: str
    published: Published

    def open(self, data: Path, protocol: Protocol) -> OpenTask:
        """Reads the data in the folder ``data``. Raises `UserError` naming what is missing or damaged."""


_TASKS: Registry[Task] = Registry("task")


def register_task(task: Task) -> None:
    """Registers ``task`` under its name."""
    _TASKS.add(task.name, task, type(task).__module__)


def get_tasks(names: str) -> list[Task]:
    """Returns the tasks of a comma-separated list. Raises `UserError` for an unknown or repeated name, and for none."""
    for module in TASK_MODULES:
        import_module(f"janus_train.evaluate.benchmarks.tasks.{module}")
    listed = [name.strip() for name in names.split(",") if name.strip()]
    repeated = next((name for name in listed if listed.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"--tasks: {repeated} stands there twice")
    if not listed:
        raise UserError(f"--tasks is empty: give some of {', '.join(sorted(task.name for task in _TASKS))}")
    return [_TASKS.get(name, "--tasks") for name in listed]
