"""What the official layout cannot hold, and what the official code cannot build."""

from __future__ import annotations

from typing import Any

from transformers import JanusConfig, PreTrainedConfig

from janus_train.errors import UserError, shortened
from janus_train.interop.official_config import SIGLIPS, TOKEN_IDS, VQ_16, from_official, siglip_of, to_official

_NOT_LOST = {
    "text_config": {
        *TOKEN_IDS,  # read from the tokenizer
        "tie_word_embeddings",  # the whole model's counts
        "pretraining_tp",  # in how many pieces a product is computed
    },
    "vision_config": {"mlp_ratio"},  # the width that it gives is the same
    "vq_config": set(VQ_16),  # read from the tensors
    "": {"image_token_id", "text_config", "vision_config", "vq_config"},
}
"""The fields by section ("": those beside the sections) that need not come back from an official config.json."""
_NEVER_LOST = {"initializer_range", "use_cache"}
"""Fields of any section that say nothing of a trained model."""


def check_fits_layout(config: JanusConfig) -> None:
    """Raises `UserError` if the official layout cannot store the model.

    That is a language model that is no plain Llama, or a value that `from_official` would not read back from `to_official`.
    """
    text = config.text_config
    own_head_dim = getattr(text, "head_dim", None) not in (None, text.hidden_size // text.num_attention_heads)
    if text.model_type != "llama" or text.attention_bias or text.mlp_bias or own_head_dim:
        raise UserError(
            f"the official code builds plain Llama language models only, this one is {text.model_type}"
            f"{'' if text.model_type != 'llama' else ' with biases or heads of their own size'}: export it with --format hf"
        )
    back = from_official(to_official(config, "float32"), None, None)
    for section, ignored in _NOT_LOST.items():
        own_values, values = (_fields(getattr(each, section) if section else each) for each in (config, back))
        for key in sorted(values.keys() - ignored - _NEVER_LOST):
            if own_values.get(key) != values[key]:
                name = f"{section}.{key}" if section else key
                raise UserError(
                    f"the official layout cannot say that {name} is {shortened(own_values.get(key), 60)}, "
                    f"with the official code it is {shortened(values[key], 60)}: export it with --format hf"
                )


def _fields(config: PreTrainedConfig) -> dict[str, Any]:
    """A configuration's values without those that any kind of model has."""
    values = {key: value for key, value in config.to_dict().items() if key not in PreTrainedConfig().to_dict()}
    if isinstance(rope := values.get("rope_parameters"), dict):
        values["rope_parameters"] = {key: value for key, value in rope.items() if key != "type"}  # rope_type's old name
    return values


def not_buildable(config: JanusConfig) -> list[str]:
    """Returns the parts that the unmodified official code cannot build; if the list is empty, it loads the model."""
    vq, parts = config.vq_config, []
    if siglip_of(config) not in SIGLIPS.values():
        parts.append(f"its vision encoder (known are {', '.join(SIGLIPS)})")
    vq_values = {key: getattr(vq, key) for key in VQ_16} | {"channel_multiplier": list(vq.channel_multiplier)}
    if vq_values != VQ_16:
        parts.append("its VQ tokenizer (known is VQ-16)")
    return parts
