"""``janus-train``: the commands for everything except training itself.

In: the command line. Out: the command's output and exit code; a user's mistake is one line on standard error and exit
code 2. Commands import what they need when they run, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

from janus_train.commands.app import app as app_command
from janus_train.commands.assemble import assemble
from janus_train.commands.benchmark import benchmark
from janus_train.commands.chat import chat
from janus_train.commands.convert import export, import_model, merge
from janus_train.commands.evaluate import evaluate
from janus_train.commands.generate import generate
from janus_train.commands.index import index
from janus_train.commands.inspect import inspect
from janus_train.commands.plan import plan
from janus_train.commands.prepare import prepare
from janus_train.commands.report import report
from janus_train.commands.serve import serve
from janus_train.commands.tokenize import tokenize
from janus_train.commands.verify import verify
from janus_train.errors import UserError
from janus_train.files import FULL
from janus_train.text import printable_line

app = typer.Typer(
    help="Prepare data for Janus-Pro-like models, plan and inspect their training, and use the trained models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_UsageError: Any = typer.BadParameter.__bases__[0]
"""click's ``UsageError``; typer ships its own click under a private name."""


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit with its code."""
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "janus-train"
        _fail(f"{' '.join(error.format_message().split())} (see {command} --help)")
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except OSError as error:
        if error.errno not in FULL:
            raise
        prefix = f"{error.filename} cannot be written: " if error.filename else ""
        _fail(f"{prefix}{error.strerror}: make room, or choose another disk")
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _fail("out of memory: reduce --batch-size or use --precision bf16")
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: in Python, on a GPU (by the class's name, without importing torch) or on the CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _fail(message: str) -> None:
    print(f"error: {printable_line(message)}", file=sys.stderr)
    sys.exit(2)


@app.callback()
def _root() -> None:
    """Makes typer use the commands' names even while there is only one."""


app.command("app")(app_command)
app.command()(assemble)
app.command()(benchmark)
app.command()(chat)
app.command()(evaluate)
app.command()(export)
app.command()(generate)
app.command("import")(import_model)
app.command()(index)
app.command()(inspect)
app.command()(merge)
app.command()(plan)
app.command()(prepare)
app.command()(report)
app.command()(serve)
app.command()(tokenize)
app.command()(verify)


if __name__ == "__main__":
    main()
