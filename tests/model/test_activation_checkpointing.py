"""Checkpointed layers: same losses, same gradients, fewer activations; in eval mode, compiled, and not in drawing."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from transformers import JanusForConditionalGeneration

from janus_train.config import ActivationCheckpointing, Part
from janus_train.model import activation_checkpointing
from janus_train.model.activation_checkpointing import checkpoint_layers
from janus_train.model.janus import PackedJanus
from janus_train.model.parts import set_trainable
from tests.model.reference import Documents, to_batch
from tests.model.test_packing import STAGES

POLICIES: tuple[ActivationCheckpointing, ...] = ("selective", "full")


def losses_and_gradients(
    janus: JanusForConditionalGeneration, documents: Documents, parts: tuple[Part, ...]
) -> dict[str, torch.Tensor]:
    set_trainable(janus, parts)
    janus.zero_grad()
    sums = PackedJanus(janus)(to_batch(documents))
    sums.total.backward()
    found = {name: getattr(sums, name).detach() for name in ("text", "understanding", "generation")}
    return found | {n: p.grad.clone() for n, p in janus.named_parameters() if p.grad is not None}


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert (actual[name] - value).abs().max() <= 1e-5 * value.abs().max(), name


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stage", STAGES)
def test_losses_and_gradients_are_the_plain_ones(
    janus: JanusForConditionalGeneration, documents: Documents, stage: int, policy: ActivationCheckpointing
) -> None:
    plain = losses_and_gradients(copy.deepcopy(janus), documents, STAGES[stage])
    checkpoint_layers(janus, policy)
    assert_same(losses_and_gradients(janus, documents, STAGES[stage]), plain)


def test_a_layer_runs_again_in_backward_even_when_frozen_and_in_eval_mode(
    janus: JanusForConditionalGeneration, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 1, where transformers' own switch does nothing: two layers, each once forward and once again."""
    calls: list[int] = []
    layer = type(janus.model.language_model.layers[0])
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda self, *a, **k: calls.append(1) or forward(self, *a, **k))
    checkpoint_layers(janus, "full")
    losses_and_gradients(janus, documents, STAGES[1])
    assert not janus.model.language_model.layers[0].training and len(calls) == 4


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts matrix products and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.attention = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.products += func in activation_checkpointing._MATRIX_PRODUCTS
        self.attention += func in activation_checkpointing._ATTENTION
        return func(*args, **(kwargs or {}))


def test_selective_repeats_no_product(janus: JanusForConditionalGeneration, documents: Documents) -> None:
    counts = {}
    for policy in ("none", *POLICIES):
        copied = copy.deepcopy(janus)
        checkpoint_layers(copied, cast(Any, policy))
        set_trainable(copied, STAGES[2])
        loss = PackedJanus(copied)(to_batch(documents)).total
        with Products() as counted:
            loss.backward()
        counts[policy] = (counted.products, counted.attention)
    assert counts["selective"] == counts["none"] and counts["none"][1] == 0
    # two layers: q, k, v, o, gate, up; recomputing stops before down, and so do the groups' attention calls it needs
    assert counts["full"][0] == counts["none"][0] + 2 * 6 and counts["full"][1] > 0


@pytest.mark.parametrize("policy", ["none", *POLICIES])
def test_a_compiled_layer_gives_the_same(
    janus: JanusForConditionalGeneration, documents: Documents, policy: ActivationCheckpointing
) -> None:
    plain = losses_and_gradients(copy.deepcopy(janus), documents, STAGES[2])
    checkpoint_layers(janus, policy)
    torch._dynamo.reset()
    for layer in janus.model.language_model.layers:
        layer.compile(backend="aot_eager")
    assert_same(losses_and_gradients(janus, documents, STAGES[2]), plain)
    torch._dynamo.reset()


def test_drawing_and_saving_see_the_plain_model(janus: JanusForConditionalGeneration) -> None:
    """With a cache, which a checkpoint would write twice; and with the names that files have."""
    names = list(janus.state_dict())
    ids = torch.randint(6, 97, (2, 9), generator=torch.Generator().manual_seed(0))
    before = janus.generate(ids, max_new_tokens=8, do_sample=False)
    checkpoint_layers(janus, "full")
    assert torch.equal(janus.generate(ids, max_new_tokens=8, do_sample=False), before)
    assert list(janus.state_dict()) == names
