"""Keeps frozen weights in bf16 only: half the memory, with bit-identical results.

Autocast rounds the weights of linear layers and convolutions to bf16 before each use anyway; trained weights also need
their fp32 values, frozen ones do not. Norms and embeddings stay in fp32: autocast does not round them, and they make the
residual stream. The VQ tokenizer stays in fp32 as well, because its codes change if it is rounded.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from janus_train.config import Part
from janus_train.model.parts import is_lora, part_of

ROUNDED_LAYERS = (nn.Linear, nn.Conv2d)
"""Layers whose weights autocast rounds."""


def cast_frozen_to_bf16(janus: nn.Module, keep: Collection[Part]) -> list[str]:
    """Casts frozen weights of layers that autocast rounds to bf16; returns their names. Parts in ``keep`` do not change."""
    bf16_names = []
    for name, module in janus.named_modules():
        if not isinstance(module, ROUNDED_LAYERS) or is_lora(name):
            continue
        part = part_of(f"{name}.weight")
        parameters = dict(module.named_parameters(recurse=False))
        if part == "generation_encoder" or part in keep or any(p.requires_grad for p in parameters.values()):
            continue
        for parameter_name, parameter in parameters.items():
            parameter.data = parameter.data.to(torch.bfloat16)
            bf16_names.append(f"{name}.{parameter_name}")
    return bf16_names


def cast_to_bf16(janus: nn.Module) -> None:
    """Casts all weights but the VQ tokenizer's to bf16, for a model that only generates."""
    for name, parameter in janus.named_parameters():
        if part_of(name) != "generation_encoder":
            parameter.data = parameter.data.to(torch.bfloat16)
