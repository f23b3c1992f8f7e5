"""``janus-train index``: makes tars random-access, your own and those that others wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from janus_train.commands.options import Workers
from janus_train.commands.terminal import bytes_bar, note
from janus_train.cpu import available_cores
from janus_train.errors import UserError


def index(
    paths: Annotated[
        list[Path], typer.Argument(help="WebDataset tars, or folders of them.", metavar="PATH", show_default=False)
    ],
    missing: Annotated[
        bool, typer.Option("--missing", help="Index only tars that have no index yet, or whose size has changed.")
    ] = False,
    workers: Workers = None,
) -> None:
    """Index WebDataset tars in place, so that training can read any sample directly.

    Writes an index beside each tar, and shards.json in each folder. The members of a sample are KEY.json (or KEY.txt, a
    caption) with KEY.jpg, KEY.png or KEY.webp, or with KEY.0.jpg, KEY.1.jpg, ...; other members are ignored and counted.
    Damaged tars and duplicate keys are refused, and shards.json is not written in their folder.

    \b
    Examples:
      janus-train index shards/photos
      janus-train index --missing shards/photos shards/extra/007.tar
    """
    from janus_train.datatools.index import index_tars, tars_to_index

    tars = tars_to_index(paths)
    with bytes_bar() as bar:
        task = bar.add_task("", total=None)
        result = index_tars(
            tars,
            workers or available_cores(),
            only_missing=missing,
            on_start=lambda number, size: bar.update(task, description=f"{number} tars", total=size),
            on_tar=lambda size: bar.advance(task, size),
        )
    for listing in result.listings:
        more = f"; {listing.unindexed:,} more tars in the folder have no index" if listing.unindexed else ""
        print(f"{listing.path}: {listing.tars:,} tars, {listing.samples:,} samples{more}")
    if result.ignored:
        shown = ", ".join(f"{number:,} {ending}" for ending, number in result.ignored.most_common(10))
        note(f"note: {result.ignored.total():,} members are of no use here and were left alone: {shown}")
    if result.left_out:
        note(f"note: {result.left_out:,} keys have neither .json nor .txt: these samples are left out")
    if len(result.errors) > 1:
        for message in result.errors.values():
            note(message)
        raise UserError(f"{len(result.errors)} of {result.attempted} tars cannot be indexed, see above")
    if result.errors:
        raise UserError(next(iter(result.errors.values())))
