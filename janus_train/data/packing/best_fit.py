"""Chooses which documents share a row: mixes the kinds by the stage's ratio and fills T tokens.

In: the waiting documents of each kind. Out: `Choice`s. The ratio is kept in every row: a document is placed only if its
kind stays within a sample of its share. A row is filled in four steps:

1. a document that has waited `max_wait` rows goes first, as soon as the ratio allows its kind;
2. the kind that is furthest behind places its oldest document if it fits, else its largest document that fits, and so on
   until nothing fits;
3. documents are exchanged for larger ones of their kind while that fills the row better;
4. a document may be cut, if it is longer than a row; with ``cut="fit"`` plain text is also cut wherever a row has room
   left. The tokens of an image are never cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from janus_train.data.types import Kind, last_cut

RatioUnit = Literal["samples", "tokens"]
Cut = Literal["long", "fit"]

SMALLEST_PIECE = 64
"""The smallest piece of a document is this fraction of a row: 64 tokens at 4096. Only an image can force a smaller one."""


@dataclass(frozen=True)
class WaitingDocument:
    """The size of a waiting document, or of the part of it that is not placed yet."""

    tokens: int
    total_tokens: int  # of the complete document
    can_cut: bool
    rows_waited: int
    images: tuple[
        tuple[int, int], ...
    ] = ()  # places that cannot be cut (`Document.image_spans`), in the remaining part


@dataclass(frozen=True)
class Choice:
    """``tokens`` of waiting document number ``place`` of a kind: all of its remaining tokens, or a piece from its front."""

    kind: Kind
    place: int
    tokens: int


class Packer(Protocol):
    """The interface between streams and packers: `BestFitPacker` fills rows, `OnePerRowPacker` puts one document in each."""

    row_tokens: int

    def wants_more(self, documents: int, tokens: int) -> bool:
        """Whether a kind with ``documents`` waiting, of ``tokens`` together, needs another one before a row is chosen."""
        ...

    def choose(
        self,
        candidates: Mapping[Kind, Sequence[WaitingDocument]],
        placed_weights: Mapping[Kind, float],
        *,
        row: int,
        phase: int,
        longest: int,
    ) -> list[Choice]: ...

    def weight(self, document: WaitingDocument, tokens: int) -> float:
        """How much ``tokens`` of a document count in the ratio."""
        ...


def front_of(document: WaitingDocument, free_tokens: int, row_tokens: int) -> int:
    """Number of tokens to place where ``free_tokens`` are free: all, or a piece of a document that is longer than a row.

    0 if the document does not fit. Neither piece is shorter than a row's smallest piece, unless not even an empty row
    allows it: if an image that nearly fills a row comes next.
    """
    if document.tokens <= free_tokens:
        return document.tokens
    min_tokens = smallest_piece(row_tokens)
    can_cut_here = document.can_cut and document.tokens > row_tokens and free_tokens >= min_tokens
    if not can_cut_here:
        return 0
    tokens = last_cut(document.images, min(free_tokens, document.tokens - min_tokens))
    if tokens >= min_tokens:
        return tokens
    return last_cut(document.images, free_tokens) if free_tokens == row_tokens else 0


def smallest_piece(row_tokens: int) -> int:
    return max(1, row_tokens // SMALLEST_PIECE)


class BestFitPacker:
    """Chooses the documents of a row; it has no state of its own.

    row_tokens: T. shares: each kind's share of the ``unit``. lookahead: minimum number of documents of a kind to choose
    from. max_wait: rows after which a document goes before all others. A document of a kind with share s then waits only
    for the older ones of its kind, each at most 1/s + 1 rows.
    """

    def __init__(
        self,
        row_tokens: int,
        shares: Mapping[Kind, float],
        lookahead: int,
        *,
        unit: RatioUnit = "samples",
        cut: Cut = "long",
        max_wait: int = 64,
    ):
        self.row_tokens, self.shares, self.lookahead = row_tokens, dict(shares), lookahead
        self.unit, self.cut, self.max_wait = unit, cut, max_wait
        self.smallest_piece = smallest_piece(row_tokens)

    def wants_more(self, documents: int, tokens: int) -> bool:
        return documents < self.lookahead or tokens < self.row_tokens

    def choose(
        self,
        candidates: Mapping[Kind, Sequence[WaitingDocument]],
        placed_weights: Mapping[Kind, float],
        *,
        row: int = 0,
        phase: int = 0,
        longest: int = 1,
    ) -> list[Choice]:
        """The row's documents in their order in the row.

        candidates: oldest first. placed_weights: how much the stream has placed so far, by kind, in the ratio's unit.
        phase: spreads the streams over the mixture's period, so that they do not all begin with the same kind. longest:
        tokens of the longest document that the stream has seen, which count as one sample if the unit is tokens. row: its
        number in the stream, not used here.
        """
        builder = _RowBuilder(
            self, candidates, placed_weights, self._offsets(phase), 1.0 if self.unit == "samples" else longest
        )
        builder.place_overdue()
        while builder.place_next():
            pass
        builder.restore_ratio()
        builder.exchange()
        if self.cut == "fit":
            builder.fill_with_piece()
        return builder.choices

    def weight(self, document: WaitingDocument, tokens: int) -> float:
        """How much ``tokens`` of a document count in the ratio."""
        return tokens if self.unit == "tokens" else tokens / document.total_tokens

    def _offsets(self, phase: int) -> dict[Kind, float]:
        """A head start of up to a quarter of a sample, summing to zero over the kinds."""
        values = [((phase * (2 * i + 1) * 0.6180339887) % 1.0 - 0.5) / 2 for i in range(len(self.shares))]
        mean = sum(values) / len(values)
        return {kind: value - mean for kind, value in zip(self.shares, values, strict=True)}


class _RowBuilder:
    """The choices for one row while it is being filled."""

    def __init__(
        self,
        packer: BestFitPacker,
        candidates: Mapping[Kind, Sequence[WaitingDocument]],
        placed_weights: Mapping[Kind, float],
        offsets: Mapping[Kind, float],
        sample: float,
    ):
        self.packer, self.candidates, self.offsets, self.sample = packer, candidates, offsets, sample
        self.weights_before = {kind: placed_weights.get(kind, 0.0) for kind in packer.shares}
        self.weights_in_row: dict[Kind, float] = dict.fromkeys(packer.shares, 0.0)
        self.choices: list[Choice] = []
        self.free_tokens = packer.row_tokens

    def place_overdue(self) -> None:
        """Place the document that has waited longest, if it has waited too long and the ratio allows its kind now."""
        for kind in sorted(self.candidates, key=lambda k: -self._rows_waited(k)):
            if self._rows_waited(kind) >= self.packer.max_wait:
                tokens = front_of(self.candidates[kind][0], self.free_tokens, self.packer.row_tokens)
                if tokens and self._may_place(kind, 0, tokens):
                    self._add(Choice(kind, 0, tokens))
                    if self._is_within_ratio():  # not if it would let another kind fall behind
                        return
                    self._remove(0)

    def place_next(self) -> bool:
        """Place one more document; False if the row is full or no kind that the ratio allows has one that fits."""
        total = sum(self.weights_before.values()) + sum(self.weights_in_row.values()) + self.sample
        deficits = {
            kind: share * total
            + self.offsets[kind] * self.sample
            - self.weights_before[kind]
            - self.weights_in_row[kind]
            for kind, share in self.packer.shares.items()
        }
        for kind in sorted(deficits, key=lambda k: -deficits[k]):
            choice = self._fitting_choice(kind)
            if choice and self._may_place(kind, choice.place, choice.tokens):
                self._add(choice)
                return True
        return False

    def restore_ratio(self) -> None:
        """Remove the last choices while a kind is more than a sample off its share, in this row or in the stream."""
        while len(self.choices) > 1 and not self._is_within_ratio():
            self._remove(len(self.choices) - 1)

    def exchange(self) -> None:
        """Replace chosen documents by larger ones of the same kind, the best fit first."""
        while self.free_tokens:
            gains = [
                (self.candidates[choice.kind][place].tokens - choice.tokens, -number, -place)
                for number, choice in enumerate(self.choices)
                if not self._must_stay(choice)
                for place in self._unchosen_places(choice.kind)
                if 0 < self.candidates[choice.kind][place].tokens - choice.tokens <= self.free_tokens
            ]
            if not gains:
                return
            number, place = -max(gains)[1], -max(gains)[2]
            old_choice = self.choices[number]
            self._replace(number, Choice(old_choice.kind, place, self.candidates[old_choice.kind][place].tokens))
            if not self._is_within_ratio():  # only if the ratio counts tokens
                self._replace(number, old_choice)
                return

    def fill_with_piece(self) -> None:
        """Fill the rest of the row with the front of a text. Documents with images are cut only where they must be."""
        min_tokens = self.packer.smallest_piece
        if self.free_tokens < min_tokens:
            return
        for kind in self.packer.shares:
            for place in self._unchosen_places(kind):
                document = self.candidates[kind][place]
                if (
                    document.can_cut
                    and not document.images
                    and document.tokens - self.free_tokens >= min_tokens
                    and self._may_place(kind, place, self.free_tokens)
                ):
                    self._add(Choice(kind, place, self.free_tokens))
                    if self._is_within_ratio():
                        return
                    self._remove(len(self.choices) - 1)

    def _fitting_choice(self, kind: Kind) -> Choice | None:
        """The oldest document if it fits, else, unless it is overdue, the largest that fits (the older of equals)."""
        places = self._unchosen_places(kind)
        if not places:
            return None
        documents = self.candidates[kind]
        tokens = front_of(documents[places[0]], self.free_tokens, self.packer.row_tokens)
        if tokens:
            return Choice(kind, places[0], tokens)
        if documents[places[0]].rows_waited >= self.packer.max_wait:
            return None
        fitting_places = [place for place in places if documents[place].tokens <= self.free_tokens]
        best_place = max(fitting_places, key=lambda place: (documents[place].tokens, -place), default=None)
        return None if best_place is None else Choice(kind, best_place, documents[best_place].tokens)

    def _must_stay(self, choice: Choice) -> bool:
        """Whether the choice may not be exchanged: it is overdue, or a piece of a document, whose pieces stay in order."""
        document = self.candidates[choice.kind][choice.place]
        return (
            document.rows_waited >= self.packer.max_wait
            or document.tokens != document.total_tokens
            or choice.tokens != document.tokens
        )

    def _unchosen_places(self, kind: Kind) -> list[int]:
        chosen_places = {choice.place for choice in self.choices if choice.kind == kind}
        return [place for place in range(len(self.candidates[kind])) if place not in chosen_places]

    def _rows_waited(self, kind: Kind) -> int:
        return self.candidates[kind][0].rows_waited if self.candidates[kind] else -1

    def _may_place(self, kind: Kind, place: int, tokens: int) -> bool:
        """Whether the kind would stay less than one sample ahead of its share."""
        weight = self.packer.weight(self.candidates[kind][place], tokens)
        total = sum(self.weights_before.values()) + sum(self.weights_in_row.values()) + weight
        lead = self.weights_before[kind] + self.weights_in_row[kind] + weight - self.packer.shares[kind] * total
        return lead < self.sample * (1 + self.offsets[kind])

    def _is_within_ratio(self) -> bool:
        """Whether every kind is within one sample of its share, in this row and in the stream up to it."""
        row = sum(self.weights_in_row.values())
        stream = row + sum(self.weights_before.values())
        limit = self.sample * (1 + 1e-9)
        return all(
            abs(self.weights_in_row[kind] - share * row) <= limit
            and abs(self.weights_before[kind] + self.weights_in_row[kind] - share * stream) <= limit
            for kind, share in self.packer.shares.items()
        )

    def _add(self, choice: Choice) -> None:
        self.choices.append(choice)
        self._count(choice, +1)

    def _remove(self, number: int) -> None:
        self._count(self.choices.pop(number), -1)

    def _replace(self, number: int, choice: Choice) -> None:
        self._count(self.choices[number], -1)
        self.choices[number] = choice
        self._count(choice, +1)

    def _count(self, choice: Choice, sign: int) -> None:
        self.free_tokens -= sign * choice.tokens
        document = self.candidates[choice.kind][choice.place]
        self.weights_in_row[choice.kind] += sign * self.packer.weight(document, choice.tokens)
