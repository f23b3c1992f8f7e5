"""``janus-train chat``: questions about images, or without any."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from janus_train.commands.options import Device, Images, Model, Precision, load, open_image_option
from janus_train.commands.terminal import note
from janus_train.errors import UserError
from janus_train.text import printable


def chat(
    model: Model,
    image: Images = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="A question; several are the turns of one conversation. Without it you are asked for each turn."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Largest number of tokens in an answer.")] = 256,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Ask a model about images, or talk to it without any.

    Answers appear as they are generated. The images come before the first question, or where it says
    <image_placeholder>. Without --prompt the conversation goes on until an empty line or the end of the input.

    \b
    Examples:
      janus-train chat outputs/demo/stage3/final --image photo.jpg --prompt "What is in the image?"
      janus-train chat outputs/demo/stage3/final
    """
    if any(not text.strip() for text in prompt or []):
        raise UserError("--prompt is empty: ask something")
    images = [open_image_option(path) for path in image or []]
    loaded = load(model, device, precision)
    from janus_train.data.prompt_format import with_places

    messages: list[dict[str, str]] = []
    for text in prompt or iter(_ask, ""):
        question = {"role": "user", "content": text if messages else with_places(text, len(images))}
        try:
            answer = _print_answer(loaded.chat([*messages, question], images, max_new_tokens))
        except UserError as error:
            if prompt:
                raise
            note(f"error: {error}")  # the person who asks can ask otherwise
            continue
        messages += [question, {"role": "assistant", "content": answer}]


def _print_answer(pieces: Iterable[str]) -> str:
    """Prints the pieces as they come, and returns them joined."""
    answer = ""
    for piece in pieces:
        answer += piece
        print(printable(piece, keep="\n\t"), end="", flush=True)  # a model can be taught to act on terminals
    print(flush=True)
    return answer


def _ask() -> str:
    """The next turn; empty at the input's end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
