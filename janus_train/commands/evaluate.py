"""``janus-train evaluate``: measures a model, by default on held-out scenes of the embedded images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from janus_train.commands.options import (
    BatchSize,
    Device,
    Guidance,
    Model,
    Plugins,
    Precision,
    Seed,
    Temperature,
    check_finite,
    load,
)
from janus_train.commands.terminal import PhaseProgress, bars, table_console
from janus_train.plugins import import_plugins
from janus_train.targets import check_folder

_WIDTH = 104
"""Width of the table if the output is not a terminal."""


def evaluate(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for results.json, the images and the answers.")],
    num_prompts: Annotated[int, typer.Option(min=1, help="Number of held-out scenes to generate.")] = 200,
    num_questions: Annotated[int, typer.Option(min=4, help="Number of questions about held-out scenes.")] = 400,
    guidance: Guidance = None,
    temperature: Temperature = None,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    precision: Precision = "auto",
    evaluation: Annotated[
        str, typer.Option(help="What to measure: demo, or an evaluation that a plug-in registers.")
    ] = "demo",
    plugin: Plugins = None,
) -> None:
    """Measure how well a model generates and answers on held-out scenes of the embedded images.

    Prints a table of the results, and writes results.json, the images with a grid of them, and the answers to --out.

    \b
    Example:
      janus-train evaluate outputs/demo/stage3/final --out outputs/demo/stage3/evaluation
    """
    check_finite(guidance, temperature)
    check_folder(out)
    import_plugins(plugin or (), "--plugin")
    from janus_train.evaluate.options import EvaluationOptions
    from janus_train.evaluate.registry import get_evaluation

    chosen_evaluation = get_evaluation(evaluation)
    loaded_model = load(model, device, precision)
    options = EvaluationOptions(
        num_prompts=num_prompts,
        num_questions=num_questions,
        seed=seed,
        guidance=loaded_model.guidance if guidance is None else guidance,
        temperature=loaded_model.temperature if temperature is None else temperature,
        batch_size=batch_size,
    )
    with bars() as phases:
        results = chosen_evaluation.run(loaded_model, out, options, PhaseProgress(phases).report)
    table_console(_WIDTH).print(chosen_evaluation.table(results))
    grid = out / "grid.png"
    print(f"results: {out / 'results.json'}" + (f", images: {grid}" if grid.is_file() else ""))
