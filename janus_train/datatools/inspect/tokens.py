"""A document as a person reads it: its tokens in pieces, with what is learnt from each.

``Document.labels[i]`` is what the hidden state at i has to predict. Here a token is marked if it is what its
predecessor has to predict: the words that the model learns to write are the marked ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerFast

from janus_train.data.special_tokens import SPECIAL_TOKENS
from janus_train.data.types import IGNORE, IMAGE_CODE, IMAGE_FEATURE, TEXT, Document

MAX_GROUP = 12
"""Tokens that are shown as one where a character's bytes are spread over several (4 would do for one character)."""
MIN_REPEAT = 4
"""So many equal special tokens in a row are shown once, with their number."""


@dataclass(frozen=True)
class Text:
    """One token; several, if only together they make whole characters, or if the same special token repeats."""

    text: str
    ids: tuple[int, ...]
    learnt: bool
    """The model learns to write it (at the position before it)."""
    special: bool = False
    image_loss: bool = False
    """The hidden state here predicts an image's first code."""
    beyond: bool = False
    """It is not in the row: only the target of the last position, where a text is cut."""


@dataclass(frozen=True)
class Image:
    """The place of an image."""

    role: Literal["in", "out", "codes_in"]
    number: int
    """Counts the document's images in order of appearance."""
    tokens: int
    losses: int
    """How many of its codes are predicted with a loss."""
    pixels: np.ndarray | None
    """uint8 (S, S, 3) as its encoder sees it; None where the codes come from the cache."""


class Reader:
    """Turns documents into pieces; remembers how tokens are written."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self._core = tokenizer.backend_tokenizer
        self._special = {id for id, token in self._core.get_added_tokens_decoder().items() if token.special}
        self._special |= {self._core.token_to_id(token) for token in SPECIAL_TOKENS}
        self._written: dict[tuple[int, ...], str] = {}

    def pieces(self, document: Document) -> Iterator[Text | Image]:
        """All of the document's tokens, in order."""
        ids = document.input_ids.tolist()
        learnt = np.zeros(len(ids), bool)
        learnt[1:] = document.labels[:-1] != IGNORE
        place = number = understood = drawn = 0
        while place < len(ids):
            end = _run(document.modality, place)
            if document.modality[place] == TEXT:
                yield from self._text(ids[place:end], learnt[place:end], document.image_targets[place:end])
            elif document.modality[place] == IMAGE_FEATURE:
                yield Image("in", number, end - place, 0, document.understanding_pixels[understood])
                understood += 1
                number += 1
            else:
                # the state at <begin_of_image> predicts code 0: the run of losses starts one position earlier
                losses = int(document.image_targets[place - 1 : end - 1].sum())
                role: Literal["out", "codes_in"] = "out" if document.codes_have_loss[drawn] else "codes_in"
                yield Image(role, number, end - place, losses, document.generation_pixels[drawn])
                drawn += 1
                number += 1
            place = end
        if document.labels[-1] != IGNORE:
            last = int(document.labels[-1])
            yield Text(self._write((last,)), (last,), True, last in self._special, beyond=True)

    def _text(self, ids: list[int], learnt: np.ndarray, image: np.ndarray) -> Iterator[Text]:
        place = 0
        while place < len(ids):
            first, is_learnt = ids[place], bool(learnt[place])
            if first in self._special:
                end = place + 1
                while end < len(ids) and ids[end] == first and learnt[end] == is_learnt and not image[end - 1]:
                    end += 1
                end = end if end - place >= MIN_REPEAT else place + 1
                yield Text(self._write((first,)), tuple(ids[place:end]), is_learnt, True, bool(image[end - 1]))
            else:
                end = self._whole(ids, learnt, place)
                yield Text(self._write(tuple(ids[place:end])), tuple(ids[place:end]), is_learnt)
            place = end

    def _whole(self, ids: list[int], learnt: np.ndarray, place: int) -> int:
        """The end of the shortest group from ``place`` that is whole characters; one token if there is none."""
        for end in range(place + 1, min(place + MAX_GROUP, len(ids)) + 1):
            if ids[end - 1] in self._special or learnt[end - 1] != learnt[place]:
                break
            if "\ufffd" not in self._write(tuple(ids[place:end])):
                return end
        return place + 1

    def _write(self, ids: tuple[int, ...]) -> str:
        if ids not in self._written:
            self._written[ids] = self._core.decode(list(ids), skip_special_tokens=False)
        return self._written[ids]


def _run(modality: np.ndarray, place: int) -> int:
    """The end of the run of equal modality that starts at ``place``. Between two images there is always a text token."""
    other = np.flatnonzero(modality[place:] != modality[place])
    return place + int(other[0]) if len(other) else len(modality)


def image_runs(document: Document) -> list[tuple[int, int]]:
    """(start, end) of each image's positions."""
    found, place = [], 0
    while place < len(document):
        end = _run(document.modality, place)
        if document.modality[place] in (IMAGE_FEATURE, IMAGE_CODE):
            found.append((place, end))
        place = end
    return found


def loss_runs(document: Document) -> list[tuple[int, int]]:
    """(start, end) of each run of positions that carry a loss, of text or of an image."""
    carries = np.concatenate([[False], (document.labels != IGNORE) | document.image_targets, [False]])
    edges = np.flatnonzero(carries[1:] != carries[:-1]).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
