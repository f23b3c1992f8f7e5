"""``janus-train``: everything but training itself, one command each.

Commands import what they need when they run, so that ``--help`` is quick. A user's mistake is one line on standard
error and exit code 2.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from janus_train.commands.app import app as app_command
from janus_train.commands.assemble import assemble
from janus_train.commands.chat import chat
from janus_train.commands.convert import export, import_model
from janus_train.commands.generate import generate
from janus_train.commands.index import index
from janus_train.commands.inspect import inspect
from janus_train.commands.model_options import (
    Device,
    Guidance,
    Model,
    Seed,
    Temperature,
    check_finite,
    check_writable,
    load,
)
from janus_train.commands.plan import plan
from janus_train.commands.prepare import prepare
from janus_train.commands.tokenize import tokenize
from janus_train.commands.verify import verify
from janus_train.config import UserError

app = typer.Typer(
    help="Tools around Janus-Pro-like models: draw, ask, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_UsageError: Any = typer.BadParameter.__bases__[0]
"""click's class; typer brings a click of its own, under a private name."""


def main() -> None:
    """The entry point."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except _UsageError as error:
        where = error.ctx.command_path if error.ctx else "janus-train"
        _fail(f"{' '.join(error.format_message().split())} ({where} --help lists what there is)")
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(2)


@app.callback()
def _root() -> None:
    """Keeps the commands' names even while there is only one."""


@app.command()
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
) -> None:
    """Measure drawing and answering on held-out scenes of the embedded pictures, and print the table."""
    check_finite(guidance, temperature)
    check_writable(out)
    from janus_train.evaluate.common import Options
    from janus_train.evaluate.evaluate import evaluate as run_evaluation

    loaded = load(model, device)
    options = Options(
        num_prompts=num_prompts,
        num_questions=num_questions,
        seed=seed,
        guidance=loaded.guidance if guidance is None else guidance,
        temperature=loaded.temperature if temperature is None else temperature,
        batch_size=batch_size,
    )
    with _Phases() as phases:
        results = run_evaluation(loaded, out, options, phases.report)
    _print_table(results)
    print(f"results: {out / 'results.json'}, pictures: {out / 'grid.png'}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or a demo's with stage1/, stage2/, ...")],
) -> None:
    """Write report.html of a run or a demo: one file with curves, results, pictures and answers."""
    from janus_train.report import build

    print(build(folder))


app.command("app")(app_command)
app.command()(assemble)
app.command()(chat)
app.command()(export)
app.command()(generate)
app.command("import")(import_model)
app.command()(index)
app.command()(inspect)
app.command()(plan)
app.command()(prepare)
app.command()(tokenize)
app.command()(verify)


# ---------------------------------------------------------------------------------------------------------------- parts


def _print_table(results: dict[str, Any]) -> None:
    from rich.console import Console

    from janus_train.evaluate.table import WIDTH, results_table

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(results_table(results))


class _Phases:
    """Progress of an evaluation: bars on a terminal, elsewhere a line when a phase ends."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self.bars = Progress(console=console) if console.is_terminal else None
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> _Phases:
        if self.bars:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars:
            self.bars.stop()

    def report(self, what: str, done: int, total: int) -> None:
        if self.bars:
            if what not in self.tasks:
                self.tasks[what] = self.bars.add_task(what, total=total)
            self.bars.update(self.tasks[what], completed=done)
        elif done == total:
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
