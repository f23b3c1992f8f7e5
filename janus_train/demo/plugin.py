"""Registers the demo's source type ``scenes`` and its evaluation ``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from janus_train.data.sources.registry import SourceConfig, register_source
from janus_train.demo.objects import ObjectChoice
from janus_train.demo.options import DemoOptions
from janus_train.demo.scenes import SceneSource
from janus_train.evaluate.options import Progress
from janus_train.evaluate.registry import register_evaluation

if TYPE_CHECKING:
    from rich.table import Table

    from janus_train.infer.load import LoadedModel


class ScenesConfig(SourceConfig):
    """A source of composed scenes."""

    view: str
    """The kind of sample to make from a scene (`scenes.VIEWS`)."""
    num_scenes: Annotated[int, Field(gt=0)]
    """The length of the source, which is one epoch."""
    only: tuple[str, ...] = Field(strict=False, default=())
    """Names of the objects that scenes and texts are about; empty: all."""
    without: tuple[str, ...] = Field(strict=False, default=())
    """Names of objects that they are never about."""


@register_source("scenes", ScenesConfig, tars="material")
def open_scenes(config: ScenesConfig, places: list[Path], image_size: int) -> SceneSource:
    choice = ObjectChoice(config.only, config.without)
    return SceneSource(places, config.view, "train", config.num_scenes, image_size, choice)


class DemoEvaluation:
    """Measures how well a model generates, answers and writes about held-out scenes; imports its modules when it runs."""

    def run(self, loaded: LoadedModel, out: Path, options: DemoOptions, progress: Progress) -> dict[str, Any]:
        from janus_train.demo.evaluation import evaluate

        return evaluate(loaded, out, options, progress)

    def table(self, results: dict[str, Any]) -> Table:
        from janus_train.demo.table import results_table

        return results_table(results)


register_evaluation("demo", DemoEvaluation(), DemoOptions)
