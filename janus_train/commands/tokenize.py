"""``janus-train tokenize``: caches VQ codes in shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from janus_train.commands.options import Data, Device, Plugins, device_kind
from janus_train.commands.terminal import count_bar, note
from janus_train.cpu import available_cores
from janus_train.plugins import import_plugins
from janus_train.text import printable_line


def tokenize(
    data: Data,
    model: Annotated[Path, typer.Option(help="Folder of the model whose VQ encoder makes the codes.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace codes of another encoder or image size.")] = False,
    num_processes: Annotated[
        int | None,
        typer.Option(min=1, help="Number of processes that share the tars. Default: WORLD_SIZE, or 1."),
    ] = None,
    process_index: Annotated[
        int | None, typer.Option(min=0, help="Index of this process among them. Default: RANK, or 0.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Number of threads that read and resize images. Default: one per CPU core."),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Cache the VQ codes of images in their shards, so that training does not have to compute them.

    For a recipe, only the shards of its generation sources are tokenized. Each new tar is written next to the old one and
    then replaces it in one step: if the command is killed, training reads either the old shard or the new one, and
    running the same command again resumes. Several processes, also those of torchrun, can share the tars. The codes record their
    encoder and image size; training refuses codes of others. Do not tokenize shards that a run is reading.

    \b
    Examples:
      janus-train tokenize data_recipes/stage2.yaml --model models/janus-pro-1b
      torchrun --nproc-per-node 8 -m janus_train.cli tokenize shards/photos --model models/janus-pro-1b
    """
    from janus_train.data.data_args import resolve_data_args
    from janus_train.datatools.tokenize.share import process_device, process_share

    import_plugins(plugin or (), "--plugin")
    index, number = process_share(process_index, num_processes)
    from janus_train.datatools.tokenize.run import ProgressCallbacks, sources_left_out, tars_of
    from janus_train.datatools.tokenize.run import tokenize as run

    data_args = resolve_data_args(data)
    tars = tars_of(data_args)[index::number]
    left_out = sources_left_out(data_args)
    if left_out and index == 0:
        note(
            f"note: no codes for {', '.join(left_out)}: only sources of type shards keep codes, the images of others are "
            "encoded in each step"
        )
    from janus_train.interop.vq_encoder import load_code_encoder

    encoder = load_code_encoder(model.expanduser(), process_device(device_kind(device), index))
    with count_bar("samples") as bar:
        task = bar.add_task("", total=None)
        progress = ProgressCallbacks(
            on_start=lambda total: bar.update(task, total=total),
            on_samples=lambda number: bar.advance(task, number),
            on_message=lambda message: bar.console.print(
                printable_line(message), highlight=False, soft_wrap=True, markup=False
            ),
        )
        result = run(tars, encoder, replace=replace, threads=threads or available_cores(), progress=progress)
    parts = [f"{result.num_tokenized} of {len(tars)} tars tokenized ({result.num_images} images)"]
    parts += [f"{result.num_unchanged} had nothing to do"] if result.num_unchanged else []
    parts += (
        [f"{result.num_without_codes} images without codes: janus-train verify lists them"]
        if result.num_without_codes
        else []
    )
    parts += [f"{len(result.busy_tars)} left to another process"] if result.busy_tars else []
    parts += [f"{len(result.errors)} failed"] if result.errors else []
    print("; ".join(parts))
    if result.errors:
        raise typer.Exit(1)
