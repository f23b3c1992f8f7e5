"""The types of the data path, from a source's record to the model's batch, and the legend of array shapes.

    Record -> (template) -> segments -> (encoder) -> Document -> (packer) -> Row -> (collate) -> Batch

Shape legend, used in every module of the project:

    R   rows per step (``rows_per_step``), one per stream
    W   data-parallel processes
    B   rows of a micro-batch
    T   tokens that fit into a row (``row_tokens``)
    L   tokens of a micro-batch: all its rows one after the other, without padding
    M   tokens of the longest prompt
    D   hidden size of the language model
    H   attention heads
    Hkv key-value heads
    d   size of an attention head
    V   size of the vocabulary
    C   size of the codebook
    P   tokens per image (576 in Janus-Pro)
    S   side of an image in pixels (384 in Janus-Pro); images to generate have another S if the encoders' patches differ
    N   however many the docstring names (images, scenes, samples, ...)
    Nu  understanding images
    Ng  generation images
    No  generation images with loss (No <= Ng)
    Nv  generation images whose codes are not cached (Nv <= Ng)
    Nt  positions with a text loss
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Kind = Literal["understanding", "text", "generation"]
KINDS: tuple[Kind, ...] = ("understanding", "text", "generation")
"""The data kinds, in the order in which the paper writes its ratios."""

ImageUse = Literal["in", "out", "both"]
"""What is done with the images in a document: looked at, drawn, or drawn and then looked at."""

IGNORE = -100
"""The label of a position that carries no text loss (torch's and transformers' convention)."""


class BadSample(ValueError):
    """A sample that cannot be trained on, with the reason as its message. It is quarantined and another one replaces it.

    ``damaged``: its bytes differ from those that were indexed. It is counted separately, because the disk or the copy
    is at fault.
    """

    def __init__(self, reason: str, *, key: str | None = None, damaged: bool = False):
        super().__init__(reason)
        self.key, self.damaged = key, damaged


class TooLong(BadSample):
    """A sample that cannot be trained on because it is longer than a row."""


@dataclass(frozen=True)
class Record:
    """What a source yields: the fields of the JSON, the images, and their cached codes if there are any."""

    key: str
    fields: dict[str, Any]
    images: list[Image.Image] = field(default_factory=list)
    codes: list[np.ndarray | None] = field(default_factory=list)


Role = Literal["text", "image_in", "image_out", "codes_in"]


@dataclass(frozen=True)
class Segment:
    """A piece of a sample. A list of segments is the general form of every kind of data.

    ``text``         text, with a loss on its tokens if ``loss``
    ``image_in``     an image that goes through the understanding encoder
    ``image_out``    an image that the model learns to generate: codes, with loss
    ``codes_in``     an image in the input as codes, without loss
    """

    role: Role
    text: str = ""
    loss: bool = False
    image: Image.Image | None = None
    codes: np.ndarray | None = None


@dataclass(frozen=True)
class Reference:
    """Where a sample comes from. This is enough to read it again, and batch digests are computed from it."""

    source: str
    epoch: int
    index: int
    key: str
    piece: tuple[int, int] | None = None  # (start, stop) in tokens, if the sample was cut

    def text(self) -> str:
        text = f"{self.source}:{self.epoch}:{self.index}:{self.key}"
        return text if self.piece is None else f"{text}[{self.piece[0]}:{self.piece[1]}]"


@dataclass(frozen=True)
class Quarantined:
    """A sample that cannot be trained on: one line of a run's quarantine.jsonl."""

    source: str
    epoch: int
    index: int
    key: str
    reason: str
    damaged: bool


TEXT, IMAGE_FEATURE, IMAGE_CODE = 0, 1, 2
"""The modality of a position: its input is a text embedding, an understanding feature or the embedding of a code."""


