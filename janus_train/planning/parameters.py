"""The number of parameters of each part, and of its LoRA adapters, from the model's shape alone.

The model is built on the meta device, without memory for its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from transformers import JanusForConditionalGeneration

from janus_train.config import ModelConfig, Part, PeftConfig
from janus_train.errors import UserError, one_line
from janus_train.model.build import transformers_config
from janus_train.model.lora import target_layers
from janus_train.model.parts import MODULES, parameters_by_part, part_of
from janus_train.model.precision import ROUNDED_LAYERS


@dataclass(frozen=True)
class _Counts:
    parameters: dict[Part, int]
    rounded_parameters: dict[Part, int]  # in layers whose weights autocast rounds
    adapter_parameters_per_rank: dict[Part, int]
    adapted_outputs: dict[Part, int]  # DoRA has a magnitude for each


@lru_cache
def _counts(model_json: str) -> _Counts:
    model = ModelConfig.model_validate_json(model_json)
    try:
        with torch.device("meta"):
            janus = JanusForConditionalGeneration(transformers_config(model, None, None, None, None))
    except Exception as error:  # of any layer that the values of somebody's config.json make impossible
        raise UserError(f"model {model.name}: no model can be built so ({one_line(error, 200)})") from None
    rounded_parameters: dict[Part, int] = dict.fromkeys(MODULES, 0)
    for name, module in janus.named_modules():
        if isinstance(module, ROUNDED_LAYERS):
            rounded_parameters[part_of(f"{name}.weight")] += sum(p.numel() for p in module.parameters())
    adapted_layers = {part: target_layers(janus, part).values() for part in MODULES}
    return _Counts(
        {
            part: sum(p.numel() for _, p in named_parameters)
            for part, named_parameters in parameters_by_part(janus).items()
        },
        rounded_parameters,
        {
            part: sum(layer.in_features + layer.out_features for layer in layers)
            for part, layers in adapted_layers.items()
        },
        {part: sum(layer.out_features for layer in layers) for part, layers in adapted_layers.items()},
    )


def parameter_counts(model: ModelConfig) -> dict[Part, int]:
    """The parameters of every part, whether or not a run shards them."""
    return dict(_counts(model.model_dump_json()).parameters)


def rounded_counts(model: ModelConfig) -> dict[Part, int]:
    """The parameters in layers whose weights autocast rounds; a frozen part keeps these in bf16 only."""
    return dict(_counts(model.model_dump_json()).rounded_parameters)


def adapter_counts(model: ModelConfig, peft: PeftConfig | None) -> dict[Part, int]:
    """The parameters of the LoRA adapters, for each part that has adapters."""
    if peft is None:
        return {}
    num_outputs = _counts(model.model_dump_json()).adapted_outputs
    return {part: num + peft.use_dora * num_outputs[part] for part, num in adapter_matrix_counts(model, peft).items()}


def adapter_matrix_counts(model: ModelConfig, peft: PeftConfig | None) -> dict[Part, int]:
    """Those of them that are in matrices: all but DoRA's magnitudes."""
    if peft is None:
        return {}
    parameters_per_rank = _counts(model.model_dump_json()).adapter_parameters_per_rank
    return {part: peft.rank * parameters_per_rank[part] for part in peft.parts}
