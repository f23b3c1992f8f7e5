"""Which documents share a row: mixes the kinds by the stage's ratio and fills T tokens, without cutting a picture.

The ratio is held where it counts, in the rows: a document is placed only if its kind stays on its line. The kind that
is furthest behind comes first; of that kind the oldest document if it fits, else the largest that does. A row is closed
when no kind that may come next has a document that fits.
"""

from __future__ import annotations

from collections.abc import Mapping

from janus_train.data.sample import Kind

TOLERANCE = 1.0
"""Samples that a kind may be off its share, in a row and in the stream as a whole."""


class RowPacker:
    """Chooses the documents of a row; keeps no state of its own.

    row_tokens: T. shares: each kind's share of the samples. lookahead: documents of a kind to choose from, at least.
    """

    def __init__(self, row_tokens: int, shares: Mapping[Kind, float], lookahead: int):
        self.row_tokens, self.shares, self.lookahead = row_tokens, dict(shares), lookahead

    def choose(
        self, lengths: Mapping[Kind, list[int]], placed: Mapping[Kind, int], phase: int
    ) -> list[tuple[Kind, int]]:
        """(kind, place in its waiting list) of the row's documents, in their order in the row.

        lengths: tokens of the waiting documents, oldest first. placed: documents the stream has placed so far, by kind.
        phase: spreads the streams over the mixture's period, so that they do not all begin with the same kind.
        """
        offsets = self._offsets(phase)
        chosen: list[tuple[Kind, int]] = []
        counts: dict[Kind, int] = dict.fromkeys(self.shares, 0)
        left = self.row_tokens
        while True:
            number = sum(placed.get(k, 0) + counts[k] for k in self.shares) + 1
            behind = {k: s * number + offsets[k] - placed.get(k, 0) - counts[k] for k, s in self.shares.items()}
            for kind in sorted(behind, key=lambda k: -behind[k]):
                if behind[kind] <= 0:  # placing it would put it more than one sample ahead
                    continue
                place = self._fitting(lengths[kind], {p for k, p in chosen if k == kind}, left)
                if place is not None:
                    break
            else:
                break
            chosen.append((kind, place))
            counts[kind] += 1
            left -= lengths[kind][place]
        while len(chosen) > 1 and not self._on_line(counts, placed):
            counts[chosen.pop()[0]] -= 1
        return chosen

    def _offsets(self, phase: int) -> dict[Kind, float]:
        """A head start of up to a quarter of a sample, summing to zero over the kinds."""
        raw = [((phase * (2 * i + 1) * 0.6180339887) % 1.0 - 0.5) / 2 for i in range(len(self.shares))]
        mean = sum(raw) / len(raw)
        return {kind: value - mean for kind, value in zip(self.shares, raw, strict=True)}

    @staticmethod
    def _fitting(lengths: list[int], taken: set[int], left: int) -> int | None:
        """The oldest document if it fits, else the largest that does (the older of equals)."""
        free = [place for place in range(len(lengths)) if place not in taken]
        if free and lengths[free[0]] <= left:
            return free[0]
        fitting = [place for place in free if lengths[place] <= left]
        return max(fitting, key=lambda place: (lengths[place], -place), default=None)

    def _on_line(self, counts: Mapping[Kind, int], placed: Mapping[Kind, int]) -> bool:
        """Is every kind within `TOLERANCE` of its share, in this row and in the stream up to it?"""
        row = sum(counts.values())
        stream = row + sum(placed.get(kind, 0) for kind in self.shares)
        return all(
            abs(counts[kind] - share * row) <= TOLERANCE
            and abs(placed.get(kind, 0) + counts[kind] - share * stream) <= TOLERANCE
            for kind, share in self.shares.items()
        )
