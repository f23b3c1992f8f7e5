"""One document per row: the global batch counted in samples (``batch.unit: samples``), the other reading of the papers.

Nothing is packed and nothing is padded: micro-batches are flat, so a row costs only the tokens of its document. The kinds
form a cyclic schedule. A step's rows take neighbouring places in it, so that every step keeps the ratio: the papers' ratios
to within one sample, any other to within one and a half. From step to step the places advance so that every stream
comes to each place equally often, and all streams use up their shares of a source equally fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

from janus_train.data.packing.best_fit import Choice, WaitingDocument, front_of
from janus_train.data.types import Kind


class OnePerRowPacker:
    """Chooses the one document of each row; it has no state of its own.

    row_tokens: T, the limit for a document: what is longer and may be cut comes in pieces, each in a row of its own when its kind's turn
    comes. ratio: integers by kind, without zeros. num_streams: R.
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
        candidates: Mapping[Kind, Sequence[WaitingDocument]],
        placed_weights: Mapping[Kind, float],
        *,
        row: int,
        phase: int,
        longest: int,
    ) -> list[Choice]:
        """The oldest document of the kind whose turn it is.

        row: its number in the stream. phase: the stream's number, or that plus a constant.
        """
        kind = self.schedule[(row * self._turn + phase) % len(self.schedule)]
        return [Choice(kind, 0, front_of(candidates[kind][0], self.row_tokens, self.row_tokens))]

    def weight(self, document: WaitingDocument, tokens: int) -> float:
        return 1.0


def kind_schedule(ratio: Mapping[Kind, int]) -> list[Kind]:
    """The order of the kinds: each as often as in the ratio and spread as evenly as possible."""
    total = sum(ratio.values())
    divisor = gcd(*ratio.values())
    turns: list[Kind] = []
    counts = dict.fromkeys(ratio, 0)
    for number in range(1, total // divisor + 1):
        next_kind = max(ratio, key=lambda kind: ratio[kind] * number - counts[kind] * total)
        counts[next_kind] += 1
        turns.append(next_kind)
    return turns
