"""A document in readable pieces. In: a `Document`. Out: text and image pieces, marked if the model learns them.

``Document.labels[i]`` is the token that the hidden state at i has to predict. Here a token is marked if its predecessor has
to predict it, so the marked words are those that the model learns to write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerFast

from janus_train.data.special_tokens import SPECIAL_TOKENS
from janus_train.data.types import IGNORE, IMAGE_FEATURE, TEXT, Document

MAX_GROUP = 12
"""Limit for tokens that are shown as one because they share a character's bytes (one character needs at most 4)."""
MIN_REPEAT = 4
"""From this number on, equal special tokens in a row are shown once, with their number."""


@dataclass(frozen=True)
class TextPiece:
    """One token, or several that only together make complete characters, or a repeated special token."""

    text: str
    ids: tuple[int, ...]
    has_loss: bool
    """Whether the model learns to write it (at the position before it)."""
    special: bool = False
    image_loss: bool = False
    """Whether the hidden state here predicts an image's first code."""
    beyond: bool = False
    """Whether it is not in the row, but the target of the last position of a piece."""


@dataclass(frozen=True)
class ImagePiece:
    """The place of an image."""

    role: Literal["in", "out", "codes_in"]
    number: int
    """Counts the document's images in order of appearance."""
    tokens: int
    losses: int
    """Number of its codes that are predicted with a loss."""
    pixels: np.ndarray | None
    """uint8 (S, S, 3) as its encoder sees it; None where the codes come from the cache."""


class PieceReader:
    """Turns documents into pieces; it caches the text of tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self._core = tokenizer.backend_tokenizer
        self._special = {id for id, token in self._core.get_added_tokens_decoder().items() if token.special}
        self._special |= {self._core.token_to_id(token) for token in SPECIAL_TOKENS}
        self._text_of_ids: dict[tuple[int, ...], str] = {}

    def pieces(self, document: Document) -> Iterator[TextPiece | ImagePiece]:
        """All of the document's tokens, in order."""
        ids = document.input_ids.tolist()
        has_loss = np.zeros(len(ids), bool)
        has_loss[1:] = document.labels[:-1] != IGNORE
        place = number = num_understanding = num_generation = 0
        while place < len(ids):
            end = _run(document.modality, place)
            if document.modality[place] == TEXT:
                yield from self._text(ids[place:end], has_loss[place:end], document.image_targets[place:end])
            elif document.modality[place] == IMAGE_FEATURE:
                yield ImagePiece("in", number, end - place, 0, document.understanding_pixels[num_understanding])
                num_understanding += 1
                number += 1
            else:
                # the state at <begin_of_image> predicts code 0: the run of losses starts one position earlier
                losses = int(document.image_targets[place - 1 : end - 1].sum())
                role: Literal["out", "codes_in"] = "out" if document.codes_have_loss[num_generation] else "codes_in"
                yield ImagePiece(role, number, end - place, losses, document.generation_pixels[num_generation])
                num_generation += 1
                number += 1
            place = end
        if document.labels[-1] != IGNORE:
            last_id = int(document.labels[-1])
            yield TextPiece(self._write((last_id,)), (last_id,), True, last_id in self._special, beyond=True)

    def _text(self, ids: list[int], has_loss: np.ndarray, image_targets: np.ndarray) -> Iterator[TextPiece]:
        place = 0
        while place < len(ids):
            token_id, token_has_loss = ids[place], bool(has_loss[place])
            if token_id in self._special:
                end = place + 1
                while (
                    end < len(ids)
                    and ids[end] == token_id
                    and has_loss[end] == token_has_loss
                    and not image_targets[end - 1]
                ):
                    end += 1
                end = end if end - place >= MIN_REPEAT else place + 1
                yield TextPiece(
                    self._write((token_id,)), tuple(ids[place:end]), token_has_loss, True, bool(image_targets[end - 1])
                )
            else:
                end = self._characters_end(ids, has_loss, place)
                yield TextPiece(self._write(tuple(ids[place:end])), tuple(ids[place:end]), token_has_loss)
            place = end

    def _characters_end(self, ids: list[int], has_loss: np.ndarray, place: int) -> int:
        """The end of the shortest group from ``place`` that makes complete characters; one token if there is none."""
        for end in range(place + 1, min(place + MAX_GROUP, len(ids)) + 1):
            if ids[end - 1] in self._special or has_loss[end - 1] != has_loss[place]:
                break
            if "\ufffd" not in self._write(tuple(ids[place:end])):
                return end
        return place + 1

    def _write(self, ids: tuple[int, ...]) -> str:
        if ids not in self._text_of_ids:
            self._text_of_ids[ids] = self._core.decode(list(ids), skip_special_tokens=False)
        return self._text_of_ids[ids]


def _run(modality: np.ndarray, place: int) -> int:
    """The end of the run of equal modality that starts at ``place``. Between two images there is always a text token."""
    other_places = np.flatnonzero(modality[place:] != modality[place])
    return place + int(other_places[0]) if len(other_places) else len(modality)


def image_runs(document: Document) -> list[tuple[int, int]]:
    """(start, end) of each image's positions."""
    return [(start + 1, stop - 1) for start, stop in document.image_spans]


def loss_runs(document: Document) -> list[tuple[int, int]]:
    """(start, end) of each run of positions that carry a loss, of text or of an image."""
    carries = np.concatenate([[False], (document.labels != IGNORE) | document.image_targets, [False]])
    edges = np.flatnonzero(carries[1:] != carries[:-1]).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
