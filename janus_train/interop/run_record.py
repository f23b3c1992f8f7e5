"""What is known of a trained model: the records of the run whose result it is, for its model card.

In: a run's folder, or the ``final/`` or another of its `RESULTS`. Out: the run's manifest, which model of the
run it is, its last losses, and the hub's model that training started from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from janus_train.errors import UserError
from janus_train.files import read_json_object, read_json_object_if_any
from janus_train.interop.adapter import MODEL_OF
from janus_train.interop.figures import Figure, figures_of
from janus_train.interop.write import TRAINING
from janus_train.jsonl import Line, read_json_lines

RESULTS = (*MODEL_OF.values(), *MODEL_OF)
"""The folders of a run that hold a model or adapters."""
MAX_RUNS = 32
"""Runs that started from each other's results."""
LAST_STEPS = 20
"""Training losses are the mean over so many steps: a step's own depends on its samples."""

_SNAPSHOT = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/")
"""Where huggingface_hub keeps the model OWNER/NAME."""


@dataclass(frozen=True)
class RunRecord:
    """The records of the run in ``folder``; ``model`` is the training.json of the exported model, empty if it has none."""

    folder: Path
    manifest: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    metrics: list[Line] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    """Of evaluations and benchmarks of this model that are in the run's folder."""

    @property
    def steps(self) -> int:
        """The step that the model is of."""
        return int(self.model.get("step", self.manifest.get("steps", self.manifest["config"]["run"]["steps"])))

    @property
    def base_model(self) -> str | None:
        """The hub id of the model that this run, or the first of those before it, started from; None if there is none."""
        manifest: dict[str, Any] | None = self.manifest
        for _ in range(MAX_RUNS):
            start = Path(str((manifest or {}).get("start_folder", "")))
            if match := _SNAPSHOT.search(f"{start.as_posix()}/"):
                return f"{match[1]}/{match[2]}"
            manifest = read_json_object_if_any(start.parent / "manifest.json") if start.name in RESULTS else None
            if not manifest:
                return None
        return None

    def training_losses(self) -> list[tuple[str, float]]:
        """(metric, its mean over the last `LAST_STEPS` steps up to the model's), for the loss and that of each kind."""
        lines = [line for line in self.metrics if line.get("step", 0) <= self.steps][-LAST_STEPS:]
        names = [name for name in (lines[-1] if lines else {}) if name == "loss" or name.startswith("loss/")]
        values = {name: [line[name] for line in lines if line.get(name) is not None] for name in names}
        return [(name, sum(numbers) / len(numbers)) for name, numbers in values.items() if numbers]

    def validation(self) -> Line:
        """The last line of metrics.jsonl up to the model's step that has a validation; empty if there is none."""
        lines = [line for line in self.metrics if line.get("step", 0) <= self.steps]
        return next((line for line in reversed(lines) if "validation/loss" in line), {})


def read_run(path: Path) -> RunRecord | None:
    """Reads the run in ``path``, or whose result ``path`` is. None if there is none.

    Raises `UserError` for damaged records.
    """
    folder, model = (path.parent, path) if path.name in RESULTS else (path, path / "final")
    if not (folder / "manifest.json").is_file():
        folder, model = path, path
        if not (folder / "manifest.json").is_file():
            return None
    manifest = read_json_object(folder / "manifest.json")
    if not isinstance(manifest.get("config"), dict):
        raise UserError(f"{folder / 'manifest.json'} does not say what was trained")
    return RunRecord(
        folder,
        manifest,
        read_json_object_if_any(model / TRAINING),
        read_json_lines(folder / "metrics.jsonl"),
        figures_of(folder, model.name),
    )
