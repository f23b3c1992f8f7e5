"""A sample of a row, opened: its pictures as its encoders see them, and its text token by token."""

from __future__ import annotations

import base64
import io
import re
from html import escape

import numpy as np
from PIL import Image

from janus_train.data.images import generation_pixels
from janus_train.data.recipe import Recipe
from janus_train.data.types import BadSample, Document
from janus_train.datatools.inspect.tokens import Picture, Reader, Text

_BREAKS = re.compile("\n+")
ROLES = {
    "in": "understanding encoder: the whole picture on grey",
    "out": "generation encoder: the middle, to be drawn",
    "codes_in": "generation encoder: the middle, given as codes",
}


def sample(document: Document, reader: Reader, recipe: Recipe, size: int) -> str:
    """An article with the sample's source and key, and its pieces in order. ``size``: a picture's side in pixels."""
    reference = document.reference
    piece_of = f" · tokens {reference.piece[0]} to {reference.piece[1]} of a cut text" if reference.piece else ""
    body, flowing = [], False
    pieces = list(reader.pieces(document))
    for piece, after in zip(pieces, [*pieces[1:], None], strict=True):
        if isinstance(piece, Text) and not flowing:
            body.append('<p class="tokens">')
        elif isinstance(piece, Picture) and flowing:
            body.append("</p>")
        flowing = isinstance(piece, Text)
        if isinstance(piece, Picture):
            body.append(_picture(piece, document, recipe, size))
        else:
            body.append(_text(piece, isinstance(after, Text) and after.text.startswith("\n")))
    body.append("</p>" if flowing else "")
    return (
        f'<article class="sample"><h4><span class="key {document.kind}">{document.kind}</span> '
        f"<b>{escape(reference.source)}</b> <code>{escape(reference.key)}</code> "
        f"<small>{len(document):,} tokens · sample {reference.index} of its source, epoch {reference.epoch}{piece_of}</small></h4>"
        f"{''.join(body)}</article>"
    )


def _text(piece: Text, line_goes_on: bool) -> str:
    """``<u>`` for what is learnt, ``<s>`` for the rest: short, for there are thousands; the style gives them their looks.

    Every line break is shown, and of several that follow each other only the last one breaks the line.
    """
    shown = _BREAKS.sub(lambda found: "<em>↵</em>" * len(found[0]) + "\n", escape(piece.text)) or "∅"
    shown = shown.removesuffix("\n") if line_goes_on else shown
    css = " ".join(name for name, on in (("x", piece.special), ("g", piece.image_loss), ("y", piece.beyond)) if on)
    tag = "u" if piece.learnt else "s"
    number = f" ×{len(piece.ids)}" if piece.special and len(piece.ids) > 1 else ""
    title = f' title="{_title(piece)}"' if css else ""
    return f"<{tag}{f' class={chr(34)}{css}{chr(34)}' if css else ''}{title}>{shown}{number}</{tag}>"


def _title(piece: Text) -> str:
    said = ["special token"] if piece.special else []
    said += ["predicts the first code: image loss"] if piece.image_loss else []
    said += ["only the target of the row's last position: the text goes on in another row"] if piece.beyond else []
    return "; ".join(said)


def _picture(piece: Picture, document: Document, recipe: Recipe, size: int) -> str:
    pixels, note = piece.pixels, ""
    if pixels is None:
        pixels, note = _cached(document, piece.number, recipe, size), "codes from the cache"
    drawn = png(pixels, f"picture {piece.number + 1} of {document.reference.key}") if pixels is not None else ""
    facts = [ROLES[piece.role], f"{piece.tokens} positions", note]
    loss = (
        f'<span class="loss">image loss at {piece.losses}: &lt;begin_of_image&gt; and codes 0 to {piece.losses - 2}</span>'
        if piece.losses
        else "no loss"
    )
    return (
        f'<figure class="seen{" learnt" if piece.losses else ""}">{drawn}'
        f"<figcaption>{escape(' · '.join(f for f in facts if f))} · {loss}</figcaption></figure>"
    )


def _cached(document: Document, number: int, recipe: Recipe, size: int) -> np.ndarray | None:
    """The picture behind cached codes, made again for the page; None if the source does not give it."""
    _, source = recipe.sources[document.reference.source]
    try:
        return generation_pixels(source[document.reference.index].pictures[number], size)
    except (BadSample, OSError, IndexError):
        return None


def png(pixels: np.ndarray, alt: str) -> str:
    """uint8 (S, S, 3) as an ``<img>`` that holds its data."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    side = pixels.shape[0]
    small = ' class="small"' if side < 128 else ""
    return f'<img{small} alt="{escape(alt)}" width="{side}" height="{side}" src="data:image/png;base64,{data}">'
