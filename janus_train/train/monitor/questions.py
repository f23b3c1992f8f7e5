"""Questions about held-out images that the model answers during training, so that one sees how its answers change.

In: the recipe's held-out samples with an image to look at (`data.held_out`). Out: `Question`s, the same ones at every step
and after a resume, and the model's answers as ``samples/step-NNNNNN.json``. A question is what stands in front of a sample's
first answer, as it is trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import JanusForConditionalGeneration

from janus_train.data.encode import Encoder
from janus_train.data.held_out import HeldOutSource, held_out_sources
from janus_train.data.image_files import write_png
from janus_train.data.recipe import Recipe
from janus_train.data.sources.registry import template_of
from janus_train.data.special_tokens import ASSISTANT, EOS, USER
from janus_train.data.types import IGNORE, BadSample, Record, Reference
from janus_train.files import write_json
from janus_train.infer.chat import answer_ids
from janus_train.jsonl import Line

NUM_QUESTIONS = 4
SEARCHED = 16
"""Held-out samples of each source among which questions are looked for."""
MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Question:
    """A question about images, and the answer in the data."""

    text: str
    expected: str
    prompt_ids: list[int]
    images: list[Image.Image]
    """As the encoder sees them; at least one."""


def find_questions(recipe: Recipe, encoder: Encoder, context: int) -> list[Question]:
    """The first held-out questions about images, from the sources in turn; none if nothing is held out.

    ``context``: tokens of the model's context, which question and answer must fit.
    """
    sources = [s for s in held_out_sources(recipe, SEARCHED) if s.config.kind == "understanding"]
    in_turn = chain.from_iterable(zip_longest(*(_questions(source, encoder, context) for source in sources)))
    return list(islice((question for question in in_turn if question is not None), NUM_QUESTIONS))


def _questions(source: HeldOutSource, encoder: Encoder, context: int) -> Iterator[Question]:
    for index in source.indices:
        try:
            question = _question(source.source[index], source, encoder)
        except BadSample:  # validation says which, and so does verify
            continue
        if question is not None and len(question.prompt_ids) + MAX_NEW_TOKENS <= context:
            yield question


def _question(record: Record, source: HeldOutSource, encoder: Encoder) -> Question | None:
    """The sample up to its first answer; None if that is not a text about images alone."""
    template = template_of(source.config)
    reference = Reference(source.config.name, 0, 0, record.key)
    document = encoder.encode_without_chance(record, template, source.config.kind, reference)
    places = np.flatnonzero(document.labels != IGNORE)
    if not len(places):
        return None
    prompt_ids = document.input_ids[: places[0] + 1]
    num_images = int((prompt_ids == encoder.special.placeholder).sum()) // encoder.tokens_per_image
    segments = template.build(record)
    first_answer = next(number for number, segment in enumerate(segments) if segment.role == "text" and segment.loss)
    if not num_images or any(segment.role in ("image_out", "codes_in") for segment in segments[:first_answer]):
        return None
    words = "".join(segment.text for segment in segments[:first_answer])
    text = re.sub(f"{re.escape(USER)}:|{re.escape(ASSISTANT)}:", "", words).strip()
    images = [Image.fromarray(pixels) for pixels in document.understanding_pixels[:num_images]]
    return Question(text, segments[first_answer].text.replace(EOS, "").strip(), prompt_ids.tolist(), images)


def write_answers(
    janus: JanusForConditionalGeneration, encoder: Encoder, questions: Sequence[Question], path: Path
) -> list[Line]:
    """Write the model's answers to ``path``, and the questions' first images beside it; returns the answers."""
    images = [image for question in questions for image in question.images]
    all_ids = answer_ids(janus, encoder, [question.prompt_ids for question in questions], images, MAX_NEW_TOKENS)
    answers = []
    for number, (question, ids) in enumerate(zip(questions, all_ids, strict=True), 1):
        image_path = path.with_name(f"question-{number}.png")
        write_png(image_path, question.images[0])
        answers.append(
            {
                "question": question.text,
                "answer": encoder.tokenizer.decode(ids, skip_special_tokens=True).strip(),
                "expected": question.expected,
                "image": f"{path.parent.name}/{image_path.name}",
            }
        )
    write_json(path, {"answers": answers})
    return answers
