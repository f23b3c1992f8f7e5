"""The model, its processor and its configuration, registered with transformers' Auto classes."""

from __future__ import annotations

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, JanusConfig

from janus_train.official.models.configuration_vlm import MultiModalityConfig
from janus_train.official.models.image_processing_vlm import VLMImageProcessor
from janus_train.official.models.modeling_vlm import JanusFolderCausalLM, MultiModalityCausalLM
from janus_train.official.models.processing_vlm import VLChatProcessor

__all__ = ["MultiModalityCausalLM", "MultiModalityConfig", "VLChatProcessor", "VLMImageProcessor"]

AutoConfig.register(MultiModalityConfig.model_type, MultiModalityConfig, exist_ok=True)
AutoModelForCausalLM.register(MultiModalityConfig, MultiModalityCausalLM, exist_ok=True)
# Without exist_ok transformers ignores a registration for one of its own configurations.
AutoModelForCausalLM.register(JanusConfig, JanusFolderCausalLM, exist_ok=True)
if JanusConfig not in MODEL_FOR_CAUSAL_LM_MAPPING:  # transformers 5.17 ignores it even so
    MODEL_FOR_CAUSAL_LM_MAPPING._extra_content[JanusConfig] = JanusFolderCausalLM
# Scripts read and set `AutoConfig.from_pretrained(folder).language_config`, also where the folder has transformers' layout.
JanusConfig.attribute_map = {**JanusConfig.attribute_map, "language_config": "text_config"}
