"""The official checkpoint's names map onto transformers' model one to one, shapes included, and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from janus_train.interop.official import VQ, from_official, is_extra, official_name, to_official, transformers_name
from janus_train.interop.official_config import VQ_16, vq_shape
from janus_train.interop.write import extra_shapes
from janus_train.model.build import build
from tests.model.model_configs import model_config

SHAPES = json.loads((Path(__file__).parents[1] / "golden" / "official_state_dict_shapes.json").read_text())
"""What the official code's own model holds: the real encoders, a small language model."""


@pytest.fixture(scope="module")
def model():
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 1000}
    with torch.device("meta"):
        return build(model_config("janus_pro_1b", text={**text, "num_attention_heads": 4, "num_key_value_heads": 4}))


def shapes(pairs) -> dict[str, tuple[int, ...]]:
    pairs = list(pairs)
    assert len({name for name, _ in pairs}) == len(pairs), "two tensors for one place"
    return {name: tuple(tensor.shape) for name, tensor in pairs}


def test_every_official_tensor_finds_its_place(model) -> None:
    official = [(name, torch.empty(shape, device="meta")) for name, shape in SHAPES.items()]
    assert shapes(from_official(official)) == {n: tuple(t.shape) for n, t in model.state_dict().items()}


def test_every_tensor_of_ours_finds_the_official_place(model) -> None:
    made = shapes(to_official(model.state_dict().items()))
    extras = extra_shapes(model.config)
    assert extras.pop("gen_vision_model.quantize.codebook_used") == (65536,)  # a buffer: not among the golden shapes
    assert made | extras == {name: tuple(shape) for name, shape in SHAPES.items()}


def test_the_vq_tokenizers_shape_is_read_from_its_tensors() -> None:
    """LlamaGen's VQ-16 has these names and shapes; `assemble` has nothing else to go by."""
    assert vq_shape({name: tuple(shape) for name, shape in SHAPES.items()}, VQ) == VQ_16


def test_q_k_and_v_come_apart_in_this_order_and_together_from_any() -> None:
    name = "vision_model.vision_tower.blocks.3.attn.qkv.bias"
    parts = dict(from_official([(name, torch.arange(6))]))
    prefix = "model.vision_model.encoder.layers.3.self_attn"
    assert {k: v.tolist() for k, v in parts.items()} == {
        f"{prefix}.q_proj.bias": [0, 1],
        f"{prefix}.k_proj.bias": [2, 3],
        f"{prefix}.v_proj.bias": [4, 5],
    }
    shuffled = [(f"{prefix}.{letter}_proj.bias", parts[f"{prefix}.{letter}_proj.bias"]) for letter in "vqk"]
    assert [(n, t.tolist()) for n, t in to_official(shuffled)] == [(name, [0, 1, 2, 3, 4, 5])]
    with pytest.raises(ValueError, match=r"q, k and v are not complete for .*layers\.3"):
        list(to_official(shuffled[:2]))


def test_deeper_adaptors_have_names_too() -> None:
    assert transformers_name("gen_aligner.layers.4.weight") == "model.generation_aligner.hidden_layers.1.weight"
    assert official_name("model.aligner.hidden_layers.2.bias") == "aligner.layers.6.bias"


def test_what_is_dropped_is_known() -> None:
    dropped = {name for name in SHAPES if is_extra(name)}
    assert dropped and all("attn_pool" in name for name in dropped)
    assert not list(from_official([("gen_vision_model.quantize.codebook_used", torch.zeros(1))]))


@pytest.mark.parametrize(
    "name", ["language_model.model_norm", "vision_model.vision_tower.cls", "head.weight", "aligner.layers.1.weight"]
)
def test_an_unknown_name_raises(name: str) -> None:
    with pytest.raises(ValueError, match="not a name in an official"):
        transformers_name(name)
    with pytest.raises(ValueError, match="no place in the official"):
        official_name(name)
