"""A verification from end to end: plan, check every sample in processes, list the problems, summarise."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from janus_train.cpu import available_cores
from janus_train.data.data_args import resolve_data_args
from janus_train.data.unused import counting
from janus_train.datatools.verify.check import lengths_of
from janus_train.datatools.verify.plan import Problem, plan_verification
from janus_train.datatools.verify.pool import run_pieces
from janus_train.datatools.verify.summary import Summary
from janus_train.files import sync
from janus_train.jsonl import json_line

MIN_PARALLEL_SAMPLES = 1000
"""One process checks fewer samples than this sooner than further processes start."""


def verify(
    data: Sequence[str],
    *,
    max_bad: float,
    tokenizer_folder: Path | None = None,
    row_tokens: int | None = None,
    workers: int | None = None,
    problems_file: Path | None = None,
    on_start: Callable[[int], None] = lambda samples: None,
    on_samples: Callable[[int], None] = lambda samples: None,
    on_problem: Callable[[Problem], None] = lambda problem: None,
) -> Summary:
    """Check every sample of ``data`` (recipes, folders with tars, tars) as training would.

    With ``tokenizer_folder`` (a model's) samples longer than ``row_tokens`` are bad. ``problems_file`` lists the problems,
    one JSON line each; it is written completely or not at all. ``on_start`` gets the number of samples, ``on_samples`` the
    number of newly checked ones, ``on_problem`` each problem. Raises `UserError` for missing or unreadable data.
    """
    with counting() as unused:
        sources = resolve_data_args(data)
    lengths = None
    if tokenizer_folder is not None and row_tokens is not None:
        lengths = lengths_of(tokenizer_folder.expanduser(), row_tokens)
    plan = plan_verification(sources, lengths)
    summary = Summary(plan, max_bad, unused)
    if workers is None:
        workers = 1 if plan.samples < MIN_PARALLEL_SAMPLES else available_cores()
    on_start(plan.samples)
    with _list_writer(problems_file) as write:

        def report(problems: list[Problem]) -> None:
            for problem in problems:
                write(problem)
                on_problem(problem)

        report(summary.add_unopened_sources(plan))
        for result in run_pieces(plan, workers):
            report(summary.add(result))
            on_samples(result.piece.stop - result.piece.start)
    return summary


@contextmanager
def _list_writer(path: Path | None) -> Iterator[Callable[[Problem], None]]:
    """A function that writes a problem to the list, which appears only when it is complete; no-op without ``path``."""
    if path is None:
        yield lambda problem: None
        return
    staging = path.with_name(path.name + ".part")
    try:
        with staging.open("w", encoding="utf-8") as file:

            def write(problem: Problem) -> None:
                file.write(json_line(asdict(problem)))

            yield write
        sync(staging)
        os.replace(staging, path)
        sync(path.parent)
    finally:
        staging.unlink(missing_ok=True)
