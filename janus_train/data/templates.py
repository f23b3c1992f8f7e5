"""Templates: how a record's fields and images become the segments of a sample.

A recipe names the template of each of its sources. A template is a function, with options on how its result is used:

    @register_template(reads="caption", reads_codes=True)
    def text_to_image(record: Record) -> list[Segment]: ...

Other packages register templates in the same way, as plug-ins (`janus_train.plugins`). The formats of the stages follow
Janus-Pro, section 3.1; stage 3's conversations have the official code's format (prompt_format.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image

from janus_train.data.conversations import UnusableConversation, read_conversation, unread_tag
from janus_train.data.prompt_format import full_turn, generation_prompt, open_turn
from janus_train.data.special_tokens import ASSISTANT, EOS, PLACEHOLDER, SPECIAL_TOKENS, USER
from janus_train.data.types import BadSample, Record, Segment
from janus_train.plugins import Registry

Build = Callable[[Record], list[Segment]]

_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
_FIRST_SENTENCE = re.compile(r"^.*?(?:[.!?](?=\s|$|[\"'”’])|[。！？])", re.DOTALL)


@dataclass(frozen=True)
class Template:
    """A function that turns records into segments, and its options."""

    name: str
    """Its name in recipes."""
    build: Build
    """Raises `BadSample` for a record that does not suit."""
    reads: str
    """The field by which `template_for` recognises records of this template if no recipe names one."""
    reads_codes: bool = False
    """It makes ``image_out`` or ``codes_in`` segments, which use the cached codes of a shard."""
    can_cut_text: bool = False
    """Its samples are plain text, which may be cut anywhere into pieces for different rows."""
    can_drop_turns: bool = False
    """A sample that is longer than a row may end at any `EOS` before its last one."""
    can_cut_caption: bool = False
    """Its first segment is a caption whose first sentence makes sense alone."""
    takes_system_prompt: bool = False
    """The model's system prompt precedes the sample if its source is of kind understanding."""


_TEMPLATES: Registry[Template] = Registry("template")


def register_template(
    *,
    reads: str,
    reads_codes: bool = False,
    can_cut_text: bool = False,
    can_drop_turns: bool = False,
    can_cut_caption: bool = False,
    takes_system_prompt: bool = False,
) -> Callable[[Build], Build]:
    """Register a function of a module as the template of its name; for the options see `Template`.

    The function itself is returned unchanged, so that it can be sent to worker processes by its name.
    """

    def register(build: Build) -> Build:
        name = build.__name__
        template = Template(
            name, build, reads, reads_codes, can_cut_text, can_drop_turns, can_cut_caption, takes_system_prompt
        )
        _TEMPLATES.add(name, template, build.__module__)
        return build

    return register


def get_template(name: str, of: str = "") -> Template:
    """The template of this name. Raises `UserError` listing the known ones if there is none; ``of``: who names it."""
    return _TEMPLATES.get(name, of)


def template_for(record: Record) -> Template:
    """The template for a record without a recipe: the first one whose field the record has. Raises `BadSample`."""
    for template in _TEMPLATES:
        if template.reads in record.fields:
            return template
    fields = dict.fromkeys(template.reads for template in _TEMPLATES)
    raise BadSample(f"it has none of the fields {', '.join(fields)}", key=record.key)


def text_before_image(template: Template, words: str) -> str:
    """The text before the image to generate in a sample of the template whose field is ``words``.

    For a template that does not generate an image from one text, such as conversation, the official generation prompt.
    """
    with suppress(BadSample):
        before = ""
        for segment in template.build(Record("", {template.reads: words}, [Image.new("RGB", (1, 1))])):
            if segment.role == "image_out":
                return before
            if segment.role != "text":
                break
            before += segment.text
    return generation_prompt(words)


# -- the templates: of several that read one field, `template_for` takes the first


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
    images = iter(zip(record.images, record.codes or [None] * len(record.images), strict=True))
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


@register_template(reads="question")
def question_answer(record: Record) -> list[Segment]:
    """Stage 2, tables, charts and documents: ``<image><question><answer>``."""
    question, answer = _words(record, "question"), _words(record, "answer")
    return [_image_in(record), Segment("text", question), Segment("text", answer + EOS, loss=True)]


@register_template(reads="caption")
def image_caption(record: Record) -> list[Segment]:
    """Stage 1: ``<image><text>``."""
    return [_image_in(record), Segment("text", _words(record, "caption") + EOS, loss=True)]


@register_template(reads="caption")
def image_describe(record: Record) -> list[Segment]:
    """Stage 2: ``<image>Describe the image in detail.<caption>``."""
    caption = _words(record, "caption")
    return [
        _image_in(record),
        Segment("text", "Describe the image in detail."),
        Segment("text", caption + EOS, loss=True),
    ]


@register_template(reads="caption", reads_codes=True, can_cut_caption=True)
def text_to_image(record: Record) -> list[Segment]:
    """Stage 2: ``<caption><image>``."""
    return [Segment("text", _words(record, "caption")), _image_out(record)]


@register_template(reads="caption", reads_codes=True)
def request_to_image(record: Record) -> list[Segment]:
    """Stage 3: a caption as the user's request and the image as the answer, in the official generation prompt."""
    return [Segment("text", generation_prompt(_words(record, "caption"))), _image_out(record), Segment("text", EOS)]


@register_template(reads="class_name", reads_codes=True)
def class_to_image(record: Record) -> list[Segment]:
    """Stage 1: ``<category_name><image>``."""
    return [Segment("text", _words(record, "class_name")), _image_out(record)]


@register_template(reads="text", can_cut_text=True)
def text(record: Record) -> list[Segment]:
    """Plain text, all of it with loss."""
    return [Segment("text", _text(record, "text") + EOS, loss=True)]


def with_first_sentence(segments: list[Segment]) -> list[Segment]:
    """The segments with the first one, a caption, reduced to its first sentence."""
    return [Segment("text", first_sentence(segments[0].text)), *segments[1:]]


def first_sentence(caption: str) -> str:
    """The caption up to its first full stop, or all of it if it has none."""
    match = _FIRST_SENTENCE.match(caption)
    return match[0] if match else caption


def _text(record: Record, name: str) -> str:
    value = record.fields.get(name)
    if not isinstance(value, str):
        raise BadSample(f"field {name!r} is missing or not a string")
    if not value.strip():
        raise BadSample(f"field {name!r} is empty")
    special = _SPECIAL.search(value)
    if special:
        raise BadSample(f"field {name!r} contains the special token {special[0]}")
    return value


def _words(record: Record, name: str) -> str:
    """A text beside an image, in which no tag of other layouts may stand for the image."""
    words = _text(record, name)
    tag = unread_tag(words)
    if tag:
        raise BadSample(f"field {name!r} has the tag {tag}: it would be learned as words")
    return words


def _image(record: Record) -> tuple[Image.Image, np.ndarray | None]:
    if len(record.images) != 1:
        raise BadSample(f"{len(record.images)} images where the template takes 1")
    return record.images[0], (record.codes[0] if record.codes else None)


def _image_in(record: Record) -> Segment:
    return Segment("image_in", image=_image(record)[0])


def _image_out(record: Record) -> Segment:
    image, codes = _image(record)
    return Segment("image_out", image=image, codes=codes)
