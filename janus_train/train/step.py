"""One training step, from packed rows to changed weights. Read `train_step` first: it is all of the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from janus_train.data.sample import Batch
from janus_train.model.loss import LossSums
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


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Sequence[Batch],
    distributed: Distributed,
    gradient_clip: float,
) -> StepResult:
    """Forward and backward over this rank's micro-batches, then one update with the mean over all loss tokens.

    The denominator is the step's number of loss tokens over all micro-batches and ranks, known before the first forward:
    so neither accumulation nor the number of ranks changes the update.
    """
    [num_loss_tokens] = distributed.sum([float(sum(batch.num_loss_tokens for batch in micro_batches))])
    # Gradients are averaged over ranks on the way back: times world_size makes that the sum it has to be.
    scale = distributed.world_size / max(1.0, num_loss_tokens)

    totals = [0.0] * 6
    optimizer.zero_grad(set_to_none=True)
    for number, batch in enumerate(micro_batches):
        with distributed.accumulate(model, last=number == len(micro_batches) - 1), distributed.accelerator.autocast():
            sums: LossSums = model(batch.to(distributed.device))
            (sums.total * scale).backward()
        totals = [total + value for total, value in zip(totals, _values(sums), strict=True)]

    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    grad_norm = float(torch.nn.utils.clip_grad_norm_(trainable, gradient_clip))
    totals = distributed.sum(totals)
    loss = sum(totals[:3]) / max(1.0, num_loss_tokens)
    # The norm is of averaged gradients, so it is the same on all ranks, as is the summed loss: all agree.
    applied = math.isfinite(loss) and math.isfinite(grad_norm)
    if applied:
        optimizer.step()

    kinds = ("text", "understanding", "generation")
    by_kind = {kind: totals[i] / totals[i + 3] if totals[i + 3] else None for i, kind in enumerate(kinds)}
    return StepResult(loss, by_kind, int(num_loss_tokens), grad_norm, applied)


def _values(sums: LossSums) -> list[float]:
    losses = torch.stack([sums.text, sums.understanding, sums.generation]).detach().tolist()
    return [*losses, float(sums.num_text), float(sums.num_understanding), float(sums.num_generation)]
