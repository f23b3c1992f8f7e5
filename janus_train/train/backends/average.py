"""An exponential moving average of the trained weights (``run.ema``), in fp32 and sharded as the weights are.

It starts at the run's first weights, and after each update moves by ``1 - decay`` of the way towards them. It is one more
value per element beside AdamW's moments: checkpoints save it with them, so it resumes exactly, on any backend and any
number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

AVERAGE = "ema"
"""Its name among a shard's moments, and in checkpoints."""


class WeightAverage:
    """The averages of a rank's shards, in the order of `Backend.local_shards`."""

    def __init__(self, weights: Sequence[torch.Tensor], decay: float):
        self._decay = decay
        self.values = [weight.clone() for weight in weights]

    @torch.no_grad()
    def update(self, weights: Sequence[torch.Tensor]) -> None:
        for value, weight in zip(self.values, weights, strict=True):
            value.lerp_(weight, 1 - self._decay)

    @torch.no_grad()
    def swap(self, weights: Sequence[torch.Tensor]) -> None:
        """Exchange averages and weights, to the bit."""
        for value, weight in zip(self.values, weights, strict=True):
            weight_copy = weight.clone()
            weight.copy_(value)
            value.copy_(weight_copy)
