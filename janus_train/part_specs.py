"""The names by which options say what trains: a part, or a piece of it.

    language_model                the whole part
    language_model.lm_head        one of its pieces (`PIECES`)
    language_model.layers         all of its layers
    language_model.layers.16-23   some of them: from 0, both ends included
    language_model.layers.16-     from one to the last
    language_model.layers.3       a single one

Only parts that are stacks of layers have pieces. `model.parts` says which tensors a name stands for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

Part = Literal[
    "understanding_encoder",
    "understanding_adaptor",
    "generation_encoder",
    "generation_embedding",
    "generation_adaptor",
    "image_head",
    "language_model",
]
"""The seven named parts of a Janus model (Janus-Pro, Table 2): the vocabulary for freezing and reports."""
PARTS: tuple[Part, ...] = get_args(Part)

LAYERS = "layers"
PIECES: dict[Part, tuple[str, ...]] = {
    "understanding_encoder": ("embeddings", LAYERS, "post_layernorm"),
    "language_model": ("embed_tokens", LAYERS, "norm", "lm_head"),
}
"""The pieces of the parts that have layers, by transformers' names and in the order of the forward pass."""


@dataclass(frozen=True)
class PartSpec:
    """A parsed name. ``piece`` None: the whole part; ``last`` None: up to the last layer."""

    part: Part
    piece: str | None = None
    first: int = 0
    last: int | None = None

    def covers(self, part: Part, piece: str, layer: int | None = None) -> bool:
        """Whether it names this piece of this part; ``layer``: the layer's number if the piece is the layers."""
        if part != self.part or self.piece not in (None, piece):
            return False
        return layer is None or (self.first <= layer and (self.last is None or layer <= self.last))

    def overlaps(self, other: PartSpec) -> bool:
        """Whether both name some tensor."""
        if self.part != other.part:
            return False
        if self.piece is None or other.piece is None:
            return True
        starts_inside = self.last is None or other.first <= self.last
        return self.piece == other.piece and starts_inside and (other.last is None or self.first <= other.last)


def part_named(text: str) -> Part:
    """The part of that name. Raises ValueError, with a suggestion, if there is none."""
    if text in PARTS:
        return text
    raise ValueError(f"there is no part {text}{_suggestion(text, PARTS)}")


@lru_cache
def parse_spec(text: str) -> PartSpec:
    """Parses a name. Raises ValueError with a phrase that says what is wrong with it."""
    name, *rest = text.split(".", 1)
    part = part_named(name)
    if not rest:
        return PartSpec(part)
    pieces = PIECES.get(part, ())
    if not pieces:
        raise ValueError(f"{text}: {part} trains as a whole, only {' and '.join(PIECES)} have pieces")
    piece, *numbers = rest[0].split(".", 1)
    if piece not in pieces:
        raise ValueError(f"{text}: {part} has no piece {piece}{_suggestion(piece, pieces)}")
    if not numbers:
        return PartSpec(part, piece)
    match = re.fullmatch(r"([0-9]{1,6})(?:(-)([0-9]{1,6})?)?", numbers[0])
    if piece != LAYERS or not match:
        raise ValueError(f"{text}: layers are written {part}.layers.16-23, {part}.layers.16- or {part}.layers.3")
    first, is_range, last = match.groups()
    spec = PartSpec(part, piece, int(first), None if is_range and last is None else int(last or first))
    if spec.last is not None and spec.last < spec.first:
        raise ValueError(f"{text} is empty: its last layer comes before its first")
    return spec


def _suggestion(text: str, names: Collection[str]) -> str:
    close_matches = difflib.get_close_matches(text, names, n=1, cutoff=0.8)
    return f": did you mean {close_matches[0]}?" if close_matches else f": choose {', '.join(names)}"


def check_specs(texts: Collection[str], num_layers: Mapping[Part, int]) -> None:
    """Raises ValueError if a name goes beyond the layers that its part has, or if two of them overlap."""
    specs: list[tuple[str, PartSpec]] = []
    for text in texts:
        spec = parse_spec(text)
        if spec.piece == LAYERS and max(spec.first, spec.last or 0) >= num_layers[spec.part]:
            count = num_layers[spec.part]
            raise ValueError(f"{text} is beyond the {count} layers of this model's {spec.part}, 0 to {count - 1}")
        for other_text, other in specs:
            if spec.overlaps(other):
                raise ValueError(f"{other_text} and {text} overlap: name each part and layer once")
        specs.append((text, spec))


def covered_layers(texts: Collection[str], part: Part, num_layers: int) -> list[bool]:
    """For each layer of a part whether one of the names covers it."""
    specs = [parse_spec(text) for text in texts]
    return [any(spec.covers(part, LAYERS, layer) for spec in specs) for layer in range(num_layers)]


def covers_piece(texts: Collection[str], part: Part, piece: str) -> bool:
    """Whether one of the names covers a piece other than the layers."""
    return any(parse_spec(text).covers(part, piece) for text in texts)


def pieces_of(texts: Collection[str], part: Part, num_layers: int | None) -> list[str]:
    """The pieces of a part that the names cover, with numbers (``layers.16-23``); empty for the whole part or nothing."""
    pieces = []
    for spec in map(parse_spec, texts):
        if spec.part == part and spec.piece is not None:
            last = spec.last if spec.last is not None or num_layers is None else num_layers - 1
            numbers = f"{spec.first}" if last == spec.first else f"{spec.first}-{'' if last is None else last}"
            pieces.append(f"{spec.piece}.{numbers}" if spec.piece == LAYERS else spec.piece)
    return pieces
