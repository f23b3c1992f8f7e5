"""The shapes that travel the data path, from a source's record to the model's batch.

    Record -> (template) -> segments -> (encoder) -> Document -> (packer) -> Row -> (collate) -> Batch

Shape legend, used in every module of the project:

    R  rows of a step (``rows_per_step``), each of a stream of its own        W  data-parallel processes
    B  rows of a micro-batch            T  tokens a row can hold (``row_tokens``)
    L  tokens of a micro-batch, all its rows one after the other, without padding
    D  hidden size of the language model        V  vocabulary        C  size of the codebook
    P  tokens of an image (576 in Janus-Pro)   S  side of an image in pixels (384 in Janus-Pro);
                                               that of images to draw differs if the encoders' patches do
    Nu understanding images     Ng generation images     No generation images with loss (No <= Ng)
    Nv generation images whose codes are not cached (Nv <= Ng)
    Nt positions with a text loss
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Kind = Literal["understanding", "text", "generation"]
KINDS: tuple[Kind, ...] = ("understanding", "text", "generation")
"""The data kinds, in the order in which the paper writes its ratios."""

IGNORE = -100
"""The label of a position that carries no text loss (torch's and transformers' convention)."""


class BadSample(ValueError):
    """A sample that cannot be trained on; its message says why. It is quarantined and another one drawn in its place.

    ``damaged``: its bytes are not those that were indexed; counted apart, because the disk or the copy is at fault.
    """

    def __init__(self, reason: str, *, key: str | None = None, damaged: bool = False):
        super().__init__(reason)
        self.key, self.damaged = key, damaged


@dataclass(frozen=True)
class Record:
    """What a source yields: the fields of its JSON, its images, and their cached codes if there are any."""

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
    ``image_out``    an image that the model learns to draw: codes, with loss
    ``codes_in``     an image given as codes, without loss
    """

    role: Role
    text: str = ""
    loss: bool = False
    image: Image.Image | None = None
    codes: np.ndarray | None = None


@dataclass(frozen=True)
class Reference:
    """Where a sample comes from: enough to draw it again, and what a batch's digest is made of."""

    source: str
    epoch: int
    index: int
    key: str
    piece: tuple[int, int] | None = None  # the tokens from .. to, if the text was cut

    def text(self) -> str:
        whole = f"{self.source}:{self.epoch}:{self.index}:{self.key}"
        return whole if self.piece is None else f"{whole}[{self.piece[0]}:{self.piece[1]}]"


@dataclass(frozen=True)
class Quarantined:
    """A sample that was met and cannot be trained on: one line of a run's quarantine.jsonl."""

    source: str
    epoch: int
    index: int
    key: str
    reason: str
    damaged: bool


TEXT, IMAGE_FEATURE, IMAGE_CODE = 0, 1, 2
"""The modality of a position, which says what is put in there: a text embedding, an understanding feature, the embedding of a code."""


@dataclass
class Document:
    """One encoded sample: the unit that attention never leaves. All arrays have one entry a token.

    ``labels[i]`` is the token that the hidden state *at* i predicts: the shift by one is done here, once, and nowhere
    else. Likewise ``image_targets[i]`` says that the hidden state at i predicts the next code: it is
    true at ``<begin_of_image>`` and at codes 0..P-2 of an ``image_out``.
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
    codes_have_loss: list[bool]  # one a generation image: image_out or codes_in
    share: float = 1.0  # of a whole sample
    can_cut: bool = False  # plain text may be cut anywhere

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_loss_tokens(self) -> int:
        """Text and image targets: its share of the step's one denominator."""
        return int(np.count_nonzero(self.labels != IGNORE) + np.count_nonzero(self.image_targets))

    def piece(self, start: int, stop: int) -> Document:
        """Tokens ``start .. stop`` as a document of their own. Each label stays with its token: none is lost or doubled."""
        if (start, stop) == (0, len(self)):
            return self
        assert self.can_cut and not self.modality.any()  # an image's tokens never are
        return replace(
            self,
            reference=replace(self.reference, piece=(start, stop)),
            input_ids=self.input_ids[start:stop],
            labels=self.labels[start:stop],
            modality=self.modality[start:stop],
            image_targets=self.image_targets[start:stop],
            share=(stop - start) / len(self),
        )


@dataclass
class Row:
    """Documents that share a row of T tokens, and the state their stream has after them.

    ``quarantined``: samples that could not be used, met since the stream's row before.
    """

    stream: int
    documents: list[Document]
    state: dict[str, Any]
    quarantined: list[Quarantined] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return sum(len(d) for d in self.documents)

    @property
    def digest(self) -> str:
        return digest([d.reference.text() for d in self.documents])


def digest(parts: list[str]) -> str:
    """16 hexadecimal digits of the SHA-256 over ``parts``."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
