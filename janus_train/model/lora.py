"""LoRA with the peft library: adapters beside the linear layers of frozen parts, merged into them when the run ends.

    add_lora         y = W x  becomes  y = W x + alpha / rank * B A x;  W keeps its bytes, A and B train (B starts at 0)
    merge_lora       the full model's weights under their original names: W + alpha / rank * B A
    write_adapter    A and B alone, in peft's format: ``PeftModel.from_pretrained(base, folder)``

The model stays transformers' ``JanusForConditionalGeneration``: peft's layers replace the linear ones, so the packed
forward, the backends and the checkpoints see a model with some more parameters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import JanusForConditionalGeneration

from janus_train.config import Part, PeftConfig
from janus_train.errors import UserError
from janus_train.files import os_errors_of_rust, staged_folder, write_text
from janus_train.model.parts import MODULES, is_lora

_BASE = ".base_layer."
_ADAPTER = "default"
"""peft's name for an adapter without a name of its own."""
ADAPTER_PREFIX = "base_model.model."
"""What peft puts before the names of tensors in an adapter's file."""
_FULL_PARTS = "full_parts"
"""The key in the file's metadata for the parts that trained in full beside the adapters."""


def check_usable(backend: str) -> None:
    """Raises `UserError` if peft is not installed, or if the run's ``backend`` shards the weights."""
    if find_spec("peft") is None:
        raise UserError("+peft=lora needs the library peft, which is not installed: pip install peft")
    if backend != "ddp":
        raise UserError(
            "+peft=lora trains in one process or under DDP: launch it with launch/accelerate/ddp.yaml; adapters need no ZeRO or FSDP"
        )


def plain_name(name: str) -> str:
    """Returns a base weight's name in a model without adapters."""
    return name.replace(_BASE, ".")


def target_layers(janus: nn.Module, part: Part) -> dict[str, nn.Linear]:
    """Returns the linear layers of a part that get adapters, by name: all but the text head."""
    prefixes = tuple(f"{module}." for module in MODULES[part])
    return {
        name: module
        for name, module in janus.named_modules()
        if name.startswith(prefixes) and isinstance(module, nn.Linear)
    }


def add_lora(janus: JanusForConditionalGeneration, options: PeftConfig) -> None:
    """Adds adapters to ``janus``, with A random and B zero, so that its outputs stay the same.

    Call it after `check_usable` and while the weights are in fp32, because adapters take their type.
    `parts.set_trainable` enables their gradients.
    """
    from peft import inject_adapter_in_model

    inject_adapter_in_model(_peft_config(janus, options, None), janus)


def _peft_config(janus: nn.Module, options: PeftConfig, base: str | None) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]
        lora_dropout=options.dropout,
        target_modules=_pattern(janus, options.parts),
        base_model_name_or_path=base,
    )


def _pattern(janus: nn.Module, parts: Collection[Part]) -> str:
    """Returns a regular expression that matches exactly the target layers; peft would match plain names as suffixes."""
    names = {plain_name(f"{name}.")[:-1] for part in parts for name in target_layers(janus, part) if not is_lora(name)}
    return "|".join(sorted({re.sub(r"(?<=\\\.)\d+(?=\\\.|$)", r"\\d+", re.escape(name)) for name in names}))


@torch.no_grad()
def merge_lora(weights: Mapping[str, torch.Tensor], options: PeftConfig) -> dict[str, torch.Tensor]:
    """Converts the state of a model with adapters to that of a plain model with the same outputs; sums are in fp32."""
    scale = options.alpha / options.rank
    merged: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if is_lora(name):
            continue
        merged[plain_name(name)] = tensor
        layer = name.removesuffix(f"{_BASE}weight")
        if layer != name:
            a, b = (weights[f"{layer}.lora_{letter}.{_ADAPTER}.weight"].float() for letter in "AB")
            merged[plain_name(name)] = merged_weight(tensor, a, b, scale)
    return merged


def merged_weight(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """W (out, in) + scale * B (out, rank) A (rank, in), in fp32."""
    return weight.float() + scale * (b @ a).to(weight.device)


def write_adapter(
    janus: JanusForConditionalGeneration,
    weights: Mapping[str, torch.Tensor],
    options: PeftConfig,
    target: Path,
    base: str,
    train_parts: Collection[str],
) -> None:
    """Writes the adapters alone, in peft's format. ``base``: their base model; ``train_parts``: parts that trained in full."""
    adapters = {
        f"{ADAPTER_PREFIX}{name.replace(f'.{_ADAPTER}.', '.')}": tensor.detach().cpu().contiguous()
        for name, tensor in weights.items()
        if is_lora(name)
    }
    full_parts = ", ".join(train_parts)
    usage = (
        f"In their run {full_parts} trained in full: with the base alone they do not give that model. Use ../final/."
        if full_parts
        else "With that base they give the model in ../final/."
    )
    with staged_folder(target) as folder:
        _peft_config(janus, options, base).save_pretrained(folder)
        with os_errors_of_rust():
            save_file(adapters, folder / "adapter_model.safetensors", {"format": "pt", _FULL_PARTS: full_parts})
        write_text(
            folder / "README.md",
            f"# LoRA adapters, rank {options.rank}\n\nAdapters for {', '.join(options.parts)}; base: `{base}`. {usage}\n",
        )


def full_parts_of(path: Path) -> str:
    """The parts that trained in full beside the adapters in the file ``path``; empty if none did, or if it does not say."""
    if path.suffix != ".safetensors":
        return ""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(_FULL_PARTS, "")
    except (SafetensorError, OSError):  # who reads its tensors says what is wrong
        return ""
