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
    """Measures a model. Its module should import what is heavy only when it runs."""

    def run(self, loaded: LoadedModel, out: Path, options: EvaluationOptions, progress: Progress) -> dict[str, Any]:
        """Evaluate, write into the folder ``out``, with results.json as the last file, and return what that holds."""

    def table(self, results: dict[str, Any]) -> Table:
        """The results for the terminal."""


_EVALUATIONS: Registry[Evaluation] = Registry("evaluation")


def register_evaluation(name: str, evaluation: Evaluation) -> None:
    """Make ``evaluation`` known by ``name``."""
    _EVALUATIONS.add(name, evaluation, type(evaluation).__module__)


def get_evaluation(name: str) -> Evaluation:
    """The evaluation of this name. Raises `UserError` with the known ones if there is none."""
    return _EVALUATIONS.get(name, "--evaluation")
