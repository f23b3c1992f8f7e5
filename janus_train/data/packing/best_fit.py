"""Which documents share a row: mixes the kinds by the stage's ratio and fills T tokens.

The ratio is held where it counts, in the rows: a document is placed only if its kind stays on its line. A row is made in
four steps:

1. a document that has waited `max_wait` rows goes first, as soon as its kind may come;
2. the kind that is furthest behind places its oldest document if it fits, else the largest that does, and so on until
   nothing fits;
3. documents are exchanged for larger ones of their kind while that fills the row better;
4. text may be cut: always if it is longer than a row, and with ``cut="fit"`` wherever a row has room left. An image's
   tokens never are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from janus_train.data.types import Kind

Unit = Literal["samples", "tokens"]
Cut = Literal["long", "fit"]

SMALLEST_PIECE = 64
"""A row is at least so many pieces of text long, so none is shorter than 64 tokens at 4096."""


@dataclass(frozen=True)
class Item:
    """A waiting document, or what is left of it."""

    tokens: int
    whole: int  # tokens of the whole document
    can_cut: bool
    waited: int  # rows


@dataclass(frozen=True)
class Choice:
    """``tokens`` of the waiting document number ``place`` of a kind: all that is left of it, or a piece from its front."""

    kind: Kind
    place: int
    tokens: int


class Packer(Protocol):
    """What a stream asks of a packer: `BestFitPacker` fills rows, `single.OnePerRowPacker` gives each document its own."""

    row_tokens: int

    def wants_more(self, documents: int, tokens: int) -> bool:
        """Whether a kind of which ``documents`` with ``tokens`` wait needs another one before a row is chosen."""
        ...

    def choose(
        self,
        waiting: Mapping[Kind, Sequence[Item]],
        placed: Mapping[Kind, float],
        *,
        row: int,
        phase: int,
        longest: int,
    ) -> list[Choice]: ...

    def weight(self, item: Item, tokens: int) -> float:
        """What ``tokens`` of a document count for in the ratio."""
        ...


def front_of(item: Item, left: int, row_tokens: int) -> int:
    """How much of a document is placed where ``left`` tokens are free: all, or a piece of a text that is longer than a row.

    0 if it does not fit. What stays is never shorter than a row's smallest piece.
    """
    if item.tokens <= left:
        return item.tokens
    least = smallest_piece(row_tokens)
    fits = item.can_cut and item.tokens > row_tokens and left >= least
    return min(left, item.tokens - least) if fits else 0


def smallest_piece(row_tokens: int) -> int:
    return max(1, row_tokens // SMALLEST_PIECE)


class BestFitPacker:
    """Chooses the documents of a row; keeps no state of its own.

    row_tokens: T. shares: each kind's share of the ``unit``. lookahead: documents of a kind to choose from, at least.
    max_wait: rows after which a document goes before all others. A document of
    a kind with share s then waits for at most the older ones of its kind, each at most 1/s + 1 rows.
    """

    def __init__(
        self,
        row_tokens: int,
        shares: Mapping[Kind, float],
        lookahead: int,
        *,
        unit: Unit = "samples",
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
        waiting: Mapping[Kind, Sequence[Item]],
        placed: Mapping[Kind, float],
        *,
        row: int = 0,
        phase: int = 0,
        longest: int = 1,
    ) -> list[Choice]:
        """The row's documents in their order in the row.

        waiting: oldest first. placed: what the stream has placed so far, by kind, in the ratio's unit. phase: spreads the
        streams over the mixture's period, so that they do not all begin with the same kind. longest: tokens of the
        longest document that the stream has seen: one sample, if the unit is tokens. row: its number in the stream, of no use here.
        """
        made = _Row(self, waiting, placed, self._offsets(phase), 1.0 if self.unit == "samples" else longest)
        made.place_overdue()
        while made.place_next():
            pass
        made.back_to_line()
        made.exchange()
        if self.cut == "fit":
            made.fill_with_piece()
        return made.chosen

    def weight(self, item: Item, tokens: int) -> float:
        """What ``tokens`` of a document count for in the ratio."""
        return tokens if self.unit == "tokens" else tokens / item.whole

    def _offsets(self, phase: int) -> dict[Kind, float]:
        """A head start of up to a quarter of a sample, summing to zero over the kinds."""
        raw = [((phase * (2 * i + 1) * 0.6180339887) % 1.0 - 0.5) / 2 for i in range(len(self.shares))]
        mean = sum(raw) / len(raw)
        return {kind: value - mean for kind, value in zip(self.shares, raw, strict=True)}


class _Row:
    """A row in the making."""

    def __init__(
        self,
        packer: BestFitPacker,
        waiting: Mapping[Kind, Sequence[Item]],
        placed: Mapping[Kind, float],
        offsets: Mapping[Kind, float],
        sample: float,
    ):
        self.packer, self.waiting, self.offsets, self.sample = packer, waiting, offsets, sample
        self.before = {kind: placed.get(kind, 0.0) for kind in packer.shares}
        self.inside: dict[Kind, float] = dict.fromkeys(packer.shares, 0.0)
        self.chosen: list[Choice] = []
        self.left = packer.row_tokens

    def place_overdue(self) -> None:
        """The document that has waited longest, if that is too long and its kind may come now."""
        for kind in sorted(self.waiting, key=lambda k: -self._waited(k)):
            if self._waited(kind) >= self.packer.max_wait:
                tokens = front_of(self.waiting[kind][0], self.left, self.packer.row_tokens)
                if tokens and self._may_come(kind, 0, tokens):
                    self._add(Choice(kind, 0, tokens))
                    if self._on_line():  # not if it would let another kind fall behind
                        return
                    self._remove(0)

    def place_next(self) -> bool:
        """One more document; False if the row is full or no kind that may come next has one that fits."""
        total = sum(self.before.values()) + sum(self.inside.values()) + self.sample
        behind = {
            kind: share * total + self.offsets[kind] * self.sample - self.before[kind] - self.inside[kind]
            for kind, share in self.packer.shares.items()
        }
        for kind in sorted(behind, key=lambda k: -behind[k]):
            choice = self._fitting(kind)
            if choice and self._may_come(kind, choice.place, choice.tokens):
                self._add(choice)
                return True
        return False

    def back_to_line(self) -> None:
        """Takes back what came last while a kind is more than a sample off its share, in this row or in the stream."""
        while len(self.chosen) > 1 and not self._on_line():
            self._remove(len(self.chosen) - 1)

    def exchange(self) -> None:
        """Puts larger documents in the place of chosen ones of the same kind, the best fit first."""
        while self.left:
            gains = [
                (self.waiting[choice.kind][place].tokens - choice.tokens, -number, -place)
                for number, choice in enumerate(self.chosen)
                if not self._keeps(choice)
                for place in self._free(choice.kind)
                if 0 < self.waiting[choice.kind][place].tokens - choice.tokens <= self.left
            ]
            if not gains:
                return
            number, place = -max(gains)[1], -max(gains)[2]
            old = self.chosen[number]
            self._replace(number, Choice(old.kind, place, self.waiting[old.kind][place].tokens))
            if not self._on_line():  # only if the ratio counts tokens
                self._replace(number, old)
                return

    def fill_with_piece(self) -> None:
        """Fills the rest of the row with the front of a text."""
        least = self.packer.smallest_piece
        if self.left < least:
            return
        for kind in self.packer.shares:
            for place in self._free(kind):
                item = self.waiting[kind][place]
                if item.can_cut and item.tokens - self.left >= least and self._may_come(kind, place, self.left):
                    self._add(Choice(kind, place, self.left))
                    if self._on_line():
                        return
                    self._remove(len(self.chosen) - 1)

    def _fitting(self, kind: Kind) -> Choice | None:
        """The oldest document if it fits, else, unless it is overdue, the largest that does (the older of equals)."""
        free = self._free(kind)
        if not free:
            return None
        items = self.waiting[kind]
        tokens = front_of(items[free[0]], self.left, self.packer.row_tokens)
        if tokens:
            return Choice(kind, free[0], tokens)
        if items[free[0]].waited >= self.packer.max_wait:
            return None
        fitting = [place for place in free if items[place].tokens <= self.left]
        best = max(fitting, key=lambda place: (items[place].tokens, -place), default=None)
        return None if best is None else Choice(kind, best, items[best].tokens)

    def _keeps(self, choice: Choice) -> bool:
        """Whether it stays: it is overdue, or a piece (what is left of a text comes in order)."""
        item = self.waiting[choice.kind][choice.place]
        return item.waited >= self.packer.max_wait or item.tokens != item.whole or choice.tokens != item.tokens

    def _free(self, kind: Kind) -> list[int]:
        taken = {choice.place for choice in self.chosen if choice.kind == kind}
        return [place for place in range(len(self.waiting[kind])) if place not in taken]

    def _waited(self, kind: Kind) -> int:
        return self.waiting[kind][0].waited if self.waiting[kind] else -1

    def _may_come(self, kind: Kind, place: int, tokens: int) -> bool:
        """Whether the kind would stay less than one sample ahead of its share."""
        weight = self.packer.weight(self.waiting[kind][place], tokens)
        total = sum(self.before.values()) + sum(self.inside.values()) + weight
        ahead = self.before[kind] + self.inside[kind] + weight - self.packer.shares[kind] * total
        return ahead < self.sample * (1 + self.offsets[kind])

    def _on_line(self) -> bool:
        """Is every kind within one sample of its share, in this row and in the stream up to it?"""
        row = sum(self.inside.values())
        stream = row + sum(self.before.values())
        limit = self.sample * (1 + 1e-9)
        return all(
            abs(self.inside[kind] - share * row) <= limit
            and abs(self.before[kind] + self.inside[kind] - share * stream) <= limit
            for kind, share in self.packer.shares.items()
        )

    def _add(self, choice: Choice) -> None:
        self.chosen.append(choice)
        self._count(choice, +1)

    def _remove(self, number: int) -> None:
        self._count(self.chosen.pop(number), -1)

    def _replace(self, number: int, choice: Choice) -> None:
        self._count(self.chosen[number], -1)
        self.chosen[number] = choice
        self._count(choice, +1)

    def _count(self, choice: Choice, sign: int) -> None:
        self.left -= sign * choice.tokens
        item = self.waiting[choice.kind][choice.place]
        self.inside[choice.kind] += sign * self.packer.weight(item, choice.tokens)
