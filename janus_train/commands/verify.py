"""``janus-train verify``: is a data set fit for training?"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from janus_train.commands.run_options import check_target
from janus_train.commands.terminal import count_bar, table_console
from janus_train.config import UserError

FEW = 1000
"""Samples that one process looks at sooner than others have started."""


def verify(
    data: Annotated[list[str], typer.Argument(help="Recipes' YAML, folders with tars, or tars.", metavar="DATA")],
    out: Annotated[
        Path | None, typer.Option(help="File for the list of what is wrong, one JSON line a sample (quarantine.jsonl).")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A model's folder: its tokenizer counts tokens. Needs --row-tokens.")
    ] = None,
    row_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="What a row holds (batch.row_tokens): longer samples are bad. Needs --model."),
    ] = None,
    max_bad: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a source's samples that may be bad (data.max_bad).")
    ] = 0.01,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Left out: one a core.")] = None,
) -> None:
    """Look at every sample as training would: digests, pictures, the template, and with a tokenizer the length.

    Prints a table and a verdict. Exit code 1 if anything is damaged (its bytes are not those indexed), or if a source has
    more than --max-bad samples that cannot be used. Tars of which no recipe speaks may have any known form.
    """
    if (model is None) != (row_tokens is None):
        raise UserError("--model and --row-tokens go together: the tokenizer, and what is too long")
    if out is not None:
        check_target(out, "--out", "quarantine.jsonl")
    from janus_train.data.given import given_data
    from janus_train.datatools.verify.check import lengths_of
    from janus_train.datatools.verify.plan import Problem, plan_verification
    from janus_train.datatools.verify.pool import run_pieces
    from janus_train.datatools.verify.summary import Summary

    given = given_data(data)
    lengths = lengths_of(model.expanduser(), row_tokens) if model is not None and row_tokens is not None else None
    plan = plan_verification(given, lengths)
    summary = Summary(plan, max_bad)
    cores = workers or (1 if plan.samples < FEW else len(os.sched_getaffinity(0)))
    with _listing(out) as note, count_bar("samples") as bar:
        task = bar.add_task("", total=plan.samples)

        def tell(problems: list[Problem]) -> None:
            for problem in problems:
                note(asdict(problem))

        tell(summary.add_unopened(plan))
        for result in run_pieces(plan, cores):
            tell(summary.add(result))
            bar.advance(task, result.piece.stop - result.piece.start)
    table_console(100).print(summary.table())
    fit, verdict = summary.verdict
    print(verdict + (f"; see {out}" if out is not None and not verdict.endswith("none bad") else ""))
    if not fit:
        raise typer.Exit(1)


@contextmanager
def _listing(path: Path | None) -> Iterator[Any]:
    """Takes the lines of the list; without a file for it the first few go to standard error. Whole, or not there."""
    from janus_train.files import sync

    if path is None:
        shown = 0

        def show(line: dict[str, Any]) -> None:
            nonlocal shown
            shown += 1
            if shown <= 10:
                print(f"{line['source']}: {line['key']}: {line['reason']}", file=sys.stderr)
            elif shown == 11:
                print("... and more: --out FILE lists them all", file=sys.stderr)

        yield show
        return
    staging = path.with_name(path.name + ".part")
    try:
        with staging.open("w", encoding="utf-8") as file:
            yield lambda line: file.write(json.dumps(line, ensure_ascii=False) + "\n")
        sync(staging)
        os.replace(staging, path)
        sync(path.parent)
    finally:
        staging.unlink(missing_ok=True)
