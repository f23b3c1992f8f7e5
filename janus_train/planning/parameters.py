"""How many parameters each part has, from the shape alone: the model is built without memory for its weights."""

from __future__ import annotations

from functools import lru_cache

import torch
from transformers import JanusForConditionalGeneration

from janus_train.config import ModelConfig, Part
from janus_train.model.components import parameters_by_part
from janus_train.model.janus import transformers_config


@lru_cache
def _counts(model: str) -> dict[Part, int]:
    config = transformers_config(ModelConfig.model_validate_json(model), None, None, None, None)
    with torch.device("meta"):
        janus = JanusForConditionalGeneration(config)
    return {part: sum(p.numel() for _, p in named) for part, named in parameters_by_part(janus).items()}


def parameter_counts(model: ModelConfig) -> dict[Part, int]:
    """Of every part; true also where a run has the weights in pieces on several devices."""
    return dict(_counts(model.model_dump_json()))
