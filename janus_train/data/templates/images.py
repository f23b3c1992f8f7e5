"""Images with a text: captions, questions and class names, in both directions.

A caption or a question may be about several images, which all come first; one image is generated from one text. The
formats follow Janus-Pro, section 3.1.
"""

from __future__ import annotations

import re

from janus_train.data.prompt_format import generation_prompt
from janus_train.data.special_tokens import EOS
from janus_train.data.templates.fields import image_out, images_in, words_of
from janus_train.data.templates.registry import register_template
from janus_train.data.types import Record, Segment

_FIRST_SENTENCE = re.compile(r"^.*?(?:[.!?](?=\s|$|[\"'”’])|[。！？])", re.DOTALL)


@register_template(reads="question")
def question_answer(record: Record) -> list[Segment]:
    """Stage 2, tables, charts and documents: ``<image><question><answer>``."""
    question, answer = words_of(record, "question"), words_of(record, "answer")
    return [*images_in(record), Segment("text", question), Segment("text", answer + EOS, loss=True)]


@register_template(reads="caption")
def image_caption(record: Record) -> list[Segment]:
    """Stage 1: ``<image><text>``."""
    return [*images_in(record), Segment("text", words_of(record, "caption") + EOS, loss=True)]


@register_template(reads="caption")
def image_describe(record: Record) -> list[Segment]:
    """Stage 2: ``<image>Describe the image in detail.<caption>``."""
    caption = words_of(record, "caption")
    return [
        *images_in(record),
        Segment("text", "Describe the image in detail."),
        Segment("text", caption + EOS, loss=True),
    ]


@register_template(reads="caption", reads_codes=True, can_cut_caption=True)
def text_to_image(record: Record) -> list[Segment]:
    """Stage 2: ``<caption><image>``."""
    return [Segment("text", words_of(record, "caption")), image_out(record)]


@register_template(reads="caption", reads_codes=True)
def request_to_image(record: Record) -> list[Segment]:
    """Stage 3: a caption as the user's request and the image as the answer, in the official generation prompt."""
    return [Segment("text", generation_prompt(words_of(record, "caption"))), image_out(record), Segment("text", EOS)]


@register_template(reads="class_name", reads_codes=True)
def class_to_image(record: Record) -> list[Segment]:
    """Stage 1: ``<category_name><image>``."""
    return [Segment("text", words_of(record, "class_name")), image_out(record)]


def with_first_sentence(segments: list[Segment]) -> list[Segment]:
    """The segments with the first one, a caption, reduced to its first sentence."""
    return [Segment("text", first_sentence(segments[0].text)), *segments[1:]]


def first_sentence(caption: str) -> str:
    """The caption up to its first full stop, or all of it if it has none."""
    match = _FIRST_SENTENCE.match(caption)
    return match[0] if match else caption
