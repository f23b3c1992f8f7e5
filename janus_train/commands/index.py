"""``janus-train index``: indexes WebDataset tars in place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from janus_train.commands.options import Workers
from janus_train.commands.terminal import bytes_bar, note
from janus_train.cpu import available_cores
from janus_train.errors import UserError
from janus_train.text import printable

if TYPE_CHECKING:
    from janus_train.datatools.index import IndexResult


def index(
    paths: Annotated[
        list[Path], typer.Argument(help="WebDataset tars, or folders of them.", metavar="PATH", show_default=False)
    ],
    missing: Annotated[
        bool, typer.Option("--missing", help="Index only tars that have no index yet, or have changed since.")
    ] = False,
    workers: Workers = None,
) -> None:
    """Index WebDataset tars in place, so that training can read any sample directly.

    Writes an index beside each tar, and shards.json in each folder. The members of a sample are KEY.json (or KEY.txt, a
    caption) with KEY.jpg, KEY.png or KEY.webp, or with KEY.0.jpg, KEY.1.jpg, ...; other members are ignored and counted.
    KEY may contain dots, as long as it is clear which image belongs to which text.
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
        more = f"; {listing.num_unindexed:,} more tars in the folder have no index" if listing.num_unindexed else ""
        print(f"{printable(str(listing.path))}: {listing.tars:,} tars, {listing.samples:,} samples{more}")
    print_notes(result)
    if len(result.errors) > 1:
        for message in result.errors.values():
            note(message)
        raise UserError(f"{len(result.errors)} of {result.num_attempted} tars cannot be indexed, see above")
    if result.errors:
        raise UserError(next(iter(result.errors.values())))


def print_notes(result: IndexResult) -> None:
    """Say on standard error what the tars have that is not in their indices."""
    from janus_train.data.shards.index import some_of
    from janus_train.data.shards.names import RENAME

    if result.ignored_counts:
        counts = ", ".join(f"{number:,} {ending}" for ending, number in result.ignored_counts.most_common(10))
        note(f"note: {result.ignored_counts.total():,} members are not used and were ignored: {counts}")
    if result.num_left_out:
        note(f"note: {result.num_left_out:,} keys have neither .json nor .txt: these samples are left out")
    if result.ambiguous_keys:
        note(
            f"note: {len(result.ambiguous_keys):,} samples are left out, it is not clear which image belongs to which text "
            f"({some_of(result.ambiguous_keys)}): {RENAME}"
        )
    if result.scattered_keys:
        note(
            f"note: the members of {len(result.scattered_keys):,} samples do not stand together, so reading them is slow: "
            "janus-train prepare webdataset --sort writes tars in order"
        )
