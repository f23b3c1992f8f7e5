"""The chunked text loss against the plain one: losses, gradients, what is alive meanwhile, and what may be asked of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
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

    def watched(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        num_logits.append(logits.numel())
        return chunked_cross_entropy.logits_to_grads(logits, targets)

    chunked_loss(*problem(13, 30), watched)
    assert num_logits == [60] * 6 + [30]


def test_a_chunk_on_cuda_is_1_gb_of_logits_in_full_tiles() -> None:
    for vocabulary, logit_bytes in ((102400, 2), (102400, 4), (32003, 2), (1 << 24, 4)):
        chunk, part = chunked_cross_entropy.chunk_positions(vocabulary, True, logit_bytes)
        assert chunk % 128 == part % 128 == 0 and part <= chunk
        assert chunk == 128 or 0.9 * 2**30 < chunk * vocabulary * logit_bytes <= 2**30
    assert chunked_cross_entropy.chunk_positions(102400, True, 2) == (5120, 640)
    assert chunked_cross_entropy.chunk_positions(102400, False, 4) == (655, 655)


class Products(TorchDispatchMode):
    """Records the matrix products and where their results go; those that a CPU does not have are made in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function._schema.name in ("aten::mm", "aten::addmm"):
            self.calls.append(f"{function._schema.name[6:]}.{function._overloadname}")
            if function._overloadname == "dtype_out":
                *factors, dtype = args
                assert kwargs["out"].dtype == dtype == torch.float32
                assert all(factor.dtype == torch.bfloat16 for factor in factors[-2:])
                product = factors[-2].float() @ factors[-1].float()
                return kwargs["out"].copy_(product if len(factors) == 2 else product + factors[0])
        return function(*args, **kwargs)


@pytest.mark.parametrize("num_positions", [200, 300], ids=["one chunk", "two chunks"])
def test_on_cuda_the_weights_gradient_is_written_once_and_added_to_inside_later_products(
    num_positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's branches on a CPU: no product leaves a bf16 copy of the gradient, and no zeros are filled in and read."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(chunked_cross_entropy, "CUDA_CHUNK_BYTES", 256 * 31 * 2)
    monkeypatch.setattr(chunked_cross_entropy, "LOGITS", 128 * 31)
    hidden, weight, targets = problem(num_positions, 31)
    exact = plain(hidden, weight, targets)
    with torch.autocast("cpu", torch.bfloat16), Products() as products:
        total, losses = chunked_loss(hidden, weight, targets)
    rough = [losses, *torch.autograd.grad(0.3 * total, (hidden, weight))]
    for actual, expected in zip(rough, exact, strict=True):
        assert (actual - expected).norm() <= 1e-2 * expected.norm()
    first, later = ("mm.default", "mm.out", "mm.dtype_out"), ("mm.default", "mm.out", "addmm.dtype_out")
    assert tuple(products.calls) == (first + later if num_positions > 256 else first)


def test_the_first_product_of_cuda_has_the_shapes_and_types_that_torch_expects() -> None:
    """torch's own rules, on tensors without data; it has none for later ones."""
    with FakeTensorMode():
        total = torch.empty(64, 12, device="cuda")
        grads, hidden = (torch.empty(9, size, device="cuda", dtype=torch.bfloat16) for size in (64, 12))
        chunked_cross_entropy.add_product(total, grads.T, hidden, first=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_many_chunks_in_bf16_are_near_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_cross_entropy, "CUDA_CHUNK_BYTES", 256 * 64 * 2)
    g = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(700, 32, generator=g), 0.3 * torch.randn(64, 32, generator=g)
    targets = torch.randint(0, 64, (700,), generator=g)
    exact = plain(hidden.requires_grad_(), weight.requires_grad_(), targets)
    hidden, weight, targets = (x.detach().cuda() for x in (hidden, weight, targets))
    with torch.autocast("cuda", torch.bfloat16):
        rough = chunked(hidden.requires_grad_(), weight.requires_grad_(), targets)
    for actual, expected in zip(rough, exact, strict=True):
        assert actual.dtype == torch.float32
        assert (actual.cpu() - expected).norm() <= 1e-2 * expected.norm()


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
