"""``janus-train evaluate``: what a model has learnt of the embedded pictures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from janus_train.commands.model_options import (
    Device,
    Guidance,
    Model,
    Precision,
    Seed,
    Temperature,
    check_finite,
    check_writable,
    load,
)
from janus_train.commands.terminal import bars, table_console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def evaluate(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for results.json, the pictures and the answers.")],
    num_prompts: Annotated[int, typer.Option(min=1, help="Held-out scenes to draw.")] = 200,
    num_questions: Annotated[int, typer.Option(min=4, help="Questions on held-out scenes.")] = 400,
    guidance: Guidance = None,
    temperature: Temperature = None,
    seed: Seed = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures, or answers, at a time.")] = 64,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Measure drawing and answering on held-out scenes of the embedded pictures, and print the table."""
    check_finite(guidance, temperature)
    check_writable(out)
    from janus_train.evaluate.common import Options
    from janus_train.evaluate.evaluate import evaluate as run_evaluation
    from janus_train.evaluate.table import WIDTH, results_table

    loaded = load(model, device, precision)
    options = Options(
        num_prompts=num_prompts,
        num_questions=num_questions,
        seed=seed,
        guidance=loaded.guidance if guidance is None else guidance,
        temperature=loaded.temperature if temperature is None else temperature,
        batch_size=batch_size,
    )
    with bars() as shown:
        results = run_evaluation(loaded, out, options, _Phases(shown).report)
    table_console(WIDTH).print(results_table(results))
    print(f"results: {out / 'results.json'}, pictures: {out / 'grid.png'}")


class _Phases:
    """Progress of an evaluation: a bar a phase, or without a terminal a line when it ends."""

    def __init__(self, bars: Progress):
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def report(self, what: str, done: int, total: int) -> None:
        if self._bars.disable:
            if done == total:
                print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)
            return
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done)