@dataclass
class Document:
    """One encoded sample: attention never crosses its borders. All arrays have one entry per token.

    ``labels[i]`` is the token that the hidden state *at* i predicts: labels are shifted by one here and nowhere else.
    Likewise ``image_targets[i]`` means that the hidden state at i predicts the next code: it is true at
    ``<begin_of_image>`` and at codes 0..P-2 of an ``image_out``.
    """

    reference: Reference
    kind: Kind
    input_ids: np.ndarray  # int64; the placeholder's id where an image goes
    labels: np.ndarray  # int64; IGNORE where there is no text loss
    modality: np.ndarray  # uint8; TEXT, IMAGE_FEATURE or IMAGE_CODE
    image_targets: np.ndarray  # bool
    understanding_pixels: list[np.ndarray]  # uint8 (S, S, 3), in order of appearance
    generation_pixels: list[np.ndarray | None]  # uint8 (S, S, 3), in order; None where `codes` has them
    codes: list[np.ndarray | None]  # int (P,) cached codes
    codes_have_loss: list[bool]  # one per generation image: true for image_out, false for codes_in
    share: float = 1.0  # 1 for a complete sample, less for a piece of one
    can_cut: bool = False  # it may be cut between any two tokens that are not of one image
    record_images: list[int] = field(default_factory=list)  # of each image, in order: its number in the record, or -1

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_loss_tokens(self) -> int:
        """Number of text and image targets: the document's part of the step's one denominator."""
        return int(np.count_nonzero(self.labels != IGNORE) + np.count_nonzero(self.image_targets))

    @cached_property
    def image_spans(self) -> list[tuple[int, int]]:
        """(start, stop) of each image's tokens, from ``<begin_of_image>`` to behind ``<end_of_image>``."""
        is_image = np.concatenate([[False], self.modality != TEXT, [False]])
        edges = np.flatnonzero(is_image[1:] != is_image[:-1]).tolist()
        return [(start - 1, stop + 1) for start, stop in zip(edges[::2], edges[1::2], strict=True)]

    def piece(self, start: int, stop: int) -> Document:
        """Tokens ``start .. stop`` as a document of their own, with the images there.

        Labels stay with their tokens: none is lost or doubled.
        """
        if (start, stop) == (0, len(self)):
            return self
        spans = self.image_spans
        assert self.can_cut and last_cut(spans, start) == start and last_cut(spans, stop) == stop
        first, last = (sum(span[0] < place for span in spans) for place in (start, stop))
        is_in = [bool(self.modality[span[0] + 1] == IMAGE_FEATURE) for span in spans]
        looked_at = slice(sum(is_in[:first]), sum(is_in[:last]))
        drawn = slice(first - looked_at.start, last - looked_at.stop)
        return replace(
            self,
            reference=replace(self.reference, piece=(start, stop)),
            input_ids=self.input_ids[start:stop],
            labels=self.labels[start:stop],
            modality=self.modality[start:stop],
            image_targets=self.image_targets[start:stop],
            understanding_pixels=self.understanding_pixels[looked_at],
            generation_pixels=self.generation_pixels[drawn],
            codes=self.codes[drawn],
            codes_have_loss=self.codes_have_loss[drawn],
            record_images=self.record_images[first:last],
            share=(stop - start) / len(self),
        )


def last_cut(image_spans: Sequence[tuple[int, int]], place: int) -> int:
    """The last place up to ``place`` where tokens may be cut: between any two that are not of one image."""
    return next((start for start, stop in image_spans if start < place < stop), place)


@dataclass
class Row:
    """Documents that share a row of T tokens, and the state of their stream after them.

    ``quarantined``: unusable samples that the stream came across since its previous row; ``num_held_out``: the number of
    held-out ones that it passed over.
    """

    stream: int
    documents: list[Document]
    state: dict[str, Any]
    quarantined: list[Quarantined] = field(default_factory=list)
    num_held_out: int = 0

    @property
    def num_tokens(self) -> int:
        return sum(len(d) for d in self.documents)

    @property
    def digest(self) -> str:
        return digest([d.reference.text() for d in self.documents])


def digest(parts: list[str]) -> str:
    """16 hexadecimal digits of the SHA-256 over ``parts``."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
