"""Finds in a document what the model can be asked and what it can draw.

    ids:      <bos> <image> What colour is it? | Red. <eos> ...          labels from "Red." on  -> a question
    ids:      <bos> A red apple. <begin_of_image> | codes                image targets          -> a prompt

The model gets the ids in front of its part, with the true history if there are several turns, and goes on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from janus_train.data.encode import Encoder
from janus_train.data.types import IGNORE, IMAGE_CODE, Document
from janus_train.evaluate.own_data.samples import Sample
from janus_train.evaluate.own_data.sources import DataSource

NO_VALUE = "(none)"
"""The value of ``--by``'s field in a record without it."""
AFTER_CODES = "answers and images after an image that the model has to generate first"
BEFORE_IMAGE = "words that an image follows"
TOO_LONG = "answers longer than --max-answer-tokens"
NO_ROOM_FOR_IMAGE = "images that do not fit the model's context behind what precedes them"
NO_ROOM = "answers without room for --max-answer-tokens in the model's context"


@dataclass
class Question:
    """A question or an image to describe, with all the true answers that the data has to it."""

    source: str
    index: int
    key: str
    group: str
    """The value of ``--by``'s field."""
    is_caption: bool
    prompt_ids: np.ndarray
    num_images: int
    """The prompt has the first ones of the sample's images to understand."""
    text: str
    """Its last words, for people."""
    truths: list[str]


@dataclass(frozen=True)
class Prompt:
    """What to generate an image from."""

    source: str
    index: int
    key: str
    group: str
    prompt_ids: np.ndarray
    num_images: int
    text: str


@dataclass
class Tasks:
    """Questions and prompts, and counts of what is neither asked nor drawn, by reason.

    Questions with the same prompt and the same images are one: an image with five captions is described once.
    """

    prompts: list[Prompt] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    num_answers: int = 0
    """True answers of all questions."""
    num_without_group: int = 0
    _questions: dict[bytes, Question] = field(default_factory=dict)

    @property
    def questions(self) -> list[Question]:
        return list(self._questions.values())


class TaskFinder:
    """Collects the tasks of samples. ``by``: a field of the records; ``max_answer_tokens``: of a true answer."""

    def __init__(self, encoder: Encoder, context: int, by: str | None, max_answer_tokens: int):
        self._encoder, self._context, self._by, self._max_answer_tokens = encoder, context, by, max_answer_tokens
        self.tasks = Tasks()

    def add(self, source: DataSource, sample: Sample) -> None:
        """Collect what the sample asks for."""
        document = sample.document
        group = self._group(sample.fields)
        for start, stop in _runs(document.labels != IGNORE):
            prompt_ids = document.input_ids[: start + 1]
            truth_ids = document.labels[start:stop]
            if start == 0:  # plain text: nothing is asked
                continue
            if (document.modality[: start + 1] == IMAGE_CODE).any():
                self.tasks.skipped[AFTER_CODES] += 1
            elif truth_ids[-1] != self._encoder.special.eos:
                self.tasks.skipped[BEFORE_IMAGE] += 1
            elif len(truth_ids) - 1 > self._max_answer_tokens:
                self.tasks.skipped[TOO_LONG] += 1
            elif len(prompt_ids) + self._max_answer_tokens > self._context:
                self.tasks.skipped[NO_ROOM] += 1
            else:
                self._add_question(source, document, group, prompt_ids, truth_ids)
        for start, _ in _runs(document.image_targets):
            if (document.modality[: start + 1] == IMAGE_CODE).any():
                self.tasks.skipped[AFTER_CODES] += 1
                continue
            if start + 1 + self._encoder.tokens_per_image > self._context:
                self.tasks.skipped[NO_ROOM_FOR_IMAGE] += 1
                continue
            reference = document.reference
            prompt_ids = document.input_ids[: start + 1]
            images, text = self._num_images(prompt_ids), self._words(prompt_ids)
            prompt = Prompt(source.name, reference.index, reference.key, group, prompt_ids, images, text)
            self.tasks.prompts.append(prompt)

    def _add_question(
        self, source: DataSource, document: Document, group: str, prompt_ids: np.ndarray, truth_ids: np.ndarray
    ) -> None:
        num_images = self._num_images(prompt_ids)
        truth = self._encoder.tokenizer.decode(truth_ids.tolist(), skip_special_tokens=True).strip()
        hasher = hashlib.sha256(f"{source.name}\n{group}\n".encode("utf-8", "surrogatepass") + prompt_ids.tobytes())
        for pixels in document.understanding_pixels[:num_images]:
            hasher.update(pixels.tobytes())
        same = hasher.digest()
        question = self.tasks._questions.get(same)
        self.tasks.num_answers += 1
        if question is not None:
            question.truths.append(truth)
            return
        reference, is_caption = document.reference, source.template.reads == "caption"
        self.tasks._questions[same] = Question(
            source=source.name,
            index=reference.index,
            key=reference.key,
            group=group,
            is_caption=is_caption,
            prompt_ids=prompt_ids,
            num_images=num_images,
            text=self._words(prompt_ids),
            truths=[truth],
        )

    def _group(self, fields: dict[str, Any]) -> str:
        if self._by is None:
            return ""
        value = fields.get(self._by)
        if value is None or isinstance(value, (list, dict)):
            self.tasks.num_without_group += 1
            return NO_VALUE
        return str(value)

    def _num_images(self, prompt_ids: np.ndarray) -> int:
        """The number of images in the prompt, all of which are to understand."""
        return int((prompt_ids == self._encoder.special.placeholder).sum()) // self._encoder.tokens_per_image

    def _words(self, prompt_ids: np.ndarray) -> str:
        """The words of the prompt's last turn, without the system prompt, the speakers and the tokens of images."""
        special = self._encoder.special
        ends = np.flatnonzero(prompt_ids == special.eos)
        last_ids = prompt_ids[ends[-1] + 1 if len(ends) else 0 :]
        hidden = [special.bos, special.pad, special.placeholder, special.begin_of_image, special.end_of_image]
        text = self._encoder.tokenizer.decode(last_ids[~np.isin(last_ids, hidden)].tolist()).strip()
        user, assistant = self._encoder.speakers
        before, is_turn, words = text.partition(f"{user}:")  # the system prompt is before
        return words.removesuffix(f"{assistant}:").strip() if is_turn else before


def _runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """The stretches (start, stop) of a mask in which it is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
