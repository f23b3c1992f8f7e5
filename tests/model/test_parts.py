"""Seven parts: every tensor in exactly one, the sizes of the report, and freezing that is exact."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from transformers import JanusForConditionalGeneration

from janus_train.config import PARTS, Part
from janus_train.model.build import build
from janus_train.model.parts import (
    MODULES,
    PIECE_MODULES,
    is_named,
    parameters_by_part,
    part_digests,
    part_of,
    set_modes,
    set_trainable,
)
from tests.model.model_configs import model_config


def numbers(janus: JanusForConditionalGeneration) -> dict[str, int]:
    return {part: sum(p.numel() for _, p in named) for part, named in parameters_by_part(janus).items()}


@pytest.mark.parametrize("name", ["janus_pro_1b", "janus_pro_7b", "tiny"])
def test_every_tensor_belongs_to_one_part(name: str) -> None:
    with torch.device("meta"):
        janus = build(model_config(name))
    parts = parameters_by_part(janus)
    assert tuple(parts) == PARTS == get_args(Part)
    assert sum(len(named) for named in parts.values()) == len(list(janus.parameters()))
    assert all(parts.values())
    for tensor, _ in (*janus.named_parameters(), *janus.named_buffers()):
        owners = [part for part, modules in MODULES.items() if any(tensor.startswith(f"{m}.") for m in modules)]
        assert owners == [part_of(tensor)]


def test_sizes_of_the_1b_are_the_reports() -> None:
    """Counted from the report: 2.00 B with SigLIP (the frozen VQ tokenizer is not counted there)."""
    with torch.device("meta"):
        janus = build(model_config("janus_pro_1b"))
    count = numbers(janus)
    head = janus.lm_head.weight.numel()
    assert head == janus.get_input_embeddings().weight.numel() and round(head / 1e9, 2) == 0.21
    assert round((count["language_model"] - 2 * head) / 1e9, 2) == 1.23
    assert round(count["image_head"] / 1e6) == 38
    assert round((count["understanding_adaptor"] + count["generation_adaptor"]) / 1e6, -1) == 10
    assert round((sum(count.values()) - count["generation_encoder"]) / 1e9, 2) == 2.00


def test_size_of_the_7b_is_the_reports() -> None:
    with torch.device("meta"):
        count = numbers(build(model_config("janus_pro_7b")))
    assert round((sum(count.values()) - count["generation_encoder"]) / 1e9, 2) == 7.34


@pytest.mark.parametrize(
    "name", ["model.visual.weight", "vision_model.post_layernorm.weight", "lm_head_extra.weight", ""]
)
def test_an_unknown_name_raises(name: str) -> None:
    with pytest.raises(ValueError, match="belongs to no part"):
        part_of(name)


@pytest.mark.parametrize(
    "parts",
    [
        ("understanding_adaptor", "generation_adaptor", "image_head"),
        ("understanding_adaptor", "generation_adaptor", "image_head", "language_model", "understanding_encoder"),
        ("language_model",),
        (),
    ],
)
def test_exactly_the_named_parts_train(janus: JanusForConditionalGeneration, parts: tuple[Part, ...]) -> None:
    set_trainable(janus, tuple(MODULES))
    for parameter in janus.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_trainable(janus, parts)
    for part, named in parameters_by_part(janus).items():
        for name, parameter in named:
            assert parameter.requires_grad == (part in parts), name
            assert (parameter.grad is None) == (part not in parts), "a frozen part keeps no old gradient"
        for root in MODULES[part]:
            assert all(m.training == (part in parts) for m in janus.get_submodule(root).modules())
    janus.train()  # as a trainer does
    set_modes(janus, parts)
    for part, roots in MODULES.items():
        assert all(m.training == (part in parts) for root in roots for m in janus.get_submodule(root).modules())


def test_an_unknown_part_raises(janus: JanusForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match="there is no part vision_encoder"):
        set_trainable(janus, ("vision_encoder",))


@pytest.mark.parametrize("name", ["janus_pro_1b", "tiny"])
def test_every_tensor_of_a_part_with_pieces_belongs_to_one_of_them(name: str) -> None:
    with torch.device("meta"):
        janus = build(model_config(name))
    for part, pieces in PIECE_MODULES.items():
        for tensor, _ in parameters_by_part(janus)[part]:
            owners = [piece for piece in pieces if is_named(tensor, [f"{part}.{piece}"])]
            assert len(owners) == 1, tensor
            layers = [n for n in range(24) if is_named(tensor, [f"{part}.layers.{n}"])]
            assert len(layers) == (owners == ["layers"]), tensor
            for layer in layers:
                assert is_named(tensor, [f"{part}.layers.{layer}-"]) and not is_named(
                    tensor, [f"{part}.layers.{layer + 1}-"]
                )
                assert f".layers.{layer}." in tensor


def test_named_layers_train_and_all_else_is_in_eval_mode(janus: JanusForConditionalGeneration) -> None:
    specs = ("language_model.layers.1-", "language_model.lm_head", "image_head")
    janus.train()
    set_trainable(janus, specs)
    trained = {name for name, parameter in janus.named_parameters() if parameter.requires_grad}
    layers = janus.model.language_model.layers
    modules = {*(f"model.language_model.layers.{n}" for n in range(1, len(layers))), "lm_head", "model.generation_head"}
    assert trained == {name for name, _ in janus.named_parameters() if name.startswith(tuple(f"{m}." for m in modules))}
    for name, module in janus.named_modules():
        inside = any(name == root or name.startswith(f"{root}.") for root in modules)
        assert module.training == inside, name


def test_a_digest_is_that_of_what_is_frozen(janus: JanusForConditionalGeneration) -> None:
    """A change of a trained layer leaves it, a change of another one does not."""
    weights = {name: tensor.detach().clone() for name, tensor in janus.state_dict().items()}

    def digest(changed: str | None = None) -> str:
        changes = {} if changed is None else {changed: weights[changed] + 1}
        return part_digests(weights | changes, ["language_model"], without=["language_model.layers.1-"])[
            "language_model"
        ]

    layer = "model.language_model.layers.{}.mlp.up_proj.weight"
    assert digest() == digest(layer.format(1)) == digest("model.generation_head.vision_head.weight")
    assert digest() != digest(layer.format(0)) and digest() != digest("lm_head.weight")
