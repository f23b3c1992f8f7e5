"""Evaluations by name: ``janus-train evaluate --evaluation NAME`` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from janus_train.evaluate.options import EvaluationOptions, Progress
from janus_train.plugins import Registry

if TYPE_CHECKING:
    from rich.table import Table

    from janus_train.infer.load import LoadedModel


class Evaluation(Protocol):
    """Measures a model. Its module should import heavy libraries only when it runs."""

    def run(self, loaded: LoadedModel, out: Path, options: Any, progress: Progress) -> dict[str, Any]:
        """Evaluates, writes into the folder ``out`` with results.json as the last file, and returns its content.

        ``options``: an object of the class with which the evaluation is registered.
        """

    def table(self, results: dict[str, Any]) -> Table:
        """Formats the results for the terminal."""


@dataclass(frozen=True)
class RegisteredEvaluation:
    """An evaluation, and what the command needs to know of it."""

    name: str
    evaluation: Evaluation
    options: type[EvaluationOptions]
    has_page: bool
    """Whether the command writes its results as a page too (`janus_train.report`)."""

    @property
    def takes_data(self) -> bool:
        return "data" in self.options.model_fields


_EVALUATIONS: Registry[RegisteredEvaluation] = Registry("evaluation")


def register_evaluation(
    name: str,
    evaluation: Evaluation,
    options: type[EvaluationOptions] = EvaluationOptions,
    *,
    has_page: bool = False,
) -> None:
    """Registers ``evaluation`` under ``name``, with the class of its options.

    ``has_page``: `janus_train.report` knows its results, and the command writes them as a page too.
    """
    entry = RegisteredEvaluation(name, evaluation, options, has_page)
    _EVALUATIONS.add(name, entry, type(evaluation).__module__)


def get_evaluation(name: str) -> RegisteredEvaluation:
    """Returns the evaluation of this name. Raises `UserError` with the known names if there is none."""
    return _EVALUATIONS.get(name, "--evaluation")


def evaluations_with(option: str) -> list[str]:
    """Returns the names of the registered evaluations that have this option, in alphabetical order."""
    return sorted(entry.name for entry in _EVALUATIONS if option in entry.options.model_fields)
