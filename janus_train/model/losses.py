"""Both losses, as sums of cross-entropies and counts, never as means.

In: the hidden states that carry a loss, already selected, and their targets. Out: fp32 scalars. The step adds up the
sums of all micro-batches and divides once by the whole step's count, so that every loss token weighs the same, and
a micro-batch without any loss is a harmless zero instead of a NaN. Nothing here shifts: position i's target is what the
state at i predicts. The shift is made once, in `data.encode`; a second one would leave code 0 untrained.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F


class LossSums(NamedTuple):
    """Sums of cross-entropies in nats (fp32 scalars), and the number of targets of each.

    It is a tuple, because DDP, DeepSpeed and FSDP look for tensors in the tuples that a forward returns.
    """

    total: torch.Tensor
    """The differentiable sum: all kinds weigh the same, as in the papers. The sums by kind have no gradient, except for
    generation."""
    text: torch.Tensor
    understanding: torch.Tensor
    generation: torch.Tensor
    num_text: int
    num_understanding: int
    num_generation: int

    @property
    def num_total(self) -> int:
        return self.num_text + self.num_understanding + self.num_generation


def cross_entropies(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns fp32 cross-entropies (n,) of logits (n, classes) against targets (n,); n may be 0."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def loss_sums(
    text_total: torch.Tensor,
    text_losses: torch.Tensor,
    text_target_is_understanding: torch.Tensor,
    num_understanding: int,
    image_losses: torch.Tensor,
) -> LossSums:
    """text_losses (Nt,) and their sum with its gradient, text_target_is_understanding (Nt,), image_losses (No * P,) -> sums.

    A text target counts as text or as understanding by the kind of its sample; ``num_understanding`` of them count as
    understanding.
    """
    values = text_losses.detach()
    generation = image_losses.sum()
    return LossSums(
        total=text_total + generation,
        text=values.masked_fill(text_target_is_understanding, 0.0).sum(),
        understanding=values.masked_fill(~text_target_is_understanding, 0.0).sum(),
        generation=generation,
        num_text=values.numel() - num_understanding,
        num_understanding=num_understanding,
        num_generation=image_losses.numel(),
    )
