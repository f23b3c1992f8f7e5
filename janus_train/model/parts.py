"""The seven named parts of a Janus model: which tensor belongs to which, and which of them train.

The names are the paper's (Pro, Table 2) and the only vocabulary for freezing, learning rates and reports. Every
parameter and every buffer belongs to exactly one part. Of parts with layers a piece may train alone (`part_specs`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

import torch
from torch import nn

from janus_train.part_specs import LAYERS, PIECES, Part, PartSpec, parse_spec

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

PIECE_MODULES: dict[Part, dict[str, str]] = {
    "understanding_encoder": {
        "embeddings": "model.vision_model.embeddings",
        LAYERS: "model.vision_model.encoder.layers",
        "post_layernorm": "model.vision_model.post_layernorm",
    },
    "language_model": {
        "embed_tokens": "model.language_model.embed_tokens",
        LAYERS: "model.language_model.layers",
        "norm": "model.language_model.norm",
        "lm_head": "lm_head",
    },
}
"""The module of each piece of the parts that have pieces. Together they have all tensors of their part."""

assert {part: tuple(pieces) for part, pieces in PIECE_MODULES.items()} == PIECES

_DIGEST_PIECE = 1 << 22
"""The number of values that are converted at once."""


def part_of(name: str) -> Part:
    """Returns the part of a parameter or buffer by its name in ``JanusForConditionalGeneration``; ValueError if none."""
    for part, modules in MODULES.items():
        if name.startswith(tuple(f"{module}." for module in modules)):
            return part
    raise ValueError(f"{name} belongs to no part of a Janus model; known modules: {sum(MODULES.values(), ())}")


def is_named(name: str, specs: Collection[str]) -> bool:
    """Whether one of ``specs``, such as ``language_model.layers.16-23``, names the tensor ``name``.

    LoRA's tensors are named with the layer that they adapt. With a dot at its end, ``name`` may be a module's. Raises
    ValueError for what is not a name of a part or a piece (`part_specs.parse_spec`).
    """
    return any(_matches(name, parse_spec(spec)) for spec in specs)


def _matches(name: str, spec: PartSpec) -> bool:
    if spec.piece is None:
        return name.startswith(tuple(f"{module}." for module in MODULES[spec.part]))
    prefix = f"{PIECE_MODULES[spec.part][spec.piece]}."
    if not name.startswith(prefix):
        return False
    if spec.piece != LAYERS:
        return True
    layer = name.removeprefix(prefix).partition(".")[0]
    return layer.isdecimal() and spec.covers(spec.part, LAYERS, int(layer))


def is_lora(name: str) -> bool:
    """Whether a parameter is LoRA's (`model.lora`); it belongs to the part whose layer it adapts."""
    return ".lora_" in name


def parameters_by_part(janus: nn.Module) -> dict[Part, list[tuple[str, nn.Parameter]]]:
    """Returns the named parameters of each part, in the model's order."""
    parameters: dict[Part, list[tuple[str, nn.Parameter]]] = {part: [] for part in MODULES}
    for name, parameter in janus.named_parameters():
        parameters[part_of(name)].append((name, parameter))
    return parameters


def part_digests(
    weights: Mapping[str, torch.Tensor], parts: Collection[Part], without: Collection[str] = ()
) -> dict[Part, str]:
    """Returns a SHA-256 per part, over every tensor's name, type, shape and bytes in fp32.

    ``weights``: by the names of ``JanusForConditionalGeneration``'s state. Only those of ``parts`` are read, one at a time,
    and none that ``without`` names (`is_named`).
    """
    digests = {part: hashlib.sha256() for part in parts}
    for name in sorted(weights):
        part = part_of(name)
        if part in digests and not is_named(name, without):
            tensor = weights[name].detach()
            digests[part].update(f"{name} {torch.float32} {tuple(tensor.shape)};".encode())
            for piece in tensor.cpu().contiguous().flatten().split(_DIGEST_PIECE):
                digests[part].update(piece.float().view(torch.uint8).numpy())
    return {part: digest.hexdigest() for part, digest in digests.items()}


def set_trainable(janus: nn.Module, specs: Collection[str]) -> None:
    """Makes exactly what ``specs`` name and all adapters trainable, freezes the rest, and sets the modes.

    Raises ValueError for an unknown part or piece.
    """
    set_modes(janus, specs)
    for name, parameter in janus.named_parameters():
        parameter.requires_grad_(is_named(name, specs) or is_lora(name))
        if not parameter.requires_grad:
            parameter.grad = None


def set_modes(janus: nn.Module, specs: Collection[str]) -> None:
    """Sets train mode for what ``specs`` name and adapters, eval mode for all else (what is frozen must not use dropout)."""
    janus.eval()
    for name, module in janus.named_modules():
        if is_named(f"{name}.", specs) or is_lora(name):
            module.training = True  # one by one: .train() would also change what is inside


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Sets eval mode, and restores each module's own mode afterwards: frozen parts are in eval mode in training too."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True  # one by one, as above
