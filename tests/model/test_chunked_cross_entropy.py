"""The chunked text loss against the plain one: losses, gradients, what is alive meanwhile, and what may be asked of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import JanusForConditionalGeneration

from janus_train.model import chunked_cross_entropy
from janus_train.model.chunked_cross_entropy import chunked_loss, install_text_head, text_head
from janus_train.model.janus import PackedJanus
from janus_train.model.parts import set_trainable
from tests.model.reference import Documents, to_batch
from tests.model.test_packing import STAGES


def problem(n: int, vocabulary: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(n, 12, generator=g), torch.randn(vocabulary, 12, generator=g)
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, vocabulary, (n,), generator=g)


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    losses = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    return [losses.detach(), *torch.autograd.grad(0.3 * losses.sum(), (hidden, weight))]


def chunked(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    total, losses = chunked_loss(hidden, weight, targets)
    torch.testing.assert_close(total.detach(), losses.sum())
    return [losses, *torch.autograd.grad(0.3 * total, (hidden, weight))]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 20), st.integers(1, 30), st.integers(1, 200), st.integers(0, 1 << 30))
def test_any_chunks_give_the_plain_losses_and_gradients(n: int, vocabulary: int, logits: int, seed: int) -> None:
    given_ = problem(n, vocabulary, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_cross_entropy, "LOGITS", logits)
        for actual, expected in zip(chunked(*given_), plain(*given_), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trains", [(True, False), (False, True)], ids=["head frozen", "hidden frozen"])
def test_what_is_frozen_gets_no_gradient_and_costs_none(trains: tuple[bool, bool]) -> None:
    hidden, weight, targets = problem(9, 31)
    expected = plain(hidden, weight, targets)[1:]
    hidden.requires_grad_(trains[0])
    weight.requires_grad_(trains[1])
    with FlopCounterMode(display=False) as counted:
        total, _ = chunked_loss(hidden, weight, targets)
        (0.3 * total).backward()
    assert counted.get_total_flops() == 2 * (2 * 9 * 12 * 31)  # logits, and one gradient
    for tensor, gradient, trained in zip((hidden, weight), expected, trains, strict=True):
        assert (tensor.grad is None) != trained
        if trained:
            torch.testing.assert_close(tensor.grad, gradient, rtol=1e-5, atol=1e-6)


def test_bf16_products_leave_losses_and_the_weights_gradient_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against fp32 by norm, over many chunks; and as near to it as the plain way under autocast."""
    monkeypatch.setattr(chunked_cross_entropy, "LOGITS", 40 * 64)
    g = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(2000, 32, generator=g), 0.3 * torch.randn(64, 32, generator=g)
    targets = torch.randint(0, 64, (2000,), generator=g)
    exact = plain(hidden.requires_grad_(), weight.requires_grad_(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        rough = chunked(hidden, weight, targets)
    for actual, expected in zip(rough, exact, strict=True):
        assert actual.dtype == torch.float32
        assert (actual - expected).norm() <= 1e-2 * expected.norm()
    assert (rough[0].sum() - exact[0].sum()).abs() <= 1e-4 * exact[0].sum(), "a sum in bf16 would stop growing"


def test_never_more_logits_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_cross_entropy, "LOGITS", 70)
    num_logits: list[int] = []

    def watched(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        num_logits.append(logits.numel())
        return chunked_cross_entropy.losses_and_grads(logits, targets)

    chunked_loss(*problem(13, 30), watched)
    assert num_logits == [60] * 6 + [30]


def test_without_gradients_there_are_losses_alone() -> None:
    hidden, weight, targets = problem(5, 7)
    with torch.no_grad():
        total, losses = chunked_loss(hidden, weight, targets)
    assert not total.requires_grad
    torch.testing.assert_close(losses, plain(hidden, weight, targets)[0])


def test_a_second_backward_is_refused() -> None:
    total, _ = chunked_loss(*problem(5, 7))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward"):
        total.backward()


def test_the_head_stays_a_linear_layer() -> None:
    head = nn.Linear(12, 7, bias=False)
    before, names = head(torch.ones(2, 12)), list(head.state_dict())
    install_text_head(head)
    forward = head.forward
    install_text_head(head)
    assert head.forward is forward and type(head) is nn.Linear and list(head.state_dict()) == names
    assert torch.equal(head(torch.ones(2, 12)), before)


@pytest.mark.parametrize("stage", STAGES)
def test_a_models_losses_and_gradients_are_those_of_all_logits(
    janus: JanusForConditionalGeneration, documents: Documents, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_cross_entropy, "LOGITS", 5 * 97)
    set_trainable(janus, STAGES[stage])
    found = []
    for whole in (True, False):
        janus.zero_grad()
        text_head(janus).chunked = not whole
        sums = PackedJanus(janus)(to_batch(documents))
        sums.total.backward()
        by_kind = {name: getattr(sums, name).detach() for name in ("total", "text", "understanding", "generation")}
        found.append(by_kind | {n: p.grad.clone() for n, p in janus.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        # a key's bias moves all of a query's scores alike: its gradient is rounding alone, beside the query's
        scale = found[0][name.replace("k_proj.bias", "q_proj.bias")].abs().max()
        assert (found[1][name] - value).abs().max() <= 1e-5 * scale, name
