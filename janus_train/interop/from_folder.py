"""``model=from_folder``: reads a model's shape, for any language model, from the folder that ``init_from`` names."""

from __future__ import annotations

from typing import Any

from transformers import JanusConfig

from janus_train.errors import UserError
from janus_train.interop.model_folder import open_model
from janus_train.model.vq import generation_image_size

_NO_SHAPE = ("transformers_version", "_name_or_path", "architectures", "dtype", "model_type")


def model_values(values: dict[str, Any], init_from: str | None) -> dict[str, Any]:
    """Returns the ``model`` section; fields that are not null in ``values`` stay. Raises `UserError` without ``init_from``."""
    if init_from is None:
        raise UserError("model=from_folder takes the model's shape from init_from: add init_from=FOLDER or a hub id")
    folder = open_model(init_from, "init_from=", weights=False)
    folder_values = describe(folder.config) | {"system_prompt": folder.system_prompt, **folder.generation_settings}
    return folder_values | {key: value for key, value in values.items() if value is not None} | {"base": None}


def describe(config: JanusConfig) -> dict[str, Any]:
    """Returns the fields of a `ModelConfig` that give the shape, with the full ``config`` as its ``transformers``.

    Raises `UserError` for an unsupported language model: one without norms with an epsilon, or without rotary embeddings
    with one base.
    """
    try:
        return _shape_values(config)
    except (AttributeError, KeyError, TypeError, StopIteration):
        raise UserError(f"{config.text_config.model_type} is not a language model that Janus can be built on") from None


def _shape_values(config: JanusConfig) -> dict[str, Any]:
    text, vision, vq = config.text_config, config.vision_config, config.vq_config
    heads = text.num_attention_heads
    return {
        "image_size": vision.image_size,
        "generation_image_size": generation_image_size(config),
        "adaptor_depth": vision.depth,
        "text": {
            "hidden_size": text.hidden_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": getattr(text, "num_key_value_heads", None) or heads,
            "intermediate_size": text.intermediate_size,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_position_embeddings,
            "rms_norm_eps": float(_first_attribute(text, "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")),
            "rope_theta": float((text.rope_parameters or {})["rope_theta"]),
        },
        "vision": {
            "hidden_size": vision.hidden_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "mlp_ratio": float(vision.mlp_ratio),
            "patch_size": vision.patch_size,
        },
        "vq": {
            "num_embeddings": vq.num_embeddings,
            "embed_dim": vq.embed_dim,
            "base_channels": vq.base_channels,
            "channel_multiplier": list(vq.channel_multiplier),
            "num_res_blocks": vq.num_res_blocks,
            "latent_channels": vq.latent_channels,
        },
        "transformers": _plain_values(config),
    }


def _first_attribute(config: object, *names: str) -> Any:
    return next(getattr(config, name) for name in names if hasattr(config, name))


def _plain_values(config: JanusConfig) -> dict[str, Any]:
    values = {key: value for key, value in config.to_dict().items() if key not in _NO_SHAPE}
    for section in ("text_config", "vision_config", "vq_config"):
        values[section] = {k: v for k, v in values[section].items() if k not in _NO_SHAPE or k == "model_type"}
    return values
