"""Sums and counts by kind; never a mean, never a NaN."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from janus_train.model.losses import cross_entropies, loss_sums


def test_sums_are_split_by_the_kind_of_the_sample() -> None:
    g = torch.Generator().manual_seed(0)
    text_logits, text_targets = torch.randn(7, 11, generator=g), torch.randint(0, 11, (7,), generator=g)
    image_logits, image_targets = torch.randn(5, 13, generator=g), torch.randint(0, 13, (5,), generator=g)
    understanding = torch.tensor([True, False, False, True, True, False, True])
    losses = F.cross_entropy(text_logits, text_targets, reduction="none")
    sums = loss_sums(losses.sum(), losses, understanding, 4, cross_entropies(image_logits, image_targets))
    torch.testing.assert_close(sums.understanding, losses[understanding].sum())
    torch.testing.assert_close(sums.text, losses[~understanding].sum())
    torch.testing.assert_close(sums.generation, F.cross_entropy(image_logits, image_targets, reduction="sum"))
    torch.testing.assert_close(sums.total, losses.sum() + sums.generation)
    assert (sums.num_understanding, sums.num_text, sums.num_generation, sums.num_total) == (4, 3, 5, 12)
    assert all(type(n) is int for n in (sums.num_understanding, sums.num_text, sums.num_generation))


def test_nothing_to_learn_is_zero() -> None:
    logits = torch.randn(0, 11, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    losses = cross_entropies(logits, none)
    sums = loss_sums(losses.sum(), losses, none.bool(), 0, cross_entropies(torch.randn(0, 13), none))
    sums.total.backward()
    assert sums.total.item() == 0.0 and sums.num_total == 0
    assert logits.grad is not None and logits.grad.shape == (0, 11)


def test_bf16_logits_are_summed_in_fp32() -> None:
    """4,000 losses of about 7 in bf16 would stop growing long before 28,000."""
    logits = torch.zeros(4000, 1024, dtype=torch.bfloat16)
    losses = cross_entropies(logits, torch.zeros(4000, dtype=torch.int64))
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.sum(), 4000 * torch.tensor(1024.0).log())
