"""The official checkpoint's names map onto transformers' model one to one, shapes included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from janus_train.interop.official import from_official, is_extra, official_name, to_official, transformers_name

from janus_train.model.janus import build
from tests.model.model_configs import model_config

SHAPES = json.loads((Path(__file__).parents[1] / "golden" / "official_state_dict_shapes.json").read_text())


def test_every_official_tensor_finds_its_place() -> None:
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 1000}
    with torch.device("meta"):
        model = build(model_config("janus_pro_1b", text={**text, "num_attention_heads": 4, "num_key_value_heads": 4}))
        official = [(name, torch.empty(shape)) for name, shape in SHAPES.items()]
    converted = list(convert(official))
    assert len({name for name, _ in converted}) == len(converted), "two tensors for one place"
    assert {name: tuple(t.shape) for name, t in converted} == {n: tuple(t.shape) for n, t in model.state_dict().items()}


def test_q_k_and_v_come_apart_in_this_order() -> None:
    name = "vision_model.vision_tower.blocks.3.attn.qkv.bias"
    parts = dict(convert([(name, torch.arange(6))]))
    prefix = "model.vision_model.encoder.layers.3.self_attn"
    assert {k: v.tolist() for k, v in parts.items()} == {
        f"{prefix}.q_proj.bias": [0, 1],
        f"{prefix}.k_proj.bias": [2, 3],
        f"{prefix}.v_proj.bias": [4, 5],
    }


def test_what_is_dropped_is_known() -> None:
    dropped = {name for name in SHAPES if UNUSED.match(name)}
    assert dropped and all("attn_pool" in name for name in dropped)
    assert not list(convert([("gen_vision_model.quantize.codebook_used", torch.zeros(1))]))


@pytest.mark.parametrize("name", ["language_model.model_norm", "vision_model.vision_tower.cls", "head.weight"])
def test_an_unknown_name_raises(name: str) -> None:
    with pytest.raises(ValueError, match="no name of an official"):
        rename(name)
