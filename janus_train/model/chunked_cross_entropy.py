"""The text head's cross-entropy in chunks of positions, without all logits at once, and with gradients in the same pass.

    hidden states (Nt, D), targets (Nt,) -> the sum of the cross-entropies, with gradient, and each of them (Nt,), without gradient

A vocabulary of 102,400 makes the head's logits the largest tensor of a step: 1.7 GB in fp32 over 4096 positions, three
times that in backward. Here only those of a chunk exist (`chunk_positions`), and a part of them in fp32 (`LOGITS`). Every
chunk computes its logits, its losses and, in the logits' place, their gradients, and from these both gradients, which
backward only scales: the same three products as without chunks, none repeated.

The gradient of the weight is a chunk's largest result (0.84 GB in fp32 for the 1B), so chunks on a GPU are large, most
micro-batches have one, and the first writes its product where the gradient stays. Later ones add to it inside their
product (``addmm`` with a bf16 input and an fp32 sum, on CUDA).

torch's own ``F.linear_cross_entropy`` works in the same way and took the same time (benchmarks/text_loss.md), but in
bf16 it adds up losses and weight gradients as bf16, from chunk to chunk, and gives one sum where two kinds are logged.

The computation is the head's own ``forward``, because some backends gather a module's weights around its call. The head
stays an ``nn.Linear`` under its own name; called without targets it returns logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import JanusForConditionalGeneration

LOGITS = 1 << 26
"""Number of logits that exist in fp32 at a time, 256 MiB, and on a CPU those of a chunk."""
CUDA_CHUNK_BYTES = 1 << 30
"""Size of a chunk's logits on CUDA, in the products' type: 5120 positions of the paper's vocabulary in bf16."""
CUDA_TILE = 128
"""Positions of a chunk on CUDA are a multiple of this, so that products end with full tiles."""

LogitsToGrads = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TextHead:
    """A linear layer's forward: logits, or their loss if there are targets."""

    def __init__(self, head: nn.Linear) -> None:
        assert head.bias is None, "Janus' text head has no bias"
        self._head: nn.Linear = head
        self.chunked: bool = True
        """False: the loss is made from all logits at once, by `losses.cross_entropies`, and calls must not pass targets."""
        self.logits_to_grads: LogitsToGrads = logits_to_grads

    def __call__(self, hidden_ND: torch.Tensor, targets_N: torch.Tensor | None = None) -> Any:
        if targets_N is None:
            return F.linear(hidden_ND, self._head.weight)
        return chunked_loss(hidden_ND, self._head.weight, targets_N, self.logits_to_grads)


def install_text_head(head: nn.Linear) -> None:
    """Replaces the forward of ``head`` by a `TextHead`, once."""
    if not isinstance(head.forward, TextHead):
        head.forward = TextHead(head)  # type: ignore[assignment, method-assign]


def text_head(janus: JanusForConditionalGeneration) -> TextHead:
    """Returns the forward of a prepared model's text head."""
    forward = janus.lm_head.forward
    assert isinstance(forward, TextHead)
    return forward


def chunked_loss(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, targets_N: torch.Tensor, pointwise: LogitsToGrads | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the sum over n positions (fp32 scalar, differentiable once) and the cross-entropies (n,) in fp32; n may be 0.

    Products are in autocast's type if autocast is on, else in the weight's type.
    """
    device = hidden_ND.device.type
    compute_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
    needs_grad = [torch.is_grad_enabled() and tensor.requires_grad for tensor in (hidden_ND, weight_VD)]
    total, losses = _ChunkedLoss.apply(
        hidden_ND, weight_VD, targets_N, compute_dtype, needs_grad, pointwise or logits_to_grads
    )
    return total, losses


def logits_to_grads(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """Returns the fp32 cross-entropies (n,) of logits (n, V), and puts their gradients in the logits' place."""
    log_p_NV = F.log_softmax(logits_NV, dim=-1, dtype=torch.float32)
    losses_N = F.nll_loss(log_p_NV, targets_N, reduction="none")
    grads_NV = log_p_NV.exp_()
    grads_NV.scatter_add_(1, targets_N[:, None], grads_NV.new_full((len(targets_N), 1), -1.0))
    logits_NV.copy_(grads_NV)
    return losses_N


def chunk_positions(vocabulary: int, on_cuda: bool, logit_bytes: int) -> tuple[int, int]:
    """The number of positions of a chunk, and of the parts of it that go through fp32 at a time."""
    part = max(1, LOGITS // vocabulary)
    if not on_cuda:
        return part, part
    chunk = CUDA_CHUNK_BYTES // (vocabulary * logit_bytes)
    return max(1, chunk // CUDA_TILE) * CUDA_TILE, max(1, part // CUDA_TILE) * CUDA_TILE


def add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor, first: bool) -> None:
    """Adds ``a @ b`` to ``total``, or writes it there if ``first``; ``total`` may be fp32 if the factors are bf16."""
    if total.dtype == a.dtype:
        torch.mm(a, b, out=total) if first else torch.addmm(total, a, b, out=total)
    elif total.is_cuda:
        if first:
            torch.mm(a, b, out_dtype=total.dtype, out=total)
        else:
            torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    elif first:
        total.copy_(a @ b)
    else:
        total += a @ b


class _ChunkedLoss(torch.autograd.Function):
    """Computes losses and gradients in one pass. All positions weigh the same, so backward is a multiplication."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_N: torch.Tensor,
        compute_dtype: torch.dtype,
        needs_grad: list[bool],
        pointwise: LogitsToGrads,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        num_positions, vocabulary = len(hidden_ND), len(weight_VD)
        losses_N = torch.empty(num_positions, dtype=torch.float32, device=hidden_ND.device)
        # The gradient of the weight adds up in fp32, whatever its own type and the products'.
        hidden_grad = torch.empty_like(hidden_ND, dtype=compute_dtype) if needs_grad[0] else None
        make_grad = torch.empty_like if num_positions else torch.zeros_like
        weight_grad = make_grad(weight_VD, dtype=torch.float32) if needs_grad[1] else None
        compute_weight_VD = weight_VD.to(compute_dtype)
        chunk_size, part_size = chunk_positions(vocabulary, hidden_ND.is_cuda, compute_dtype.itemsize)
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for start in range(0, num_positions, chunk_size):
                chunk = slice(start, start + chunk_size)
                inputs_nD = hidden_ND[chunk].to(compute_dtype)
                grads_nV = inputs_nD @ compute_weight_VD.T  # logits until the next lines
                for losses, logits, targets in zip(
                    *(x.split(part_size) for x in (losses_N[chunk], grads_nV, targets_N[chunk])), strict=True
                ):
                    losses.copy_(pointwise(logits, targets))
                if hidden_grad is not None:
                    torch.mm(grads_nV, compute_weight_VD, out=hidden_grad[chunk])
                if weight_grad is not None:
                    add_product(weight_grad, grads_nV.T, inputs_nD, first=start == 0)
                del grads_nV  # before those of the next chunk are made
        ctx.gradients = hidden_grad, weight_grad
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the chunked text loss keeps its gradients for one backward")
        hidden_grad, weight_grad = ctx.gradients
        ctx.gradients = None
        for gradient in (hidden_grad, weight_grad):
            if gradient is not None:
                gradient.mul_(grad_output)
        return hidden_grad, weight_grad, None, None, None, None
