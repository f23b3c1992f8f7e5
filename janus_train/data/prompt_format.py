"""The conversation format: how turns become one string, for training, for inference and for transformers.

    <system prompt>\\n\\n<|User|>: <words>\\n\\n<|Assistant|>: <words><EOS><|User|>: ...

This is exactly the official code's ``deepseek`` conversation template (tests/golden/official_prompts.json). Its strings
are defined only here: training templates and inference prompts are built with these functions, and `chat_template`
gives the same format in Jinja for exported models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from janus_train.data.special_tokens import ASSISTANT, EOS, PLACEHOLDER, USER

ROLES = {USER: USER, ASSISTANT: ASSISTANT, "user": USER, "assistant": ASSISTANT, "User": USER, "Assistant": ASSISTANT}
"""The names that a message's role may have."""
SEPARATOR = "\n\n"
"""What follows the system prompt."""
TURN_ENDS = {USER: SEPARATOR, ASSISTANT: EOS}
"""What follows the words of a turn."""


@dataclass(frozen=True)
class PromptStyle:
    """The roles and the system prompt of a conversation; None stands for the model's own."""

    user: str | None = None
    assistant: str | None = None
    system: str | None = None
    """Stands before any conversation; the model's own stands only before those with images. Empty: none at all."""


OWN_STYLE = PromptStyle()
_CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def system_prefix(system: str) -> str:
    """The system prompt at the start of a conversation; empty if there is none."""
    return f"{system}{SEPARATOR}" if system else ""


def open_turn(role: str) -> str:
    """The beginning of a turn, which the model continues. ``role``: `USER` or `ASSISTANT`."""
    return f"{role}:"


def full_turn(role: str, content: str) -> str:
    """A complete turn; white space around ``content`` is stripped. ``role``: `USER` or `ASSISTANT`."""
    return f"{open_turn(role)} {content.strip()}{TURN_ENDS[role]}"


def chat_prompt(messages: list[dict[str, str]], system: str, user: str = USER, assistant: str = ASSISTANT) -> str:
    """A conversation of ``{"role": one of `ROLES`, "content": text}``; empty content leaves the turn open.

    ``user``, ``assistant``: the words at the beginning of their turns.
    """
    names = {USER: user, ASSISTANT: assistant}
    text = system_prefix(system)
    for message in messages:
        role, content = ROLES[message["role"]], message["content"].strip()
        text += open_turn(names[role]) + (f" {content}{TURN_ENDS[role]}" if content else "")
    return text


def generation_prompt(prompt: str, system: str = "", user: str = USER, assistant: str = ASSISTANT) -> str:
    """The text-to-image prompt; ``<begin_of_image>`` follows without a space.

    ``system`` is empty in the official prompt; ``user``, ``assistant``: the words at the beginning of their turns.
    """
    return f"{system_prefix(system)}{open_turn(user)} {prompt.strip()}{TURN_ENDS[USER]}{open_turn(assistant)}"


def with_places(text: str, num_images: int) -> str:
    """Put the placeholders that the text lacks in front of it, one per line, so that every image has a place."""
    return f"{PLACEHOLDER}\n" * (num_images - text.count(PLACEHOLDER)) + text


def chat_template(system: str, user: str = USER, assistant: str = ASSISTANT) -> str:
    """The format in Jinja, for transformers' ``apply_chat_template``: chat_template.jinja with its values set.

    ``system`` precedes a conversation with images, unless the conversation has its own system message. ``user`` and
    ``assistant``: see `special_tokens.speakers`.
    """
    values = {
        "system_prompt": system,
        "user": user,
        "assistant": assistant,
        "user_token": USER,
        "image_token": PLACEHOLDER,
        "separator": SEPARATOR,
        "user_end": TURN_ENDS[USER],
        "assistant_end": TURN_ENDS[ASSISTANT],
    }
    literals = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    head = "".join(f"{{%- set {name} = {literal} -%}}\n" for name, literal in literals.items())
    return head + _CHAT_TEMPLATE.read_text(encoding="utf-8")
