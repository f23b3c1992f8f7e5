"""LoRA with the peft library: adapters beside the linear layers of frozen parts, merged into them when the run ends.

    add_lora         y = W x  becomes  y = W x + alpha / rank * B A x;  W keeps its bytes, A and B train (B starts at 0)
    merge_lora       the whole model's weights under their own names again: W + alpha / rank * B A
    write_adapter    A and B alone, in peft's format: ``PeftModel.from_pretrained(base, folder)``

The model stays transformers' ``JanusForConditionalGeneration``: peft's layers stand where the linear ones stood, so the
packed forward, the backends and the checkpoints see a model with some more parameters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import JanusForConditionalGeneration

from janus_train.config import Part, PeftConfig
from janus_train.errors import UserError
from janus_train.files import os_errors_of_rust, staged_folder, write_text
from janus_train.model.parts import MODULES, is_lora

_BASE = ".base_layer."
_ADAPTER = "default"
"""peft's name for an adapter that was given none."""


def check_usable(backend: str) -> None:
    """Raises `UserError` if peft is not there, or the run's ``backend`` shards the weights."""
    if find_spec("peft") is None:
        raise UserError("+peft=lora needs the library peft, which is not installed: pip install peft")
    if backend != "ddp":
        raise UserError(
            "+peft=lora trains in one process or under DDP: launch it with launch/accelerate/ddp.yaml, its adapters need no ZeRO or FSDP"
        )


def plain_name(name: str) -> str:
    """A base weight's name in a model without adapters."""
    return name.replace(_BASE, ".")


def target_layers(janus: nn.Module, part: Part) -> dict[str, nn.Linear]:
    """The linear layers of a part that get adapters, by name: all but the text head."""
    inside = tuple(f"{module}." for module in MODULES[part])
    return {
        name: module
        for name, module in janus.named_modules()
        if name.startswith(inside) and isinstance(module, nn.Linear)
    }


def add_lora(janus: JanusForConditionalGeneration, options: PeftConfig) -> None:
    """Put adapters into ``janus``, A at random, B zero: its outputs are as before. Gradients: `parts.set_trainable`.

    Call it while the weights are in fp32: adapters take their type. `check_usable` comes before.
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
    """A regular expression of exactly the target layers; from names peft would make suffixes."""
    names = {plain_name(f"{name}.")[:-1] for part in parts for name in target_layers(janus, part) if not is_lora(name)}
    return "|".join(sorted({re.sub(r"(?<=\\\.)\d+(?=\\\.|$)", r"\\d+", re.escape(name)) for name in names}))


@torch.no_grad()
def merge_lora(weights: Mapping[str, torch.Tensor], options: PeftConfig) -> dict[str, torch.Tensor]:
    """The state of a model with adapters -> that of a plain one with the same outputs; sums in fp32."""
    scale = options.alpha / options.rank
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if is_lora(name):
            continue
        plain[plain_name(name)] = tensor
        layer = name.removesuffix(f"{_BASE}weight")
        if layer != name:
            a, b = (weights[f"{layer}.lora_{which}.{_ADAPTER}.weight"].float() for which in "AB")
            plain[plain_name(name)] = tensor.float() + scale * (b @ a).to(tensor.device)
    return plain


def write_adapter(
    janus: JanusForConditionalGeneration,
    weights: Mapping[str, torch.Tensor],
    options: PeftConfig,
    target: Path,
    base: str,
    train_parts: Collection[Part],
) -> None:
    """The adapters alone, in peft's format. ``base``: what they stand beside; ``train_parts``: what trained in full."""
    adapters = {
        f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}": tensor.detach().cpu().contiguous()
        for name, tensor in weights.items()
        if is_lora(name)
    }
    whole = ", ".join(train_parts)
    beside = (
        f"They are part of a model of which {whole} trained in full: beside the base alone they are not it. Take ../final/."
        if whole
        else "Beside that base they give the model of ../final/."
    )
    with staged_folder(target) as folder:
        _peft_config(janus, options, base).save_pretrained(folder)
        with os_errors_of_rust():
            save_file(adapters, folder / "adapter_model.safetensors", {"format": "pt"})
        write_text(
            folder / "README.md",
            f"# LoRA adapters, rank {options.rank}\n\nOf {', '.join(options.parts)}; base: `{base}`. {beside}\n",
        )
