"""``janus-train prepare``: raw data to shards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from janus_train.config import UserError

Format = Literal["imagefolder", "captions", "conversations", "parquet", "hf", "text", "webdataset"]


def prepare(
    format: Annotated[
        Format,
        typer.Argument(
            help="imagefolder: a folder or tar of pictures a class, also ILSVRC-2012's train tar. captions: JSON(L), CSV, "
            "TSV or COCO's JSON with picture paths. conversations: LLaVA's, ShareGPT's, OpenAI's or Janus's JSON(L). "
            "parquet: Parquet with pictures inside. hf: folders that datasets' save_to_disk wrote. text: JSON(L), CSV or "
            "Parquet. webdataset: tars made by others."
        ),
    ],
    inputs: Annotated[
        list[str], typer.Argument(help="Files, patterns or folders.", metavar="INPUT...", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the shards; the same command again goes on in it.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(help="Folder that picture paths start from. Left out: the folder of the records' file."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="The classes' names: JSON (id or number to names) or lines 'n01440764 tench, Tinca tinca'."),
    ] = None,
    class_names: Annotated[
        Literal["first", "all"], typer.Option(help="Of 'tench, Tinca tinca' the first name or all.")
    ] = "first",
    image_field: Annotated[
        str | None,
        typer.Option(
            help="Field or column of the picture, or of its path; a pattern such as '{photoid}.jpg' is filled in."
        ),
    ] = None,
    text_field: Annotated[
        list[str] | None,
        typer.Option(
            help="Field or column of the caption or text, for example Task2.Caption or features[language=en].title; "
            "given several times: joined."
        ),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Names of a CSV's or TSV's columns, with commas, if its first line has none.")
    ] = None,
    captions: Annotated[
        Literal["first", "each", "longest"],
        typer.Option(help="Which of a picture's captions; each: a sample for each."),
    ] = "first",
    form: Annotated[
        Literal["plain", "draw", "ask"],
        typer.Option(
            help="plain: a caption. draw: a conversation in which the user gives the caption and the assistant draws. "
            "ask: one in which the user shows the picture with --question and the assistant says the caption."
        ),
    ] = "plain",
    question: Annotated[str | None, typer.Option(help="With --form ask.")] = None,
    samples: Annotated[
        Literal["pairs", "conversation"],
        typer.Option(help="A row with several questions and answers: a sample for each, or one conversation."),
    ] = "pairs",
    split: Annotated[str | None, typer.Option(help="Of an hf folder that holds several.")] = None,
    url_encoded: Annotated[bool, typer.Option("--url-encoded", help="Texts are URL-encoded, as in YFCC100M.")] = False,
    drop_empty: Annotated[
        bool, typer.Option("--drop-empty", help="Leave out records without text, and do not count them as bad.")
    ] = False,
    min_pictures: Annotated[int, typer.Option(min=0, help="Leave out records with fewer pictures.")] = 0,
    max_pictures: Annotated[int | None, typer.Option(min=0, help="Leave out records with more pictures.")] = None,
    max_side: Annotated[
        int | None, typer.Option(min=16, help="Scale longer pictures down to this side and write them as JPEG.")
    ] = None,
    shard_size: Annotated[str, typer.Option(help="Largest shard, for example 256MB or 1GB.")] = "256MiB",
    shard_samples: Annotated[int | None, typer.Option(min=1, help="Most samples in a shard.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Left out: one for each core.")] = None,
    max_bad: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of records that may be unusable; more of them end it.")
    ] = 0.01,
    index_only: Annotated[
        bool, typer.Option("--index-only", help="webdataset: write an index beside tars that already have the layout.")
    ] = False,
) -> None:
    """Make indexed WebDataset shards of raw data. What was killed goes on; the bytes do not depend on --workers.

    Pictures keep their bytes if they are JPEG, PNG or WebP, others become PNG. What cannot be used is listed with its
    reason in OUT/skipped.jsonl. Nothing is fetched and no tar is extracted.
    """
    given: dict[str, Any] = {
        "images": images,
        "classes": classes,
        "class_names": class_names,
        "image_field": image_field,
        "text_field": tuple(text_field or ()),
        "columns": tuple(name.strip() for name in columns.split(",")) if columns else (),
        "captions": captions,
        "form": form,
        "question": question,
        "samples": samples,
        "split": split,
        "url_encoded": url_encoded,
        "drop_empty": drop_empty,
        "min_pictures": min_pictures,
        "max_pictures": max_pictures,
        "max_side": max_side,
    }
    if index_only:
        _index_only(format, inputs, out, given)
        return
    if out is None:
        raise UserError("--out is missing: name the folder for the shards")
    from janus_train.datatools.prepare.options import PrepareOptions, byte_count
    from janus_train.datatools.prepare.progress import ProgressDisplay
    from janus_train.datatools.prepare.run import prepare as run

    options = PrepareOptions(
        format, tuple(inputs), **given, shard_size=byte_count(shard_size), shard_samples=shard_samples
    )
    with ProgressDisplay() as progress:
        made = run(options, out, workers or _cores(), max_bad, progress.report)
    skipped, left_out = sum(made["skipped"].values()), sum(made["left_out"].values())
    print(
        f"{made['samples']:,} samples, {made['shards']} shards, {made['bytes'] / 1e6:,.1f} MB: {out}"
        + (f"; {skipped:,} skipped" if skipped else "")
        + (f"; {left_out:,} left out" if left_out else "")
        + (f" ({out / 'skipped.jsonl'} says why)" if skipped or left_out else "")
    )


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _index_only(format: str, inputs: list[str], out: Path | None, given: dict[str, Any]) -> None:
    from janus_train.datatools.prepare.options import PrepareOptions
    from janus_train.datatools.prepare.run import index_only

    if format != "webdataset":
        raise UserError(f"--index-only is for webdataset, not for {format}")
    if out is not None:
        raise UserError("--out means nothing with --index-only: the index goes beside each tar")
    options = PrepareOptions("webdataset", tuple(inputs), **given)
    if options != PrepareOptions("webdataset", tuple(inputs)):
        raise UserError("--index-only leaves the tars as they are: leave the other options out")
    for path in index_only(options):
        print(path)
