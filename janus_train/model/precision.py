"""Keeps frozen weights as bf16 alone: half the memory, with results unchanged to the last bit.

Autocast rounds the weights of linear layers and convolutions to bf16 before each use anyway; those that train need
their fp32 beside it, those that are frozen do not. Norms and embeddings stay in fp32: autocast does not touch them and
they make the residual stream. So does the VQ tokenizer: its codes change if it is
rounded.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from janus_train.config import Part
from janus_train.model.parts import is_lora, part_of

ROUNDED = (nn.Linear, nn.Conv2d)
"""Layers whose weights autocast rounds."""


def cast_frozen_to_bf16(janus: nn.Module, keep: Collection[Part]) -> list[str]:
    """Frozen weights of layers that autocast rounds become bf16; returns their names. Parts in ``keep`` stay as they are."""
    bf16_names = []
    for name, module in janus.named_modules():
        if not isinstance(module, ROUNDED) or is_lora(name):
            continue
        part = part_of(f"{name}.weight")
        parameters = dict(module.named_parameters(recurse=False))
        if part == "generation_encoder" or part in keep or any(p.requires_grad for p in parameters.values()):
            continue
        for which, parameter in parameters.items():
            parameter.data = parameter.data.to(torch.bfloat16)
            bf16_names.append(f"{name}.{which}")
    return bf16_names
