"""Conversations with images in the questions and in the answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from janus_train.data.conversations import UnusableConversation, read_conversation
from janus_train.data.prompt_format import full_turn, open_turn
from janus_train.data.special_tokens import ASSISTANT, EOS, PLACEHOLDER, USER
from janus_train.data.templates.fields import images_and_codes
from janus_train.data.templates.registry import register_template
from janus_train.data.types import BadSample, Record, Segment


@register_template(reads="conversations", reads_codes=True, can_drop_turns=True, takes_system_prompt=True)
def conversation(record: Record) -> list[Segment]:
    """Stage 3: alternating turns, with loss on the assistant's words and on the images it generates.

    A placeholder in a user's turn is an image to understand, one in the assistant's turn an image to generate. An
    assistant's turn with ``"loss": false`` is context: its words and the codes of its images are read and not learned. Turns
    in other layouts are read as well (conversations.py).
    """
    try:
        turns = read_conversation(record.fields, len(record.images))
    except UnusableConversation as error:
        raise BadSample(str(error)) from None
    images = iter(images_and_codes(record))
    segments: list[Segment] = []
    for turn in turns:
        if turn.role == USER:
            segments += _user_turn(turn.content, images)
        else:
            segments += _assistant_turn(turn.content, images, turn.loss)
    return segments


_Images = Iterator[tuple[Image.Image, np.ndarray | None]]


def _user_turn(content: str, images: _Images) -> list[Segment]:
    first_text, *later_texts = full_turn(USER, content).split(PLACEHOLDER)
    segments = [Segment("text", first_text)]
    for text in later_texts:
        segments += [Segment("image_in", image=next(images)[0]), Segment("text", text)]
    return segments


def _assistant_turn(content: str, images: _Images, loss: bool) -> list[Segment]:
    """Loss on the words and the EOS after them; no space before an image that comes first, no loss on the EOS after one."""
    prefix = open_turn(ASSISTANT)
    segments = [Segment("text", prefix)]
    for number, words in enumerate(full_turn(ASSISTANT, content).removeprefix(prefix).split(PLACEHOLDER)):
        if number > 0:
            image, codes = next(images)
            segments.append(Segment("image_out" if loss else "codes_in", image=image, codes=codes))
        if words.removesuffix(EOS).strip():
            segments.append(Segment("text", words, loss=loss))
        elif words.endswith(EOS):
            segments.append(Segment("text", EOS))
    return segments
