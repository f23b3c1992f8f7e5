"""The evaluation ``own_data`` in the registry. It imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from janus_train.evaluate.options import Progress
from janus_train.evaluate.own_data.options import NAME, OwnDataOptions
from janus_train.evaluate.registry import register_evaluation

if TYPE_CHECKING:
    from rich.table import Table

    from janus_train.infer.load import LoadedModel


class OwnDataEvaluation:
    """Measures losses, answers, captions and generated images on samples of the user's."""

    def run(self, loaded: LoadedModel, out: Path, options: OwnDataOptions, progress: Progress) -> dict[str, Any]:
        from janus_train.evaluate.own_data.run import evaluate

        return evaluate(loaded, out, options, progress)

    def table(self, results: dict[str, Any]) -> Table:
        from janus_train.evaluate.own_data.table import results_table

        return results_table(results)


register_evaluation(NAME, OwnDataEvaluation(), OwnDataOptions, has_page=True)
