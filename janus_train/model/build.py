"""Builds Janus models for packed training, and prepares loaded ones for it.

The model is transformers' ``JanusForConditionalGeneration``. Some of its defaults are silently wrong for training; they
are corrected here, whether it comes from a configuration (`build`) or from a folder (`prepare`).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import JanusConfig, JanusForConditionalGeneration, LlamaConfig
from transformers.models.janus.configuration_janus import JanusVisionConfig, JanusVQVAEConfig

from janus_train.config import ModelConfig
from janus_train.errors import UserError
from janus_train.model import attention
from janus_train.model.chunked_cross_entropy import install_text_head


def build(
    config: ModelConfig,
    *,
    bos: int | None = None,
    eos: int | None = None,
    pad: int | None = None,
    placeholder: int | None = None,
    begin_of_image: int | None = None,
    end_of_image: int | None = None,
) -> JanusForConditionalGeneration:
    """Builds a model of ``config``'s shape with random fp32 weights, prepared for training.

    The token ids (`data.special_tokens.SpecialTokens`) are only recorded, for use with transformers alone.
    """
    # The pad id is set after the weights: transformers would start its row at zero, where the norm's gradient is 1000.
    janus = JanusForConditionalGeneration(transformers_config(config, bos, eos, None, placeholder))
    janus.config.text_config.pad_token_id = pad
    generation = janus.generation_config
    assert generation is not None
    generation.bos_token_id, generation.eos_token_id, generation.pad_token_id = bos, eos, pad
    # Defaults for generating images; without do_sample transformers refuses to save a temperature.
    generation.guidance_scale, generation.temperature, generation.do_sample = config.guidance, config.temperature, True
    if begin_of_image is not None:
        generation._from_model_config = False  # transformers drops keys of its own model when it reads such a file
        generation.generation_kwargs = {"boi_token_id": begin_of_image, "eoi_token_id": end_of_image}
    init_generation_embeddings(janus)
    return prepare(janus)


def transformers_config(
    config: ModelConfig, bos: int | None, eos: int | None, pad: int | None, placeholder: int | None
) -> JanusConfig:
    """Translates ``config`` to transformers' configuration."""
    if config.transformers is not None:
        return _config_from_folder(config.transformers, bos, eos, pad, placeholder)
    text, vision, vq = config.text, config.vision, config.vq
    return JanusConfig(
        text_config=LlamaConfig(
            **text.model_dump(exclude={"rope_theta"}),
            rope_parameters={"rope_type": "default", "rope_theta": text.rope_theta},
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
            tie_word_embeddings=False,
        ),
        vision_config=JanusVisionConfig(
            **vision.model_dump(),
            image_size=config.image_size,
            projection_dim=text.hidden_size,
            depth=config.adaptor_depth,
            num_image_tokens=config.tokens_per_image,
        ),
        vq_config=JanusVQVAEConfig(
            **{**vq.model_dump(), "channel_multiplier": list(vq.channel_multiplier)},
            projection_dim=text.hidden_size,
            image_token_embed_dim=text.hidden_size,
            num_hidden_layers=config.adaptor_depth,
            num_patches=config.image_size // vision.patch_size,
        ),
        tie_word_embeddings=False,  # transformers' default ties the text head to the embeddings; Janus has both
        **({} if placeholder is None else {"image_token_id": placeholder}),
    )


def _config_from_folder(
    values: dict[str, Any], bos: int | None, eos: int | None, pad: int | None, placeholder: int | None
) -> JanusConfig:
    """The configuration that was read from a folder, with these token ids."""
    config = JanusConfig(**copy.deepcopy(values))
    config.text_config.bos_token_id, config.text_config.eos_token_id = bos, eos
    config.text_config.pad_token_id = pad
    if placeholder is not None:
        config.image_token_id = placeholder
    return config


def prepare(janus: JanusForConditionalGeneration) -> JanusForConditionalGeneration:
    """Prepares any Janus model, built or loaded, for packed training; changes it in place and returns it."""
    embedding = janus.get_input_embeddings()
    if janus.lm_head.weight is embedding.weight:
        # transformers' default for Janus. The checkpoint's own head was not loaded, so it cannot be repaired here.
        raise UserError(
            "the model's text head is tied to its embeddings: set tie_word_embeddings to false in its config.json"
        )
    window = attention.sliding_window(janus.config.text_config)
    if window is not None and window < janus.config.text_config.max_position_embeddings:
        raise UserError(
            f"the language model attends within windows of {window} tokens, but packed rows have none: set sliding_window to null "
            f"and max_position_embeddings to at most {window} in its config.json"
        )
    # With a padding_idx the pad row never gets a gradient, although guidance dropout uses it.
    embedding.padding_idx = None
    janus.model.vqmodel.float()  # codes are made in fp32, from weights that were never rounded
    janus.set_attn_implementation({"text_config": attention.NAME})
    install_text_head(janus.lm_head)
    return janus


@torch.no_grad()
def init_generation_embeddings(janus: JanusForConditionalGeneration) -> None:
    """Initialises the code embeddings with `code_embeddings` of the model's own codebook."""
    janus.model.generation_embeddings.weight.copy_(code_embeddings(janus.model.vqmodel.quantize.embedding.weight))


def code_embeddings(codebook: torch.Tensor) -> torch.Tensor:
    """Returns the L2-normalised codebook, the code embeddings of runs from scratch (both papers are silent)."""
    return nn.functional.normalize(codebook.float(), dim=-1)
