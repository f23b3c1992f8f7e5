"""Losses as plain numbers, so that they can be summed over micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from janus_train.data.types import KINDS, Kind
from janus_train.model.losses import LossSums


@dataclass(frozen=True)
class LossTotals:
    """Sums of cross-entropies (nats) and numbers of targets per kind, for one rank or for all."""

    sums: dict[Kind, float]
    counts: dict[Kind, int]

    @property
    def mean(self) -> float:
        """The loss: the mean over all targets of all kinds."""
        return sum(self.sums.values()) / max(1, sum(self.counts.values()))

    @property
    def by_kind(self) -> dict[Kind, float | None]:
        """The mean loss per kind; None for a kind without targets."""
        return {kind: self.sums[kind] / self.counts[kind] if self.counts[kind] else None for kind in KINDS}

    @classmethod
    def of(cls, sums: LossSums) -> LossTotals:
        """The numbers of a forward pass; waits for the device."""
        text, understanding, generation = (float(value) for value in (sums.text, sums.understanding, sums.generation))
        return cls(
            {"understanding": understanding, "text": text, "generation": generation},
            {"understanding": sums.num_understanding, "text": sums.num_text, "generation": sums.num_generation},
        )

    @classmethod
    def sum_of(cls, totals: Iterable[LossTotals]) -> LossTotals:
        parts = list(totals)
        return cls(
            {kind: sum(part.sums[kind] for part in parts) for kind in KINDS},
            {kind: sum(part.counts[kind] for part in parts) for kind in KINDS},
        )
