"""``janus-train tokenize``: codes cached in shards."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from janus_train.commands.model_options import Device, device_kind
from janus_train.commands.terminal import count_bar
from janus_train.config import UserError


def tokenize(
    data: Annotated[
        list[str],
        typer.Argument(
            help="A recipe's YAML (the shards of its generation sources), folders with tars, or tars.", metavar="DATA"
        ),
    ],
    model: Annotated[Path, typer.Option(help="Folder of the model whose VQ encoder makes the codes.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Make codes of another encoder or picture size anew.")
    ] = False,
    num_processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the tars. Left out: WORLD_SIZE, else 1.")
    ] = None,
    process_index: Annotated[
        int | None, typer.Option(min=0, help="Which of them this is. Left out: RANK, else 0.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and resize pictures. Left out: one a core.")
    ] = None,
) -> None:
    """Cache the VQ codes of pictures in their shards, so that training need not make them.

    Each tar is rewritten beside the old one, indexed, and takes its place at once: after a kill at any point training
    reads the old shard or the new one, and the same command goes on. Several processes, also of torchrun, share the
    tars. Codes say which encoder and picture size they are of; training refuses others. Not for shards that a run is
    reading.
    """
    index, number = _share(process_index, num_processes)
    from janus_train.data.given import given_data
    from janus_train.datatools.tokenize.run import tars_of

    tars = tars_of(given_data(data))
    mine = tars[index::number]
    from janus_train.model.code_encoder import load_code_encoder

    encoder = load_code_encoder(model.expanduser(), _device(device, index))
    from janus_train.datatools.tokenize.run import ProgressCallbacks
    from janus_train.datatools.tokenize.run import tokenize as run

    cores = threads or len(os.sched_getaffinity(0))
    with count_bar("samples") as bar:
        task = bar.add_task("", total=None)
        progress = ProgressCallbacks(
            start=lambda total: bar.update(task, total=total),
            sample=lambda number: bar.advance(task, number),
            line=partial(bar.console.print, highlight=False, soft_wrap=True, markup=False),
        )
        done = run(mine, encoder, replace=replace, threads=cores, progress=progress)
    parts = [f"{done.tokenized} of {len(mine)} tars tokenized ({done.pictures} pictures)"]
    parts += [f"{done.nothing_to_do} had nothing to do"] if done.nothing_to_do else []
    parts += [f"{done.without} pictures without codes: janus-train verify lists them"] if done.without else []
    parts += [f"{len(done.busy)} left to another process"] if done.busy else []
    parts += [f"{len(done.failed)} failed"] if done.failed else []
    print("; ".join(parts))
    if done.failed:
        raise typer.Exit(1)


def _share(process_index: int | None, num_processes: int | None) -> tuple[int, int]:
    """(which process, of how many), from the options, else from torchrun's environment."""
    try:
        index = int(os.environ.get("RANK", "0")) if process_index is None else process_index
        number = int(os.environ.get("WORLD_SIZE", "1")) if num_processes is None else num_processes
    except ValueError:
        raise UserError("RANK and WORLD_SIZE of the environment are no whole numbers") from None
    if not 0 <= index < number:
        raise UserError(f"process {index} of {number} cannot be: --process-index counts from 0 to {number - 1}")
    return index, number


def _device(device: str, index: int) -> Any:
    import torch

    if device_kind(device) == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", index)) % torch.cuda.device_count())
