"""``janus-train benchmark``: published benchmarks under a published protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from janus_train.commands.options import Adapters, BatchSize, Device, Model, Plugins, Precision, load
from janus_train.commands.terminal import PhaseProgress, bars, note, table_console
from janus_train.errors import UserError
from janus_train.plugins import import_plugins
from janus_train.targets import check_folder

_WIDTH = 110
"""Width of the table if the output is not a terminal."""


def benchmark(
    model: Model,
    data: Annotated[Path, typer.Option(help="Folder with the benchmarks' own files; nothing is downloaded.")],
    out: Annotated[Path, typer.Option(help="Folder for answers and results; a second run goes on where it stopped.")],
    tasks: Annotated[
        str,
        typer.Option(
            help="Comma-separated benchmarks: pope, mme, mmbench, mmbench_circular, seed, mmmu, gqa, mmvet, "
            "geneval, dpg, or a plug-in's.",
        ),
    ] = "pope,mme,mmbench,seed,mmmu,gqa,mmvet",
    protocol: Annotated[
        str, typer.Option(help="Prompts, roles and decoding: deepseek, pro, or a YAML file of your own.")
    ] = "deepseek",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Answer only the first questions of each benchmark, to try it out.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**62, help="Seed of images, and of answers by protocols that sample.")
    ] = 0,
    score: Annotated[
        Path | None,
        typer.Option(
            help="What the scorer of geneval or dpg wrote about images drawn before: print and keep its scores, without a model.",
        ),
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a Mask2Former for COCO's instances, or of an OWLv2: a quick check of geneval's images, not the paper's."
        ),
    ] = None,
    clip: Annotated[
        Path | None, typer.Option(help="Folder of a CLIP, with which the quick check also judges colours.")
    ] = None,
    batch_size: BatchSize = 16,
    adapter: Adapters = None,
    device: Device = "auto",
    precision: Precision = "auto",
    plugin: Plugins = None,
) -> None:
    """Measure a model on published benchmarks, from files that you bring.

    Prints a table beside the papers' figures, and writes answers, scores by category with intervals, and manifests to
    --out. docs/evaluation.md says where the data comes from and what its files are called. Several processes share the
    questions: accelerate launch -m janus_train.cli benchmark ...

    geneval and dpg are drawn here and judged elsewhere: the commands for that are printed, and --score reads the result.

    \b
    Examples:
      janus-train benchmark outputs/demo/stage3/final --tasks pope,mme --data benchmarks_data --out outputs/benchmarks
      janus-train benchmark outputs/demo/stage3/final --tasks geneval --data benchmarks_data --out outputs/benchmarks
    """
    import_plugins(plugin or (), "--plugin")
    check_folder(out)
    from janus_train.evaluate.benchmarks.processes import joined
    from janus_train.evaluate.benchmarks.protocol import load_protocol
    from janus_train.evaluate.benchmarks.registry import get_tasks
    from janus_train.evaluate.benchmarks.rescore import check_detector, score_by_detector, score_from_file
    from janus_train.evaluate.benchmarks.run import BenchmarkOptions, open_tasks, run_benchmarks

    chosen_protocol, chosen_tasks = load_protocol(protocol), get_tasks(tasks)
    check_detector(chosen_tasks, detector, clip)
    if score is not None and detector is not None:
        raise UserError("--score reads a file and draws nothing: give --detector in another command")
    if score is not None:
        opened_tasks = open_tasks(chosen_tasks, data, chosen_protocol)
        _show(score_from_file(chosen_tasks, opened_tasks, out, score), out)
        return
    with joined() as processes:
        try:
            opened_tasks = open_tasks(chosen_tasks, data, chosen_protocol)
            loaded_model = load(model, adapter, device, precision)
            with bars() as phases:
                results = run_benchmarks(
                    loaded_model,
                    chosen_tasks,
                    opened_tasks,
                    chosen_protocol,
                    out,
                    BenchmarkOptions(seed, batch_size, limit),
                    processes,
                    PhaseProgress(phases).report,
                )
                if results and detector is not None:
                    results = score_by_detector(
                        chosen_tasks,
                        opened_tasks,
                        out,
                        detector,
                        clip,
                        str(loaded_model.janus.device),
                        results,
                        PhaseProgress(phases).report,
                    )
        except UserError as error:
            if processes.count == 1:
                raise
            from janus_train.train.entry import fail

            fail(error)  # one line, not one per process
    if results:
        _show(results, out)


def _show(results: dict[str, Any], out: Path) -> None:
    """Print warnings, the table, each category of generated images, and commands for scorers of their own."""
    from janus_train.evaluate.benchmarks.table import groups_table, results_table

    for result in results["tasks"].values():
        for warning in result["warnings"]:
            note(f"warning: {warning}")
    console = table_console(_WIDTH)
    console.print(results_table(results))
    for name in ("geneval", "dpg"):
        if results["tasks"].get(name, {}).get("scores"):
            console.print(groups_table(results["tasks"][name]))
    for result in results["tasks"].values():
        for command in result["commands"]:
            print(command)
    print(f"results: {out / 'results.json'}")
