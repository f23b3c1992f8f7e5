"""Models without memory: what is made later is what a model built in memory has, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from janus_train.model import meta_init
from janus_train.model.build import build
from janus_train.model.meta_init import RecordedInit, allocate, fill, without_weights
from tests.helpers import config_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("chunk", [16, 1 << 10, 1 << 24])
def test_each_tensor_and_the_random_state_are_those_of_a_model_built_in_memory(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(meta_init, "_CHUNK", chunk)
    config = config_of("+stage=1", "model.text.num_hidden_layers=1", "model.vision.num_hidden_layers=1").model
    torch.manual_seed(3)
    expected, expected_state = build(config, pad=2), torch.get_rng_state()
    torch.manual_seed(3)
    with without_weights(), RecordedInit() as init:
        janus = build(config, pad=2)
    assert torch.equal(torch.get_rng_state(), expected_state)
    assert all(parameter.is_meta for parameter in janus.parameters())
    for name, parameter in janus.named_parameters():
        if name != "model.generation_embeddings.weight":  # a copy of the codebook, which has no values yet
            assert torch.equal(init.tensor(parameter), expected.get_parameter(name)), name
    assert torch.equal(torch.get_rng_state(), expected_state)
    with pytest.raises(AssertionError, match="copies values that do not exist"):
        init.tensor(janus.model.generation_embeddings.weight)


@pytest.mark.parametrize("size", [1, 15, 16, 31, 32, 33, 47, 48, 1000])
def test_draws_in_chunks_are_the_draws_at_once(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(meta_init, "_CHUNK", 32)
    for draw in ("normal_", "uniform_"):
        torch.manual_seed(1)
        getattr(torch.empty(size), draw)()
        expected = torch.rand(3)
        torch.manual_seed(1)
        with RecordedInit():
            getattr(torch.empty(size, device="meta"), draw)()
        assert torch.equal(torch.rand(3), expected)


def test_changes_of_a_part_of_a_tensor_are_made_again() -> None:
    @torch.no_grad()
    def init(tensor: torch.Tensor) -> None:
        nn.init.xavier_uniform_(tensor)
        tensor.erfinv_().add_(1)
        tensor[1].zero_()
        tensor[:, 2].mul_(3)

    torch.manual_seed(0)
    expected = torch.empty(4, 5)
    init(expected)
    torch.manual_seed(0)
    with RecordedInit() as recorded:
        meta = torch.empty(4, 5, device="meta")
        init(meta)
    assert torch.equal(recorded.tensor(meta), expected)


def test_buffers_and_what_has_values_keep_them() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2, dtype=torch.bfloat16)
            self.register_buffer("table", torch.arange(3.0), persistent=False)
            self.same = self.table

    with without_weights():
        model = Model()
    model.adapter = nn.Linear(2, 2)
    model.linear.weight.requires_grad_(False)
    adapter = model.adapter.weight.detach().clone()
    assert allocate(model, CPU) == {"linear.weight", "linear.bias"}
    assert torch.equal(model.table, torch.arange(3.0)) and torch.equal(model.adapter.weight, adapter)
    assert not model.linear.weight.requires_grad and model.linear.bias.requires_grad


def test_values_are_rounded_to_the_type_of_the_weights() -> None:
    with without_weights():
        model = nn.Linear(2, 2, dtype=torch.bfloat16)
    values = {"weight": torch.randn(2, 2), "bias": torch.randn(2)}
    fill(model, values, CPU)
    assert all(torch.equal(tensor, values[name].bfloat16()) for name, tensor in model.state_dict().items())
