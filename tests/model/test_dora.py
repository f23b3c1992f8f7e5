"""DoRA's layer against peft's own: outputs and gradients, in fp32 and under autocast, with dropout, and its memory."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.dora import DoraLinearLayer
from torch import nn

from janus_train.model import lora_weights
from janus_train.model.activation_checkpointing import _ATTENTION, _keep
from janus_train.model.dora import DoraLayer, use_dora_layers


def layers(dropout: float = 0.0, bias: bool = True) -> tuple[nn.Module, nn.Module]:
    """peft's layer with random adapters, and the same with `DoraLayer`."""
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(24, 40, bias=bias))
    config = LoraConfig(r=3, lora_alpha=5, lora_dropout=dropout, use_dora=True, target_modules=["0"])
    inject_adapter_in_model(config, theirs)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    ours = copy.deepcopy(theirs)
    use_dora_layers(ours)
    assert sum(type(module) is DoraLayer for module in ours.modules()) == 1
    assert sum(type(module) is DoraLinearLayer for module in theirs.modules()) == 1
    return theirs, ours


def outcome(model: nn.Module, autocast: bool = False) -> dict[str, torch.Tensor]:
    x = torch.randn(7, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = model(x)
    y.float().square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None and len(gradients) >= 3
    return {"y": y.detach(), "x": x.grad, **gradients}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("piece", [50, 1 << 22])
def test_it_is_pefts(bias: bool, dropout: float, piece: int) -> None:
    theirs, ours = layers(dropout, bias)
    with mock.patch.object(lora_weights, "_PIECE", piece):
        expected, found = outcome(theirs), outcome(ours)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=name)
    plain = theirs[0].base_layer(torch.zeros(1, 24) + 1)
    assert not torch.allclose(plain, ours.eval()(torch.zeros(1, 24) + 1), atol=1e-2)  # the adapters do something


def test_norms_are_in_fp32_under_autocast() -> None:
    """Where peft rounds the product of A and B to bf16."""
    _, ours = layers()
    exact, found = outcome(copy.deepcopy(ours)), outcome(ours, autocast=True)
    for name, value in exact.items():
        assert (found[name].float() - value).abs().max() < 0.03 * value.abs().max(), name
    layer = ours[0]
    weights = (layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        norms = lora_weights.row_norms(*weights, 5 / 3)
    expected = torch.linalg.norm(weights[0] + 5 / 3 * weights[2] @ weights[1], dim=1)
    assert norms.dtype == torch.float32 and torch.allclose(norms, expected, rtol=1e-6)


def test_a_step_keeps_no_matrix_of_a_weights_size() -> None:
    """What autograd saves: as many numbers as tokens have; a product with the identity matrix would be 24 x 24."""
    _, ours = layers()
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append((t.shape, t.requires_grad)) or t, lambda t: t):
        ours(torch.randn(7, 24))
    assert all(24 not in shape or shape == (7, 24) or is_weight for shape, is_weight in sizes), sizes


def test_selective_checkpointing_keeps_the_norms() -> None:
    from torch.utils.checkpoint import CheckpointPolicy

    assert torch.ops.janus_train.dora_row_norms.default not in _ATTENTION
    norms = torch.ops.janus_train.dora_row_norms.default
    assert _keep(40, None, norms, torch.zeros(4, 40)) is CheckpointPolicy.MUST_SAVE
