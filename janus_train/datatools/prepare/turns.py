"""Converts published conversation layouts to the one that training reads.

In: LLaVA and ShareGPT (``from``: human or gpt, ``value``), OpenAI's (``role``, ``content`` as text or as parts), Janus's
own (``<|User|>``, ``content``, ``images``) and pairs of ``human`` and ``assistant``. Out: turns that alternate, start with
the user and end with the assistant; ``<image>`` becomes ``<image_placeholder>``.
"""

from __future__ import annotations

from typing import Any

from janus_train.data.special_tokens import ASSISTANT, PLACEHOLDER, USER
from janus_train.datatools.prepare.items import SkipRecord

SYSTEM = "system"
_ROLES = {
    "human": USER,
    "user": USER,
    "<|user|>": USER,
    "gpt": ASSISTANT,
    "assistant": ASSISTANT,
    "<|assistant|>": ASSISTANT,
    "chatgpt": ASSISTANT,
    "bing": ASSISTANT,
    "bard": ASSISTANT,
    "model": ASSISTANT,
    "system": SYSTEM,
}


def role_of(turn: dict[str, Any]) -> str | None:
    return _ROLES.get(str(turn.get("from", turn.get("role", ""))).strip().lower())


def images_of_turns(turns: Any) -> list[Any]:
    """The images in single turns (Janus's form: ``images`` beside ``content``), in order."""
    if not isinstance(turns, list):
        return []
    images: list[Any] = []
    for turn in turns:
        turn_images = turn.get("images") if isinstance(turn, dict) else None
        images += turn_images if isinstance(turn_images, list) else [] if turn_images is None else [turn_images]
    return images


def read_turns(turns: list[Any], num_images: int) -> list[dict[str, str]]:
    """``turns`` in Janus's form for a sample of ``num_images`` images. Raises `SkipRecord` with the problem.

    System messages go in front of the user's next words. Answers before the first question and questions after the last
    answer are dropped, unless an image belongs to them. Without any placeholder the images go in front of the user's
    first words.
    """
    role_words: list[tuple[str, str]] = []
    system = ""
    for role, words in _roles_and_words(turns):
        if role == SYSTEM:
            system = f"{system}{words}\n\n" if words.strip() else system
            continue
        words = words.replace("<image>", PLACEHOLDER) if num_images else words
        if role == USER:
            words, system = system + words, ""
        role_words.append((role, words))
    role_words = _trim(role_words)
    for number, (role, words) in enumerate(role_words):
        if role != (USER, ASSISTANT)[number % 2]:
            raise SkipRecord("the turns do not alternate", f"turn {number}")
        if not words.strip():
            raise SkipRecord("a turn is empty", f"turn {number}")
    if num_images and not any(PLACEHOLDER in words for _, words in role_words):
        role_words[0] = (USER, f"{PLACEHOLDER}\n" * num_images + role_words[0][1])
    num_placeholders = sum(words.count(PLACEHOLDER) for _, words in role_words)
    if num_placeholders != num_images:
        raise SkipRecord(
            "placeholders and images differ in number", f"{num_placeholders} placeholders, {num_images} images"
        )
    return [{"role": role, "content": words} for role, words in role_words]


def _roles_and_words(turns: list[Any]) -> list[tuple[str, str]]:
    """(role, words) of every turn."""
    role_words: list[tuple[str, str]] = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise SkipRecord("a turn is not an object", f"turn {number}")
        if isinstance(turn.get("human"), str) and isinstance(turn.get("assistant"), str):
            role_words += [(USER, turn["human"]), (ASSISTANT, turn["assistant"])]
            continue
        role = role_of(turn)
        if role is None:
            raise SkipRecord(
                "a turn's role is unknown", f"turn {number}: {str(turn.get('from', turn.get('role')))[:40]!r}"
            )
        role_words.append((role, _words(turn.get("value", turn.get("content")), number)))
    return role_words


def _words(content: Any, number: int) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):  # parts: {"type": "text", "text": ...} and {"type": "image", ...}
        pieces = []
        for part in content:
            if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
                pieces.append(part["text"])
            elif isinstance(part, dict) and str(part.get("type")).startswith("image"):
                pieces.append(PLACEHOLDER)
            else:
                raise SkipRecord("a turn is not a string", f"turn {number}")
        return "".join(pieces)
    raise SkipRecord("a turn is not a string", f"turn {number}")


def _trim(role_words: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The turns from the first question to the last answer."""
    start = next((number for number, (role, _) in enumerate(role_words) if role == USER), len(role_words))
    end = next((number for number in reversed(range(len(role_words))) if role_words[number][0] == ASSISTANT), -1)
    if end <= start:
        raise SkipRecord("there is no answer to learn from")
    if any(PLACEHOLDER in words for _, words in role_words[:start] + role_words[end + 1 :]):
        raise SkipRecord("an image belongs to a turn without question or answer")
    return role_words[start : end + 1]
