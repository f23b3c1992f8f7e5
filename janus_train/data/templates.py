"""The project's only templates: a record's fields and pictures -> the segments of its sample.

Formats: facts.md "Sequence formats" (the official code) and Pro, section 3.1 for the stages' templates.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from janus_train.data.special_tokens import ASSISTANT, EOS, PLACEHOLDER, ROLES, SPECIAL_TOKENS, USER
from janus_train.data.types import BadSample, Record, Segment

_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
_FIRST_SENTENCE = re.compile(r"^.*?(?:[.!?](?=\s|$|[\"'”’])|[。！？])", re.DOTALL)


def _text(record: Record, name: str, *, clean: bool = True) -> str:
    value = record.fields.get(name)
    if not isinstance(value, str):
        raise BadSample(f"field {name!r} is missing or no text")
    if not value.strip():
        raise BadSample(f"field {name!r} is empty")
    found = _SPECIAL.search(value) if clean else None
    if found:
        raise BadSample(f"field {name!r} holds the special token {found[0]}")
    return value


def _picture(record: Record) -> tuple[Image.Image, np.ndarray | None]:
    if len(record.pictures) != 1:
        raise BadSample(f"{len(record.pictures)} pictures where the template takes 1")
    return record.pictures[0], (record.codes[0] if record.codes else None)


def _image_in(record: Record) -> Segment:
    return Segment("image_in", picture=_picture(record)[0])


def _image_out(record: Record) -> Segment:
    picture, codes = _picture(record)
    return Segment("image_out", picture=picture, codes=codes)


def text(record: Record) -> list[Segment]:
    """Plain text, all of it with loss."""
    return [Segment("text", _text(record, "text") + EOS, loss=True)]


def image_caption(record: Record) -> list[Segment]:
    """Stage 1: ``<image><text>``."""
    return [_image_in(record), Segment("text", _text(record, "caption") + EOS, loss=True)]


def image_describe(record: Record) -> list[Segment]:
    """Stage 2: ``<image>Describe the image in detail.<caption>``."""
    caption = _text(record, "caption")
    return [
        _image_in(record),
        Segment("text", "Describe the image in detail."),
        Segment("text", caption + EOS, loss=True),
    ]


def question_answer(record: Record) -> list[Segment]:
    """Stage 2, tables, charts and documents: ``<image><question><answer>``."""
    question, answer = _text(record, "question"), _text(record, "answer")
    return [_image_in(record), Segment("text", question), Segment("text", answer + EOS, loss=True)]


def class_to_image(record: Record) -> list[Segment]:
    """Stage 1: ``<category_name><image>``."""
    return [Segment("text", _text(record, "class_name")), _image_out(record)]


def text_to_image(record: Record) -> list[Segment]:
    """Stage 2: ``<caption><image>``."""
    return [Segment("text", _text(record, "caption")), _image_out(record)]


def request_to_image(record: Record) -> list[Segment]:
    """Stage 3: a caption as the user's request and the picture as the answer, in the official generation prompt."""
    prompt = f"{USER}: {_text(record, 'caption').strip()}\n\n{ASSISTANT}:"
    return [Segment("text", prompt), _image_out(record), Segment("text", EOS)]


def conversation(record: Record) -> list[Segment]:
    """Stage 3: the official chat template, contents without the white space around them as there; loss on the
    assistant's words and on the pictures it draws.

    A placeholder in a user's turn is a picture to look at, one in the assistant's turn a picture to draw.
    """
    turns = record.fields.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise BadSample("field 'conversations' is missing, empty or no list")
    pictures = iter(zip(record.pictures, record.codes or [None] * len(record.pictures), strict=True))
    wanted = sum(str(turn.get("content", "")).count(PLACEHOLDER) for turn in turns if isinstance(turn, dict))
    if wanted != len(record.pictures):
        raise BadSample(f"{wanted} placeholders but {len(record.pictures)} pictures")
    segments: list[Segment] = []
    for number, turn in enumerate(turns):
        role = ROLES.get(str(turn.get("role"))) if isinstance(turn, dict) else None
        if role != (USER, ASSISTANT)[number % 2]:
            raise BadSample(
                f"turn {number} is not the {'user' if number % 2 == 0 else 'assistant'}'s: turns must alternate"
            )
        content = turn.get("content")
        if not isinstance(content, str) or not content.strip():
            raise BadSample(f"turn {number} is empty or no text")
        found = _SPECIAL.search(content.replace(PLACEHOLDER, ""))
        if found:
            raise BadSample(f"turn {number} holds the special token {found[0]}")
        segments += (_user_turn if role == USER else _assistant_turn)(content.strip(), pictures)
    if len(turns) % 2:
        raise BadSample("the last turn is the user's: there is nothing to learn from it")
    return segments


def _user_turn(content: str, pictures: Any) -> list[Segment]:
    first, *rest = f"{USER}: {content}\n\n".split(PLACEHOLDER)
    segments = [Segment("text", first)]
    for piece in rest:
        segments += [Segment("image_in", picture=next(pictures)[0]), Segment("text", piece)]
    return segments


def _assistant_turn(content: str, pictures: Any) -> list[Segment]:
    """`` {words}<EOS>`` with loss; no space before a picture that comes first, and no loss on the EOS after a picture."""
    first, *rest = content.split(PLACEHOLDER)
    segments = [Segment("text", f"{ASSISTANT}:")]
    if first.strip():
        segments.append(Segment("text", " " + first + ("" if rest else EOS), loss=True))
    for number, piece in enumerate(rest):
        picture, codes = next(pictures)
        segments.append(Segment("image_out", picture=picture, codes=codes))
        last = number == len(rest) - 1
        if piece.strip():
            segments.append(Segment("text", piece + (EOS if last else ""), loss=True))
        elif last:
            segments.append(Segment("text", EOS))
    return segments


def without_last_answer(record: Record) -> Record | None:
    """A conversation without its last question and answer and their pictures; None if it would be empty."""
    turns = record.fields["conversations"][:-2]
    if not turns:
        return None
    kept = sum(turn["content"].count(PLACEHOLDER) for turn in turns)
    return Record(record.key, record.fields | {"conversations": turns}, record.pictures[:kept], record.codes[:kept])


TEMPLATES: dict[str, Callable[[Record], list[Segment]]] = {
    f.__name__: f
    for f in (
        text,
        image_caption,
        image_describe,
        question_answer,
        class_to_image,
        text_to_image,
        request_to_image,
        conversation,
    )
}


def first_sentence(caption: str) -> str:
    """The caption up to its first full stop; the whole of it if it has none."""
    match = _FIRST_SENTENCE.match(caption)
    return match[0] if match else caption
