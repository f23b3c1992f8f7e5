"""One training step, from packed rows to changed weights. Read `train_step` first: it is all of the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from janus_train.data.batch import Batch
from janus_train.data.micro_batches import MicroBatches
from janus_train.model.loss_totals import LossTotals
from janus_train.model.losses import LossSums
from janus_train.train.backends import Backend


@dataclass(frozen=True)
class StepResult:
    """What a step did, as one rank knows it: ``grad_norm`` and ``applied`` are the same on all ranks."""

    losses: LossTotals
    """This rank's share."""
    grad_norm: float
    applied: bool
    """False: loss or gradient was not finite, the weights are as before."""


def train_step(
    backend: Backend,
    micro_batches: Sequence[Batch] | MicroBatches,
    num_loss_tokens: int,
    gradient_clip: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> StepResult:
    """Forward and backward over this rank's micro-batches, then one update with the mean over all loss tokens.

    ``num_loss_tokens`` is the denominator: the loss tokens of the whole step, over all micro-batches and ranks. It is
    known before the first forward, so neither accumulation nor the number of ranks changes the update.

    Until the update nothing waits for the device. ``meanwhile`` is called there, once all the work is handed to it.
    """
    group = backend.distributed
    # Gradients are averaged over ranks on the way back; times world_size makes that the sum it has to be.
    scale = group.world_size / max(1, num_loss_tokens)

    losses: list[LossSums] = []
    backend.zero_grad()
    for number, batch in enumerate(micro_batches):
        with backend.accumulate(last=number == len(micro_batches) - 1):
            with group.autocast():
                sums: LossSums = backend.model(batch.to(group.device))
            # 0 * loss: a loss that is not finite makes its gradients NaN, and their norm tells every rank.
            backend.backward(sums.total * (scale + 0 * sums.total.detach()))
        losses.append(sums)

    totals = TotalsOnTheWay(losses)
    meanwhile()
    grad_norm, applied = backend.update(gradient_clip)
    if applied:
        backend.update_average()
    return StepResult(totals.read(), grad_norm, applied)


class TotalsOnTheWay:
    """The sums over the micro-batches. Their copy to the host starts here, so that reading it does not wait for the update."""

    def __init__(self, losses: Sequence[LossSums]):
        self._losses = losses
        sums = torch.stack([torch.stack([s.text, s.understanding, s.generation]).detach() for s in losses])  # (n, 3)
        self._sums = sums.double().sum(dim=0).to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if sums.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def read(self) -> LossTotals:
        if self._copied is not None:
            self._copied.synchronize()
        text, understanding, generation = self._sums.tolist()
        return LossTotals(
            {"understanding": understanding, "text": text, "generation": generation},
            {
                "understanding": sum(s.num_understanding for s in self._losses),
                "text": sum(s.num_text for s in self._losses),
                "generation": sum(s.num_generation for s in self._losses),
            },
        )
