"""LoRA with the peft library: adapters beside the linear layers of frozen parts, merged into them when the run ends.

    add_lora         y = W x  becomes  y = W x + s B A x;  W keeps its bytes, A and B train (B starts at 0)
    merge_lora       the full model's weights under their original names: W + s B A

The scale s is alpha / rank, with rsLoRA (arXiv 2312.03732) alpha / sqrt(rank). DoRA (arXiv 2402.09353) also trains a
magnitude m for each output, which starts as the norm of its row of W: y = m / |W + s B A| * (W + s B A) x.

The model stays transformers' ``JanusForConditionalGeneration``: peft's layers replace the linear ones, so the packed
forward, the backends and the checkpoints see a model with some more parameters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import JanusForConditionalGeneration

from janus_train.config import PeftConfig
from janus_train.errors import UserError
from janus_train.model.lora_weights import merged_weight, scale_of
from janus_train.model.parts import is_lora, is_named

_BASE = ".base_layer."
_ADAPTER = "default"
"""peft's name for an adapter without a name of its own."""
_TEXT_HEAD = "lm_head"
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
MAGNITUDE = "lora_magnitude_vector"
"""peft's name for DoRA's magnitudes of a layer."""


def check_usable() -> None:
    """Raises `UserError` if peft is not installed."""
    if find_spec("peft") is None:
        raise UserError("+peft=lora needs the library peft, which is not installed: pip install peft")


def plain_name(name: str) -> str:
    """Returns a base weight's name in a model without adapters."""
    return name.replace(_BASE, ".")


def target_layers(janus: nn.Module, spec: str) -> dict[str, nn.Linear]:
    """Returns the linear layers that get adapters of a part or its layers (`part_specs`), by name: all but the text head."""
    return {
        name: module
        for name, module in janus.named_modules()
        if isinstance(module, nn.Linear) and name != _TEXT_HEAD and is_named(f"{name}.", [spec])
    }


def add_lora(janus: JanusForConditionalGeneration, options: PeftConfig) -> None:
    """Adds adapters to ``janus``, with A random and B zero, so that its outputs stay the same.

    Call it after `check_usable` and while the weights are in fp32, because adapters take their type. If they are on the
    meta device, DoRA's magnitudes are too: `lora_weights.start_magnitudes` gives their values. `parts.set_trainable` enables the
    adapters' gradients.
    """
    from peft import inject_adapter_in_model

    inject_adapter_in_model(peft_config(janus, options, None), janus)
    if options.use_dora:
        from janus_train.model.dora import use_dora_layers

        use_dora_layers(janus)


def peft_config(janus: nn.Module, options: PeftConfig, base: str | None) -> Any:
    """Returns peft's ``LoraConfig`` of these options; ``base``: the base model's folder or hub id, for the file."""
    from peft import LoraConfig

    return LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]
        lora_dropout=options.dropout,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        target_modules=_pattern(janus, options.parts),
        base_model_name_or_path=base,
    )


def _pattern(janus: nn.Module, parts: Collection[str]) -> str:
    """Returns a regular expression that matches exactly the target layers; peft would match plain names as suffixes."""
    names = {plain_name(f"{name}.")[:-1] for part in parts for name in target_layers(janus, part) if not is_lora(name)}
    numbers: dict[str, set[int]] = {}  # the layers' numbers, by the name with # for the number
    for name in names:
        numbers.setdefault(_NUMBER.sub("#", name, count=1), set()).update(map(int, _NUMBER.findall(name)[:1]))
    return "|".join(
        re.escape(stem).replace(r"\#", f"(?:{'|'.join(map(str, sorted(found)))})")
        for stem, found in sorted(numbers.items())
    )


def magnitudes_base(name: str) -> str | None:
    """Returns the name of the base weight whose rows DoRA's magnitudes ``name`` scale; None if it names no magnitudes."""
    layer, found, _ = name.partition(f".{MAGNITUDE}.")
    return f"{layer}{_BASE}weight" if found else None


@torch.no_grad()
def merge_lora(weights: Mapping[str, torch.Tensor], options: PeftConfig) -> dict[str, torch.Tensor]:
    """Converts the state of a model with adapters to that of a plain model with the same outputs; sums are in fp32."""
    scale = scale_of(options.alpha, options.rank, options.use_rslora)
    merged: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if is_lora(name):
            continue
        merged[plain_name(name)] = tensor
        layer = name.removesuffix(f"{_BASE}weight")
        if layer != name:
            a, b = (weights[f"{layer}.lora_{letter}.{_ADAPTER}.weight"].float() for letter in "AB")
            magnitudes = weights.get(f"{layer}.{MAGNITUDE}.{_ADAPTER}.weight")
            merged[plain_name(name)] = merged_weight(tensor, a, b, scale, magnitudes)
    return merged


def name_without_adapter(name: str) -> str:
    """A LoRA parameter's name in peft's files: without the adapter's own name, and DoRA's magnitudes without .weight too."""
    return name.removesuffix(f".{_ADAPTER}.weight") if magnitudes_base(name) else name.replace(f".{_ADAPTER}.", ".")
