"""The VQ tokenizer by its official names: shapes that are given, squares by default, and the two ways back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from janus_train.official.models import MultiModalityCausalLM


@pytest.fixture(scope="module")
def model(folders: dict[str, Path]) -> MultiModalityCausalLM:
    return MultiModalityCausalLM.from_pretrained(folders["official"])


@torch.inference_mode()
def test_shapes(model: MultiModalityCausalLM) -> None:
    codes = torch.randint(0, 53, (2, 16), generator=torch.Generator().manual_seed(0))
    square = model.gen_vision_model.decode_code(codes.int(), shape=[2, 8, 4, 4])
    assert square.shape == (2, 3, 32, 32)
    for same in (
        model.gen_vision_model.decode_code(codes),
        model.gen_vision_model.decode_code(codes.flatten(), shape=[2, 8, 4, 4]),
        model.gen_vision_model.decode_code(codes, shape=[2, 4, 4, 8], channel_first=False),
        model.janus.model.vqmodel.decode(codes),
    ):
        assert torch.equal(same, square)
    assert model.gen_vision_model.decode_code(codes, shape=[2, 8, 2, 8]).shape == (2, 3, 16, 64)


@torch.inference_mode()
def test_what_it_encodes_it_decodes(model: MultiModalityCausalLM) -> None:
    pixels = torch.rand(2, 3, 16, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    quant, _, (_, _, ids) = model.gen_vision_model.encode(pixels)
    assert quant.shape[2:] == (2, 8) and ids.shape == (32,)
    drawn = model.gen_vision_model.decode(quant)
    assert torch.equal(drawn, model.gen_vision_model.decode_code(ids, shape=[2, 8, 2, 8]))
    assert torch.equal(drawn, model.gen_vision_model(pixels)[0])


def test_gradients_pass_the_decoder(model: MultiModalityCausalLM) -> None:
    quant = torch.zeros(1, model.config.gen_vision_config.params.n_embed, 4, 4, requires_grad=True)
    model.gen_vision_model.decode(quant).sum().backward()
    assert quant.grad is not None and quant.grad.any()
