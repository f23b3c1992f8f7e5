"""``janus-train chat``: questions about pictures, or about nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from janus_train.commands.model_options import Device, Model, Precision, load, open_picture
from janus_train.errors import UserError


def chat(
    model: Model,
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture to ask about; may be given several times.")
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="A question; several are the turns of one conversation. Left out: asks for turn after turn."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Ask about pictures, or without any; answers appear while they are made.

    The pictures come before the first question, or where it says <image_placeholder>. Without --prompt it asks for the next
    turn, until an empty line or the end of the input.
    """
    if any(not text.strip() for text in prompt or []):
        raise UserError("--prompt is empty: ask something")
    pictures = [open_picture(path) for path in image or []]
    loaded = load(model, device, precision)
    from janus_train.data.prompt_format import with_places

    messages: list[dict[str, str]] = []
    for text in prompt or iter(_ask, ""):
        asked = {"role": "user", "content": text if messages else with_places(text, len(pictures))}
        try:
            said = _say(loaded.chat([*messages, asked], pictures, max_new_tokens))
        except UserError as error:
            if prompt:
                raise
            print(f"error: {error}", file=sys.stderr)  # the person who asks can ask otherwise
            continue
        messages += [asked, {"role": "assistant", "content": said}]


def _say(pieces: Iterable[str]) -> str:
    """Prints the pieces as they come, and gives them joined."""
    said = ""
    for piece in pieces:
        said += piece
        print(piece, end="", flush=True)
    print(flush=True)
    return said


def _ask() -> str:
    """The next turn; empty at the input's end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
