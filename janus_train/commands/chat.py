"""``janus-train chat``: answers questions about images, or without any."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated

import typer

from janus_train.commands.options import (
    Adapters,
    AlwaysSystem,
    AssistantRole,
    Device,
    Images,
    Model,
    Precision,
    UserRole,
    load,
    open_image_option,
)
from janus_train.commands.terminal import note
from janus_train.errors import UserError
from janus_train.text import printable


def chat(
    model: Model,
    adapter: Adapters = None,
    image: Images = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="A question; several are the turns of one conversation. Without it you are asked for each turn."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Largest number of tokens in an answer.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Sampling temperature; 0 always takes the most likely token.")
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Sample only the most likely tokens that together have this probability."),
    ] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Sample only this many of the most likely tokens; 0: all.")] = 0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1, tokens that are in the answer already become less likely.")
    ] = 1.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**62, help="Seed of the first answer; the following ones take the next numbers.")
    ] = 0,
    system: Annotated[
        str | None, typer.Option(help="System prompt in place of the model's own; an empty one means none.")
    ] = None,
    always_system: AlwaysSystem = False,
    user_role: UserRole = None,
    assistant_role: AssistantRole = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Ask a model about images, or talk to it without any.

    Answers appear as they are generated. They have the most likely tokens unless --temperature is above 0. The images
    come before the first question, or at its <image_placeholder>s. Without --prompt the conversation continues until an
    empty line or the end of the input.

    \b
    Examples:
      janus-train chat outputs/demo/stage3/final --image photo.jpg --prompt "What is in the image?"
      janus-train chat outputs/demo/stage3/final --temperature 0.7 --top-p 0.9
    """
    if any(not text.strip() for text in prompt or []):
        raise UserError("--prompt is empty: ask something")
    images = [open_image_option(path) for path in image or []]
    from janus_train.data.prompt_format import PromptStyle, with_places
    from janus_train.infer.sampling import TextSampling

    style = PromptStyle(user_role, assistant_role, system, always_system)
    sampling = TextSampling(temperature, top_p, top_k, repetition_penalty)
    loaded_model = load(model, adapter, device, precision)

    messages: list[dict[str, str]] = []
    for text in prompt or iter(_ask, ""):
        question = {"role": "user", "content": text if messages else with_places(text, len(images))}
        try:
            answer = _print_answer(
                loaded_model.chat(
                    [*messages, question],
                    images,
                    max_new_tokens,
                    style=style,
                    sampling=sampling,
                    seed=seed + len(messages) // 2,
                )
            )
        except UserError as error:
            if prompt:
                raise
            note(f"error: {error}")  # the user can ask something else
            continue
        messages += [question, {"role": "assistant", "content": answer}]


def _print_answer(pieces: Iterable[str]) -> str:
    """Print the pieces as they come, and return them joined."""
    answer = ""
    for piece in pieces:
        answer += piece
        print(printable(piece, keep="\n\t"), end="", flush=True)  # a model can be taught to act on terminals
    print(flush=True)
    return answer


def _ask() -> str:
    """Read the next turn; empty at the end of the input."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
