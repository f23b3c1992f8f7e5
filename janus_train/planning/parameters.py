"""How many parameters each part has, or gets by LoRA, from the shape alone: the model is built without memory for its
weights."""

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
from janus_train.model.precision import ROUNDED


@dataclass(frozen=True)
class _Counts:
    all: dict[Part, int]
    rounded: dict[Part, int]  # in layers whose weights autocast rounds
    a_rank: dict[Part, int]  # of adapters, for each of their rank


@lru_cache
def _counts(model: str) -> _Counts:
    described = ModelConfig.model_validate_json(model)
    try:
        with torch.device("meta"):
            janus = JanusForConditionalGeneration(transformers_config(described, None, None, None, None))
    except Exception as error:  # of any layer that the values of somebody's config.json make impossible
        raise UserError(f"model {described.name}: no model can be built so ({one_line(error, 200)})") from None
    rounded: dict[Part, int] = dict.fromkeys(MODULES, 0)
    for name, module in janus.named_modules():
        if isinstance(module, ROUNDED):
            rounded[part_of(f"{name}.weight")] += sum(p.numel() for p in module.parameters())
    return _Counts(
        {part: sum(p.numel() for _, p in named) for part, named in parameters_by_part(janus).items()},
        rounded,
        {p: sum(layer.in_features + layer.out_features for layer in target_layers(janus, p).values()) for p in MODULES},
    )


def parameter_counts(model: ModelConfig) -> dict[Part, int]:
    """Parameters of every part; true also where a run has the weights in pieces on several devices."""
    return dict(_counts(model.model_dump_json()).all)


def rounded_counts(model: ModelConfig) -> dict[Part, int]:
    """Those in layers whose weights autocast rounds: what is kept as bf16 alone while a part is frozen."""
    return dict(_counts(model.model_dump_json()).rounded)


def adapter_counts(model: ModelConfig, peft: PeftConfig | None) -> dict[Part, int]:
    """Parameters of LoRA's adapters, of the parts that have some."""
    if peft is None:
        return {}
    a_rank = _counts(model.model_dump_json()).a_rank
    return {part: peft.rank * a_rank[part] for part in peft.parts}
