"""``janus-train evaluate``: measures a model, on held-out data of its user or on the demonstration's scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from janus_train.commands.options import (
    Adapters,
    AlwaysSystem,
    Device,
    Guidance,
    Model,
    Plugins,
    Precision,
    Temperature,
    check_finite,
    load,
)
from janus_train.commands.terminal import PhaseProgress, bars, table_console
from janus_train.errors import UserError
from janus_train.plugins import import_plugins
from janus_train.targets import check_folder

_WIDTH = 104
"""Width of the table if the output is not a terminal."""


def evaluate(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for results.json, the images and the answers.")],
    data: Annotated[
        str | None,
        typer.Argument(
            help="Your held-out data: a recipe (YAML) or a file of JSON lines. Without it the demonstration's scenes.",
            metavar="[DATA]",
            show_default=False,
        ),
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Samples of each source to read, evenly spread over it. With DATA; default: 1000.",
            show_default=False,
        ),
    ] = None,
    num_questions: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of questions to ask: at most 400 by default, with DATA 0 asks none.", show_default=False
        ),
    ] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of images to generate: at most 200 by default, with DATA 0 generates none.",
            show_default=False,
        ),
    ] = None,
    max_answer_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Longest answer in tokens; longer true ones are not asked for. With DATA; default: 64.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Field of the records by whose values the scores are also given. With DATA.",
            metavar="FIELD",
            show_default=False,
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            help="Template for a file of JSON lines; repeat the option for several. Default: by its fields.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Samples of a recipe: held_out, or all. Default: held_out, if the recipe holds any out.",
            show_default=False,
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            help="Folder of a CLIP model, for the CLIP score of the generated images. With DATA.",
            metavar="FOLDER",
            show_default=False,
        ),
    ] = None,
    inception: Annotated[
        str | None,
        typer.Option(
            help="The Inception network as TorchScript (inception-2015-12-05.pt), for the FID. With DATA.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    always_system: AlwaysSystem = False,
    guidance: Guidance = None,
    temperature: Temperature = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**62,
            help="Seed of the first image; the following images take the next numbers. Default: 0.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many images or answers to generate at once; fewer need less memory. Default: 64.",
            show_default=False,
        ),
    ] = None,
    adapter: Adapters = None,
    device: Device = "auto",
    precision: Precision = "auto",
    evaluation: Annotated[
        str | None,
        typer.Option(
            help="What to measure: own_data (with DATA), demo (without), or an evaluation that a plug-in registers.",
            show_default=False,
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="An option of a plug-in's evaluation; repeat the option for several.", metavar="NAME=VALUE"),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Measure how good a model is on held-out data: yours, or without DATA the demonstration's scenes.

    Your data: losses by source and kind, answers and captions compared with the true ones, and images generated from the
    prompts beside the true ones. Prints tables, and writes results.json, answers.jsonl, images.jsonl, the images and
    report.html to --out. An option that the evaluation does not use is refused.

    \b
    Examples:
      janus-train evaluate outputs/mine/final held_out.jsonl --out outputs/mine/evaluation
      janus-train evaluate outputs/mine/final data_recipes/mine.yaml --out outputs/mine/evaluation --by question_type
      janus-train evaluate outputs/demo/stage3/final --out outputs/demo/evaluation
    """
    check_finite(guidance, temperature)
    check_folder(out)
    import_plugins(plugin or (), "--plugin")
    from janus_train.evaluate.choice import choose, parse_options

    values: dict[str, Any] = {
        "data": data,
        "num_samples": num_samples,
        "num_questions": num_questions,
        "num_prompts": num_prompts,
        "max_answer_tokens": max_answer_tokens,
        "by": by,
        "template": tuple(template) if template else None,
        "split": split,
        "clip": clip,
        "inception": inception,
        "always_system": always_system or None,
        "guidance": guidance,
        "temperature": temperature,
        "seed": seed,
        "batch_size": batch_size,
    }
    values = {name: value for name, value in values.items() if value is not None}
    more_values = parse_options(option or [])
    for name in more_values.keys() & values.keys():
        raise UserError(f"--option {name}: it is also given as an option of the command")
    entry, options = choose(evaluation, values | more_values)
    options.check()
    loaded_model = load(model, adapter, device, precision)
    with bars() as phases:
        results = entry.evaluation.run(loaded_model, out, options, PhaseProgress(phases).report)
    table_console(_WIDTH).print(entry.evaluation.table(results))
    grid = out / "grid.png"
    print(f"results: {out / 'results.json'}" + (f", images: {grid}" if grid.is_file() else ""))
    if entry.has_page:
        from janus_train.report import build

        print(f"page: {build(out)}")
