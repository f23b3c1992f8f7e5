"""One document a row: the global batch counted in samples (``batch.unit: samples``), the papers' other reading.

Nothing is packed and nothing padded: micro-batches are flat, so a row costs what its document has. A step's rows take
neighbouring places on a wheel of kinds, so that every step holds the ratio: the papers' within a sample, any other within one
and a half. From step to step the wheel turns so that every stream comes to each place equally often, and no stream's share
of a source is left behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

from janus_train.data.packing.best_fit import Choice, Item, front_of
from janus_train.data.types import Kind


class OnePerRowPacker:
    """Chooses each row's one document; keeps no state of its own.

    row_tokens: T, what a document may have at most: longer text comes in pieces, each a row of its own in the turn of
    its kind. ratio: whole numbers by kind, those of 0 left out. num_streams: R.
    """

    def __init__(self, row_tokens: int, ratio: Mapping[Kind, int], num_streams: int):
        self.row_tokens = row_tokens
        self.schedule = kind_schedule(ratio)
        places = len(self.schedule)
        self._turn = next(turn for turn in range(num_streams, num_streams + places) if gcd(turn, places) == 1)

    def wants_more(self, documents: int, tokens: int) -> bool:
        return documents == 0

    def choose(
        self,
        waiting: Mapping[Kind, Sequence[Item]],
        placed: Mapping[Kind, float],
        *,
        row: int,
        phase: int,
        longest: int,
    ) -> list[Choice]:
        """The oldest document of the kind whose turn it is. row: its number in the stream. phase: the stream's number, or
        that and a constant.
        """
        kind = self.schedule[(row * self._turn + phase) % len(self.schedule)]
        return [Choice(kind, 0, front_of(waiting[kind][0], self.row_tokens, self.row_tokens))]

    def weight(self, item: Item, tokens: int) -> float:
        return 1.0


def kind_schedule(ratio: Mapping[Kind, int]) -> list[Kind]:
    """The kinds in turn, each as often as the ratio says and as evenly spread as can be."""
    total = sum(ratio.values())
    common = gcd(*ratio.values())
    turns: list[Kind] = []
    came = dict.fromkeys(ratio, 0)
    for number in range(1, total // common + 1):
        behind = max(ratio, key=lambda kind: ratio[kind] * number - came[kind] * total)
        came[behind] += 1
        turns.append(behind)
    return turns
