"""The conversation format: how turns become one string, for training, for inference and for transformers.

    <system prompt>\\n\\n<|User|>: <words>\\n\\n<|Assistant|>: <words><EOS><|User|>: ...

Empty words leave a turn open: ``<|Assistant|>:``. This is exactly the official code's ``deepseek`` conversation template (tests/golden/official_prompts.json). Its strings
are defined only here: training templates and inference prompts are built with these functions, and `chat_template`
gives the same format in Jinja for exported models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from janus_train.data.special_tokens import ASSISTANT, EOS, PLACEHOLDER, USER
from janus_train.errors import UserError, shortened

ROLES = {USER: USER, ASSISTANT: ASSISTANT, "user": USER, "assistant": ASSISTANT, "User": USER, "Assistant": ASSISTANT}
"""The names that the role of a turn may have."""
SYSTEM = "system"
"""The role of a message at the start of a conversation that is its system prompt."""
SEPARATOR = "\n\n"
"""What follows the system prompt."""
TURN_ENDS = {USER: SEPARATOR, ASSISTANT: EOS}
"""What follows the words of a turn, where the two alternate; see `chat_prompt`."""

Message = dict[str, str]
"""``{"role": one of ROLES, "content": text}``; the first of a conversation may have the role `SYSTEM`."""


@dataclass(frozen=True)
class PromptStyle:
    """The roles and the system prompt of a conversation; None stands for the model's own."""

    user: str | None = None
    assistant: str | None = None
    system: str | None = None
    """Stands before any conversation; the model's own stands only before those with images. Empty: none at all. A system
    message at the start of a conversation goes before it."""
    always_system: bool = False
    """Whether the model's own system prompt stands before conversations without images too, as with the official processor."""


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


def role_of(message: Message) -> str:
    """`USER` or `ASSISTANT`. Raises `UserError` for another role."""
    name = message.get("role")
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        what = "a system message stands at the start only" if name == SYSTEM else "known are user, assistant and system"
        raise UserError(f"a message has the role {shortened(name, 40)}: {what}")
    return role


def split_system(messages: Sequence[Message]) -> tuple[str | None, list[Message]]:
    """The system message at the start of a conversation, None if there is none, and its turns.

    Raises `UserError` for a conversation without a turn, a role that is not known or not in its place, and a content that
    is not text.
    """
    for number, message in enumerate(messages):
        if not isinstance(message.get("content"), str):
            raise UserError(f"message {number} of a conversation has no text: its content must be a string")
    system, turns = None, list(messages)
    if turns and turns[0].get("role") == SYSTEM:
        system = turns.pop(0)["content"].strip()
    if not turns:
        raise UserError("a conversation has no turn: give at least one message of the user")
    for turn in turns:
        role_of(turn)
    return system, turns


def chat_prompt(turns: Sequence[Message], system: str, user: str = USER, assistant: str = ASSISTANT) -> str:
    """A conversation of turns (without a system message, see `split_system`); empty content leaves a turn open.

    What follows the words depends on a turn's number, not on its role, as in the official code: of two user turns in a row
    the second ends with EOS. ``user``, ``assistant``: the words at the beginning of their turns.
    """
    names = {USER: user, ASSISTANT: assistant}
    ends = (TURN_ENDS[USER], TURN_ENDS[ASSISTANT])
    text = system_prefix(system)
    for number, turn in enumerate(turns):
        words = turn["content"].strip()
        text += open_turn(names[role_of(turn)]) + (f" {words}{ends[number % 2]}" if words else "")
    return text


def generation_prompt(prompt: str, system: str = "", user: str = USER, assistant: str = ASSISTANT) -> str:
    """The text-to-image prompt; ``<begin_of_image>`` follows without a space.

    ``system`` is empty in the official prompt; ``user``, ``assistant``: the words at the beginning of their turns.
    """
    turns = [{"role": USER, "content": prompt}, {"role": ASSISTANT, "content": ""}]
    return chat_prompt(turns, system, user, assistant)


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
