"""The seven named parts of a Janus model: which tensor belongs to which, and which of them train.

The names are the paper's (Pro, Table 2) and the only vocabulary for freezing, learning rates and reports. Every
parameter and every buffer belongs to exactly one part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

import torch
from torch import nn

from janus_train.config import Part

MODULES: dict[Part, tuple[str, ...]] = {
    "understanding_encoder": ("model.vision_model",),
    "understanding_adaptor": ("model.aligner",),
    "generation_encoder": ("model.vqmodel",),
    "generation_embedding": ("model.generation_embeddings",),
    "generation_adaptor": ("model.generation_aligner",),
    "image_head": ("model.generation_head",),
    "language_model": ("model.language_model", "lm_head"),
}
"""Each part's modules inside transformers' ``JanusForConditionalGeneration``."""

assert tuple(MODULES) == get_args(Part)

_DIGEST_PIECE = 1 << 22
"""The number of values that are converted at once."""


def part_of(name: str) -> Part:
    """Returns the part of a parameter or buffer by its name in ``JanusForConditionalGeneration``; ValueError if none."""
    for part, modules in MODULES.items():
        if name.startswith(tuple(f"{module}." for module in modules)):
            return part
    raise ValueError(f"{name} belongs to no part of a Janus model; known modules: {sum(MODULES.values(), ())}")


def is_lora(name: str) -> bool:
    """Whether a parameter is LoRA's (`model.lora`); it belongs to the part whose layer it adapts."""
    return ".lora_" in name


def parameters_by_part(janus: nn.Module) -> dict[Part, list[tuple[str, nn.Parameter]]]:
    """Returns the named parameters of each part, in the model's order."""
    parameters: dict[Part, list[tuple[str, nn.Parameter]]] = {part: [] for part in MODULES}
    for name, parameter in janus.named_parameters():
        parameters[part_of(name)].append((name, parameter))
    return parameters


def part_digests(weights: Mapping[str, torch.Tensor], parts: Collection[Part]) -> dict[Part, str]:
    """Returns a SHA-256 per part, over every tensor's name, type, shape and bytes in fp32.

    ``weights``: by the names of ``JanusForConditionalGeneration``'s state. Only those of ``parts`` are read, one at a time.
    """
    digests = {part: hashlib.sha256() for part in parts}
    for name in sorted(weights):
        part = part_of(name)
        if part in digests:
            tensor = weights[name].detach()
            digests[part].update(f"{name} {torch.float32} {tuple(tensor.shape)};".encode())
            for piece in tensor.cpu().contiguous().flatten().split(_DIGEST_PIECE):
                digests[part].update(piece.float().view(torch.uint8).numpy())
    return {part: digest.hexdigest() for part, digest in digests.items()}


def set_trainable(janus: nn.Module, parts: Collection[Part]) -> None:
    """Makes exactly ``parts`` and all adapters trainable, freezes the rest, and sets the modes.

    Raises ValueError for an unknown part.
    """
    set_modes(janus, parts)
    for part, parameters in parameters_by_part(janus).items():
        for name, parameter in parameters:
            parameter.requires_grad_(part in parts or is_lora(name))
            if not parameter.requires_grad:
                parameter.grad = None


def set_modes(janus: nn.Module, parts: Collection[Part]) -> None:
    """Sets train mode for ``parts`` and adapters, eval mode for every other module (frozen parts must not use dropout)."""
    unknown_parts = sorted(set(parts) - set(MODULES))
    if unknown_parts:
        raise ValueError(f"unknown part {unknown_parts[0]}: the parts are {', '.join(MODULES)}")
    janus.eval()
    for part in parts:
        for module in MODULES[part]:
            janus.get_submodule(module).train()
    for name, submodule in janus.named_modules():
        if is_lora(name):
            submodule.train()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Sets eval mode, and restores each module's own mode afterwards: frozen parts are in eval mode in training too."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True  # one by one: .train() would also change the frozen modules inside
