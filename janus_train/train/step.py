"""One training step, from packed rows to changed weights. Read `train_step` first: it is all of the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from janus_train.data.sample import Batch
from janus_train.model.losses import LossSums
from janus_train.train.backends import Backend
from janus_train.train.distributed import Distributed


@dataclass(frozen=True)
class StepResult:
    """Of the whole step, over all ranks. A loss is a mean over its tokens; None if there were none of the kind."""

    loss: float
    loss_by_kind: dict[str, float | None]
    num_loss_tokens: int
    grad_norm: float
    applied: bool
    """False: loss or gradient was not finite, the weights are as before."""


SKIPPED = StepResult(math.nan, dict.fromkeys(("text", "understanding", "generation")), 0, math.nan, applied=False)
"""Of a step that was not computed at all (``run.skip_steps``)."""


def train_step(
    backend: Backend, micro_batches: Sequence[Batch], distributed: Distributed, gradient_clip: float
) -> StepResult:
    """Forward and backward over this rank's micro-batches, then one update with the mean over all loss tokens.

    The denominator is the step's number of loss tokens over all micro-batches and ranks, known before the first forward:
    so neither accumulation nor the number of ranks changes the update.
    """
    [num_loss_tokens] = distributed.sum([float(sum(batch.num_loss_tokens for batch in micro_batches))])
    # Gradients are averaged over ranks on the way back: times world_size makes that the sum it has to be.
    scale = distributed.world_size / max(1.0, num_loss_tokens)

    values: list[tuple[torch.Tensor, list[float]]] = []
    backend.zero_grad()
    for number, batch in enumerate(micro_batches):
        with backend.accumulate(last=number == len(micro_batches) - 1):
            with distributed.autocast():
                sums: LossSums = backend.model(batch.to(distributed.device))
            backend.backward(sums.total * scale)
        values.append(_values(sums))

    totals = distributed.sum(_added(values))
    loss = sum(totals[:3]) / max(1.0, num_loss_tokens)
    grad_norm, applied = backend.update(gradient_clip, finite=math.isfinite(loss))

    kinds = ("text", "understanding", "generation")
    by_kind = {kind: totals[i] / totals[i + 3] if totals[i + 3] else None for i, kind in enumerate(kinds)}
    return StepResult(loss, by_kind, int(num_loss_tokens), grad_norm, applied)


def _values(sums: LossSums) -> tuple[torch.Tensor, list[float]]:
    """Losses (3,), left on the device so that the next micro-batch need not wait for this one; and their counts."""
    losses = torch.stack([sums.text, sums.understanding, sums.generation]).detach()
    return losses, [float(sums.num_text), float(sums.num_understanding), float(sums.num_generation)]


def _added(values: Sequence[tuple[torch.Tensor, list[float]]]) -> list[float]:
    """Three losses and three counts over the micro-batches; waits for the device, once a step."""
    losses = torch.stack([losses for losses, _ in values]).tolist()
    each = [[*three, *counts] for three, (_, counts) in zip(losses, values, strict=True)]
    return [sum(column) for column in zip(*each, strict=True)]
