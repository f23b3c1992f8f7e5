"""The number of parameters of each part, and of its LoRA adapters, from the model's shape alone.

The model is built on the meta device, without memory for its weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from transformers import JanusForConditionalGeneration

from janus_train.config import ModelConfig, Part, PeftConfig
from janus_train.errors import UserError, one_line
from janus_train.model.build import transformers_config
from janus_train.model.lora import target_layers
from janus_train.model.parts import MODULES, is_named, part_of
from janus_train.model.precision import ROUNDED_LAYERS


@dataclass(frozen=True)
class _Counts:
    parameters: dict[str, int]  # by name
    rounded_names: frozenset[str]  # of those in layers whose weights autocast rounds
    adapter_parameters_per_rank: dict[str, int]  # by the name of the layer that may get adapters
    adapted_outputs: dict[str, int]  # by the same names; DoRA has a magnitude for each


@lru_cache
def _counts(model_json: str) -> _Counts:
    model = ModelConfig.model_validate_json(model_json)
    try:
        with torch.device("meta"):
            janus = JanusForConditionalGeneration(transformers_config(model, None, None, None, None))
    except Exception as error:  # of any layer that the values of somebody's config.json make impossible
        raise UserError(f"model {model.name}: no model can be built so ({one_line(error, 200)})") from None
    rounded_layers = [(name, module) for name, module in janus.named_modules() if isinstance(module, ROUNDED_LAYERS)]
    adapted_layers = [pair for part in MODULES for pair in target_layers(janus, part).items()]
    return _Counts(
        {name: parameter.numel() for name, parameter in janus.named_parameters()},
        frozenset(f"{layer}.{name}" for layer, module in rounded_layers for name, _ in module.named_parameters()),
        {name: layer.in_features + layer.out_features for name, layer in adapted_layers},
        {name: layer.out_features for name, layer in adapted_layers},
    )


def _sums_by_part(numbers: Iterable[tuple[str, int]]) -> dict[Part, int]:
    sums: dict[Part, int] = dict.fromkeys(MODULES, 0)
    for name, number in numbers:
        sums[part_of(name)] += number
    return sums


def parameter_counts(model: ModelConfig) -> dict[Part, int]:
    """The parameters of every part, whether or not a run shards them."""
    return _sums_by_part(_counts(model.model_dump_json()).parameters.items())


def rounded_counts(model: ModelConfig) -> dict[Part, int]:
    """The parameters in layers whose weights autocast rounds; a frozen part keeps these in bf16 only."""
    counts = _counts(model.model_dump_json())
    return _sums_by_part((name, n) for name, n in counts.parameters.items() if name in counts.rounded_names)


def num_named(model: ModelConfig, specs: Collection[str], rounded: bool = False) -> int:
    """The parameters that ``specs`` name (`parts.is_named`); ``rounded``: only those whose weights autocast rounds."""
    counts = _counts(model.model_dump_json())
    return sum(
        number
        for name, number in counts.parameters.items()
        if is_named(name, specs) and (not rounded or name in counts.rounded_names)
    )


def adapter_counts(model: ModelConfig, peft: PeftConfig | None) -> dict[Part, int]:
    """The parameters of the LoRA adapters, for each part that has adapters."""
    if peft is None:
        return {}
    magnitudes = _adapted(_counts(model.model_dump_json()).adapted_outputs, peft) if peft.use_dora else {}
    return {part: number + magnitudes.get(part, 0) for part, number in adapter_matrix_counts(model, peft).items()}


def adapter_matrix_counts(model: ModelConfig, peft: PeftConfig | None) -> dict[Part, int]:
    """Those of them that are in matrices: all but DoRA's magnitudes."""
    if peft is None:
        return {}
    parameters_per_rank = _counts(model.model_dump_json()).adapter_parameters_per_rank
    return {part: peft.rank * number for part, number in _adapted(parameters_per_rank, peft).items()}


def _adapted(numbers: dict[str, int], peft: PeftConfig) -> dict[Part, int]:
    """The sums of what belongs to the layers that get adapters, for each part that has such layers."""
    sums = _sums_by_part((name, number) for name, number in numbers.items() if is_named(f"{name}.", peft.parts))
    return {part: number for part, number in sums.items() if number}
