"""Details of a sample: its images as the encoders see them, and its text token by token.

In: a document. Out: a `Sample`, the values for the template ``inspect_row.html.j2``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from janus_train.data.images import generation_pixels
from janus_train.data.recipe import Recipe
from janus_train.data.types import BadSample, Document
from janus_train.datatools.inspect.tokens import ImagePiece, PieceReader, TextPiece
from janus_train.pages.images import pixels_uri

_BREAKS = re.compile("([^\\n]*)(\\n*)")
ROLES = {
    "in": "understanding encoder: the complete image on grey",
    "out": "generation encoder: the middle, to be generated",
    "codes_in": "generation encoder: the middle, in the input as codes",
}


@dataclass(frozen=True)
class Token:
    """A token as the page shows it. ``parts``: (text, number of line breaks after it, line end on the page)."""

    has_loss: bool
    css: str
    title: str
    parts: list[tuple[str, int, str]]
    repeats: int


@dataclass(frozen=True)
class TextSegment:
    """Tokens between two images."""

    tokens: list[Token]
    is_text: bool = True


@dataclass(frozen=True)
class ImageSegment:
    """An image; ``uri`` is None if the image is not available, ``side`` is in pixels."""

    uri: str | None
    side: int
    alt: str
    facts: list[str]
    num_losses: int
    is_text: bool = False


@dataclass(frozen=True)
class Sample:
    """A sample's source and key, and its segments in order."""

    kind: str
    source: str
    key: str
    facts: list[str]
    segments: list[TextSegment | ImageSegment]


def sample(document: Document, reader: PieceReader, recipe: Recipe, size: int) -> Sample:
    """The details of a document. ``size``: the side of an image, in pixels."""
    reference = document.reference
    facts = [f"{len(document):,} tokens", f"sample {reference.index} of its source, epoch {reference.epoch}"]
    if reference.piece:
        facts.append(f"tokens {reference.piece[0]} to {reference.piece[1]} of a document that is cut")
    segments: list[TextSegment | ImageSegment] = []
    for is_text, pieces in groupby(reader.pieces(document), lambda piece: isinstance(piece, TextPiece)):
        if is_text:
            segments.append(TextSegment(_tokens([piece for piece in pieces if isinstance(piece, TextPiece)])))
        else:
            segments += [_image(piece, document, recipe, size) for piece in pieces if isinstance(piece, ImagePiece)]
    return Sample(document.kind, reference.source, reference.key, facts, segments)


def _tokens(pieces: list[TextPiece]) -> list[Token]:
    next_pieces: list[TextPiece | None] = [*pieces[1:], None]
    return [
        _token(piece, bool(next_piece and next_piece.text.startswith("\n")))
        for piece, next_piece in zip(pieces, next_pieces, strict=True)
    ]


def _token(piece: TextPiece, line_continues: bool) -> Token:
    """Mark every line break; of several consecutive ones only the last one breaks the line."""
    parts = [(match[1], len(match[2]), "\n" if match[2] else "") for match in _BREAKS.finditer(piece.text) if match[0]]
    if parts and line_continues:
        text, num_breaks, _ = parts[-1]
        parts[-1] = (text, num_breaks, "")
    css = " ".join(name for name, on in (("x", piece.special), ("g", piece.image_loss), ("y", piece.beyond)) if on)
    repeats = len(piece.ids) if piece.special else 1
    return Token(piece.has_loss, css, _title(piece), parts or [("∅", 0, "")], repeats)


def _title(piece: TextPiece) -> str:
    notes = ["special token"] if piece.special else []
    notes += ["predicts the first code: image loss"] if piece.image_loss else []
    notes += ["only the target of the row's last position: the text continues in another row"] if piece.beyond else []
    return "; ".join(notes)


def _image(piece: ImagePiece, document: Document, recipe: Recipe, size: int) -> ImageSegment:
    pixels, note = piece.pixels, ""
    if pixels is None:
        number = document.record_images[piece.number]
        pixels, note = _image_of_cached_codes(document, number, recipe, size), "codes from the cache"
    facts = [ROLES[piece.role], f"{piece.tokens} positions", note]
    return ImageSegment(
        uri=pixels_uri(pixels) if pixels is not None else None,
        side=pixels.shape[0] if pixels is not None else size,
        alt=f"image {piece.number + 1} of {document.reference.key}",
        facts=[fact for fact in facts if fact],
        num_losses=piece.losses,
    )


def _image_of_cached_codes(document: Document, number: int, recipe: Recipe, size: int) -> np.ndarray | None:
    """Read image ``number`` of the record, whose codes are cached, from its source; None if that cannot provide it."""
    if number < 0:
        return None
    _, source = recipe.sources[document.reference.source]
    try:
        return generation_pixels(source[document.reference.index].images[number], size)
    except (BadSample, OSError, IndexError):
        return None
