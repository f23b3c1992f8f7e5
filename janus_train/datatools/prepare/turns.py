"""Conversations in the layouts in which they are published, as training reads them.

LLaVA and ShareGPT (``from``: human or gpt, ``value``), OpenAI's (``role``, ``content`` as text or as parts), Janus's
own (``<|User|>``, ``content``, ``images``) and pairs of ``human`` and ``assistant``. What comes out alternates, starts
with the user and ends with the assistant; ``<image>`` is ``<image_placeholder>``.
"""

from __future__ import annotations

from typing import Any

from janus_train.datatools.prepare.items import SkipRecord

PLACEHOLDER, USER, ASSISTANT = "<image_placeholder>", "<|User|>", "<|Assistant|>"
"""The same as in data/encode.py, which is too slow to load in every process of a conversion."""
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


def images_named(turns: Any) -> list[Any]:
    """The images that single turns name (Janus's form: ``images`` beside ``content``), in order."""
    if not isinstance(turns, list):
        return []
    images: list[Any] = []
    for turn in turns:
        turn_images = turn.get("images") if isinstance(turn, dict) else None
        images += turn_images if isinstance(turn_images, list) else [] if turn_images is None else [turn_images]
    return images


def read_turns(turns: list[Any], num_images: int) -> list[dict[str, str]]:
    """``turns`` in Janus's form for a sample of ``num_pictures`` images. Raises `SkipRecord` with what does not fit.

    Words of the system go in front of the user's next ones. An answer without a question before it and a question
    without an answer are left away, unless an image belongs to them. Without any placeholder the images go in front
    of the user's first words.
    """
    turns_read: list[tuple[str, str]] = []
    system = ""
    for role, words in _each(turns):
        if role == SYSTEM:
            system = f"{system}{words}\n\n" if words.strip() else system
            continue
        words = words.replace("<image>", PLACEHOLDER) if num_images else words
        if role == USER:
            words, system = system + words, ""
        turns_read.append((role, words))
    turns_read = _trimmed(turns_read)
    for number, (role, words) in enumerate(turns_read):
        if role != (USER, ASSISTANT)[number % 2]:
            raise SkipRecord("the turns do not alternate", f"turn {number}")
        if not words.strip():
            raise SkipRecord("a turn is empty", f"turn {number}")
    if num_images and not any(PLACEHOLDER in words for _, words in turns_read):
        turns_read[0] = (USER, f"{PLACEHOLDER}\n" * num_images + turns_read[0][1])
    wanted = sum(words.count(PLACEHOLDER) for _, words in turns_read)
    if wanted != num_images:
        raise SkipRecord("placeholders and images differ in number", f"{wanted} placeholders, {num_images} images")
    return [{"role": role, "content": words} for role, words in turns_read]


def _each(turns: list[Any]) -> list[tuple[str, str]]:
    """(role, words) of every turn."""
    role_words: list[tuple[str, str]] = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise SkipRecord("a turn is no object", f"turn {number}")
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
                raise SkipRecord("a turn is no text", f"turn {number}")
        return "".join(pieces)
    raise SkipRecord("a turn is no text", f"turn {number}")


def _trimmed(turns_read: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """From the first question to the last answer."""
    first = next((number for number, (role, _) in enumerate(turns_read) if role == USER), len(turns_read))
    last = next((number for number in reversed(range(len(turns_read))) if turns_read[number][0] == ASSISTANT), -1)
    if last <= first:
        raise SkipRecord("there is no answer to learn from")
    if any(PLACEHOLDER in words for _, words in turns_read[:first] + turns_read[last + 1 :]):
        raise SkipRecord("an image belongs to a turn without question or answer")
    return turns_read[first : last + 1]
