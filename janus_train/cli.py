"""``janus-train``: everything but training itself, one command each.

Commands import what they need when they run, so that ``--help`` is quick. A user's mistake is one line on standard
error and exit code 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from janus_train.commands.assemble import assemble
from janus_train.commands.convert import export, import_model
from janus_train.commands.index import index
from janus_train.commands.inspect import inspect
from janus_train.commands.plan import plan
from janus_train.commands.prepare import prepare
from janus_train.commands.tokenize import tokenize
from janus_train.commands.verify import verify
from janus_train.config import UserError

if TYPE_CHECKING:
    from PIL import Image

    from janus_train.infer.load import Loaded

app = typer.Typer(
    help="Tools around Janus-Pro-like models: draw, ask, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_UsageError: Any = typer.BadParameter.__bases__[0]
"""click's class; typer brings a click of its own, under a private name."""

Model = Annotated[
    str,
    typer.Argument(
        help="A trained model's folder, for example outputs/demo/stage3/final, an official checkpoint's, or a hub id."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.")]
Guidance = Annotated[
    float | None, typer.Option(help="Weight of classifier-free guidance; 1 is none. Left out: the model's own, else 5.")
]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, help="0 takes the likeliest code each time. Left out: the model's own, else 1.")
]


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
def generate(
    model: Model,
    prompt: Annotated[list[str], typer.Option(help="What to draw; may be given several times.")],
    image: Annotated[
        list[Path] | None,
        typer.Option(help="A picture to draw from, with every prompt (editing); may be given several times."),
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="Pictures a prompt.")] = 4,
    guidance: Guidance = None,
    temperature: Temperature = None,
    seed: Annotated[int, typer.Option(min=0, help="The first picture's; the next have the next numbers.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("outputs/generated"),
    device: Device = "auto",
) -> None:
    """Draw pictures from prompts, or from prompts and pictures."""
    if any(not text.strip() for text in prompt):
        raise UserError("--prompt is empty: say what to draw")
    _check_writable(out)
    given = [_open_picture(path) for path in image or []]
    loaded = _load(model, device)
    from janus_train.infer.editing import edit_prompt
    from janus_train.infer.generate import generate_pictures

    context = loaded.janus.config.text_config.max_position_embeddings
    edits = [edit_prompt(loaded.encoder, text, given, context) for text in prompt] if given else []
    ids = [ids for ids, _ in edits] or [loaded.encoder.generation_prompt_ids(text) for text in prompt]
    temperature = loaded.temperature if temperature is None else temperature
    pictures = generate_pictures(
        loaded.janus,
        [one for one in ids for _ in range(num_images)],
        pad_id=loaded.encoder.special.pad,
        guidance=loaded.guidance if guidance is None else guidance,
        temperature=temperature,
        seeds=[seed + number for number in range(len(ids) * num_images)],
        greedy=temperature == 0,
        seen=[seen for _, seen in edits for _ in range(num_images)] or None,
    )
    out.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        path = out / f"{number // num_images:03d}-{seed + number}.png"
        picture.save(path)
        print(path)


@app.command()
def chat(
    model: Model,
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture to ask about; may be given several times.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The question. Left out: a conversation on the terminal.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    device: Device = "auto",
) -> None:
    """Ask about pictures, or without any."""
    if prompt is not None and not prompt.strip():
        raise UserError("--prompt is empty: ask something")
    pictures = [_open_picture(path) for path in image or []]
    loaded = _load(model, device)
    from janus_train.data.encode import PLACEHOLDER
    from janus_train.infer.chat import answer

    messages: list[dict[str, str]] = []
    while True:
        text = prompt if prompt is not None else _ask()
        if text is None:
            return
        missing = len(pictures) - text.count(PLACEHOLDER) if not messages else 0
        messages.append({"role": "user", "content": f"{PLACEHOLDER}\n" * missing + text})
        said = answer(loaded.janus, loaded.encoder, [(messages, pictures)], max_new_tokens)[0]
        print(said)
        if prompt is not None:
            return
        messages.append({"role": "assistant", "content": said or " "})


def _ask() -> str | None:
    """The next line that is not empty; None at the input's end."""
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return None
        if text:
            return text


@app.command()
def evaluate(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for results.json, the pictures and the answers.")],
    num_prompts: Annotated[int, typer.Option(min=1, help="Held-out scenes to draw.")] = 200,
    num_questions: Annotated[int, typer.Option(min=4, help="Questions on held-out scenes.")] = 400,
    guidance: Guidance = None,
    temperature: Temperature = None,
    seed: Annotated[int, typer.Option(min=0, help="The first picture's; the next have the next numbers.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures, or answers, at a time.")] = 64,
    device: Device = "auto",
) -> None:
    """Measure drawing and answering on held-out scenes of the embedded pictures, and print the table."""
    _check_writable(out)
    from janus_train.evaluate.common import Options
    from janus_train.evaluate.evaluate import evaluate as run_evaluation

    loaded = _load(model, device)
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


app.command()(assemble)
app.command()(export)
app.command("import")(import_model)
app.command()(index)
app.command()(inspect)
app.command()(plan)
app.command()(prepare)
app.command()(tokenize)
app.command()(verify)


# ---------------------------------------------------------------------------------------------------------------- parts


def _load(model: str, device: str) -> Loaded:
    import torch

    from janus_train.infer.load import load_model

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device} is unknown: cpu, cuda or auto")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here")
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return load_model(model, device=chosen)


def _open_picture(path: Path) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except FileNotFoundError:
        raise UserError(f"--image {path}: there is no such file") from None
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"--image {path} cannot be read as a picture ({error})") from None


def _check_writable(folder: Path) -> None:
    """Before minutes are spent on what goes into it; makes nothing yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--out {folder} cannot be made: {there} is a file")
    if not os.access(there, os.W_OK):
        raise UserError(f"--out {folder} cannot be written: no permission in {there}")


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
