"""Evaluations by name: ``janus-train evaluate --evaluation NAME`` runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from janus_train.evaluate.options import EvaluationOptions, Progress
from janus_train.plugins import Registry

if TYPE_CHECKING:
    from rich.table import Table

    from janus_train.infer.load import LoadedModel


class Evaluation(Protocol):
    """Measures a model. Its module should import heavy libraries only when it runs."""

    def run(self, loaded: LoadedModel, out: Path, options: EvaluationOptions, progress: Progress) -> dict[str, Any]:
        """Evaluates, writes into the folder ``out`` with results.json as the last file, and returns its content."""

    def table(self, results: dict[str, Any]) -> Table:
        """Formats the results for the terminal."""


_EVALUATIONS: Registry[Evaluation] = Registry("evaluation")


def register_evaluation(name: str, evaluation: Evaluation) -> None:
    """Registers ``evaluation`` under ``name``."""
    _EVALUATIONS.add(name, evaluation, type(evaluation).__module__)


def get_evaluation(name: str) -> Evaluation:
    """Returns the evaluation of this name. Raises `UserError` with the known names if there is none."""
    return _EVALUATIONS.get(name, "--evaluation")
