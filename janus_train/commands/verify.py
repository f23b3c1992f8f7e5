"""``janus-train verify``: checks whether a data set is fit for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from janus_train.commands.options import Data, MaxBad, Plugins, Workers
from janus_train.commands.terminal import count_bar, note, table_console
from janus_train.data.unused import summary_of
from janus_train.errors import UserError
from janus_train.files import write_json
from janus_train.plugins import import_plugins
from janus_train.targets import check_file
from janus_train.text import printable_line

if TYPE_CHECKING:
    from janus_train.datatools.verify.plan import Problem

_MAX_PRINTED = 10


def verify(
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the list of problems, one JSON line per sample, for example quarantine.jsonl."),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="File for the counts of all sources, for example verify.json.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a model whose tokenizer counts tokens; needs --row-tokens.")
    ] = None,
    row_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens in a row (batch.row_tokens); longer samples are bad. Needs --model."),
    ] = None,
    max_bad: MaxBad = 0.01,
    workers: Workers = None,
    plugin: Plugins = None,
) -> None:
    """Check every sample as training would: digests, images, the template, and with a tokenizer the length.

    Prints a table with the number of images in the samples, how many samples are longer than a row and what training does
    with them, and a verdict. The exit code is 1 if anything is damaged (its bytes differ from those that were
    indexed), or if the share of samples that cannot be used exceeds --max-bad (data.max_bad) in any source. Tars that are
    named without a recipe may have any of the known forms.

    \b
    Examples:
      janus-train verify data_recipes/stage2.yaml
      janus-train verify shards/photos --model models/janus-pro-1b --row-tokens 4096 --out quarantine.jsonl
    """
    if (model is None) != (row_tokens is None):
        raise UserError("--model and --row-tokens need each other: the tokenizer counts tokens, the row is the limit")
    if out is not None:
        check_file(out, "--out", "quarantine.jsonl")
    if json is not None:
        check_file(json, "--json", "verify.json")
    from janus_train.datatools.verify.run import verify as run

    import_plugins(plugin or (), "--plugin")

    with count_bar("samples") as bar:
        task = bar.add_task("", total=None)
        summary = run(
            data,
            max_bad=max_bad,
            tokenizer_folder=model,
            row_tokens=row_tokens,
            workers=workers,
            problems_file=out,
            on_start=lambda samples: bar.update(task, total=samples),
            on_samples=lambda samples: bar.advance(task, samples),
            on_problem=_ProblemPrinter().show if out is None else lambda problem: None,
        )
    table_console(100).print(summary.table())
    if summary.unused:
        note(f"not used: {summary_of(summary.unused)}")
    for warning in summary.warnings:
        note(f"warning: {warning}")
    if json is not None:
        write_json(json, summary.values())
    for line in summary.lengths:
        print(printable_line(line))
    fit, verdict = summary.verdict
    pointer = f"; see {out}" if out is not None and not verdict.endswith("none bad") else ""
    print(printable_line(verdict + pointer))
    if not fit:
        raise typer.Exit(1)


class _ProblemPrinter:
    """Prints the first few problems on standard error."""

    def __init__(self) -> None:
        self._number = 0

    def show(self, problem: Problem) -> None:
        self._number += 1
        if self._number <= _MAX_PRINTED:
            note(f"{problem.source}: {problem.key}: {problem.reason}")
        elif self._number == _MAX_PRINTED + 1:
            note("... and more: --out FILE lists them all")
