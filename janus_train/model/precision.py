"""Keeps weights in bf16: half the memory, with bit-identical forward passes.

Autocast rounds the weights of linear layers and convolutions to bf16 before each use anyway, so the rounded values are
enough to compute with. Trained weights also need their fp32 values, which the backends of ZeRO-1 and -2 keep in shards;
frozen ones do not. Norms and embeddings stay in fp32: autocast does not round them, and they make the residual stream.
The VQ tokenizer stays in fp32 as well, because its codes change if it is rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import nn

from janus_train.config import Part
from janus_train.model.parts import is_lora, part_of

ROUNDED_LAYERS = (nn.Linear, nn.Conv2d)
"""Layers whose weights autocast rounds."""


def cast_frozen_to_bf16(janus: nn.Module, keep: Collection[Part]) -> list[str]:
    """Casts frozen weights of layers that autocast rounds to bf16; returns their names. Parts in ``keep`` do not change."""
    bf16_names = []
    for name, parameter, layer_trains in _rounded_parameters(janus):
        if part_of(name) not in keep and not layer_trains:
            parameter.data = parameter.data.to(torch.bfloat16)
            bf16_names.append(name)
    return bf16_names


def cast_trained_to_bf16(janus: nn.Module) -> dict[str, torch.Tensor]:
    """Casts trained weights of layers that autocast rounds to bf16; returns their fp32 values, by name."""
    fp32_values = {}
    for name, parameter, _ in _rounded_parameters(janus):
        if parameter.requires_grad:
            fp32_values[name] = parameter.data
            parameter.data = parameter.data.to(torch.bfloat16)
    return fp32_values


def _rounded_parameters(janus: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Name and parameter of what autocast rounds, except the VQ tokenizer's and LoRA's, and whether its layer trains."""
    for layer_name, layer in janus.named_modules():
        if not isinstance(layer, ROUNDED_LAYERS) or is_lora(layer_name):
            continue
        if part_of(f"{layer_name}.weight") == "generation_encoder":
            continue
        parameters = dict(layer.named_parameters(recurse=False))
        layer_trains = any(parameter.requires_grad for parameter in parameters.values())
        for name, parameter in parameters.items():
            yield f"{layer_name}.{name}", parameter, layer_trains


def cast_to_bf16(janus: nn.Module) -> None:
    """Casts all weights but the VQ tokenizer's and LoRA's to bf16, for a model that only generates."""
    for name, parameter in janus.named_parameters():
        if part_of(name) != "generation_encoder" and not is_lora(name):
            parameter.data = parameter.data.to(torch.bfloat16)
