"""The official ``config.json`` (``MultiModalityConfig``) <-> transformers' ``JanusConfig``.

The official file gives only names for SigLIP's shape and for the VQ tokenizer's ("VQ-16"). If the tensors' shapes are
available, the sizes are read from them, so that other sizes can be imported too; otherwise the names decide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import JanusConfig, LlamaConfig
from transformers.models.janus.configuration_janus import JanusVisionConfig, JanusVQVAEConfig

from janus_train.data.special_tokens import SpecialTokens
from janus_train.errors import UserError, one_line
from janus_train.interop.official import TOWER, VQ

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class SiglipShape:
    """A vision tower that the official code can build (its ``SigLIP_MODEL_CONFIG``)."""

    width: int
    layers: int
    heads: int
    patch_size: int
    mlp_ratio: float


SIGLIPS = {
    "siglip_large_patch16_384": SiglipShape(1024, 24, 16, 16, 4.0),
    "siglip_so400m_patch14_384": SiglipShape(1152, 27, 16, 14, 3.7362),
    "siglip_so400m_patch14_224": SiglipShape(1152, 27, 16, 14, 3.7362),
}
CUSTOM_SIGLIP = "siglip_custom"
"""Name of a tower that the official code cannot build; its shape is beside it in ``params``."""

VQ_16 = {
    "num_embeddings": 16384,
    "embed_dim": 8,
    "base_channels": 128,
    "channel_multiplier": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
    "latent_channels": 256,
}
"""The only VQ tokenizer that the official code can build."""

CODEBOOK_USED = 65536
"""Length of the official quantizer's ``codebook_used``."""

OWN_KEY = "janus_train"
"""What only this project reads, beside the official keys: ``system_prompt``, ``guidance`` and ``temperature``. The official
code and every version of transformers pass over it."""

_TRANSFORMERS_VERSION = "4.38.2"
"""The oldest version that the official code runs with. Where none is named, transformers 4.57 takes every vocabulary over
100,000 entries for a faulty one of Mistral's and says so."""

_NOT_SHAPE = {"torch_dtype", "dtype", "transformers_version", "architectures", "model_type"}
_ROPE = {"rope_theta", "rope_scaling"}


def from_official(values: Mapping[str, Any], shapes: Shapes | None, special: SpecialTokens | None) -> JanusConfig:
    """Converts ``values``, an official config.json. Raises `UserError` if it is incomplete or not a Janus (-Pro) model's."""
    try:
        if values.get("model_type") != "multi_modality":
            raise UserError(f"its model_type is {values.get('model_type')!r}, Janus's is 'multi_modality'")
        for part in ("aligner_config", "gen_aligner_config"):
            section = values[part]
            kind = section["params"].get("projector_type", "mlp_gelu")
            if section["cls"] != "MlpProjector" or kind != "mlp_gelu":
                raise UserError(f"{part} is {section['cls']} {kind}, known is MlpProjector mlp_gelu")
        text = text_config(values["language_config"], special)
        head, align, gen_align = (values[f"{k}_config"]["params"] for k in ("gen_head", "aligner", "gen_aligner"))
        vq = vq_shape(shapes, VQ) if shapes else {**VQ_16, **_codebook(values["gen_vision_config"]["params"])}
        vision = _vision(values["vision_config"]["params"], shapes)
        grid = vision["image_size"] // vision["patch_size"]
        return JanusConfig(
            text_config=text,
            vision_config=JanusVisionConfig(
                **vision, projection_dim=align["n_embed"], depth=align["depth"], num_image_tokens=grid**2
            ),
            vq_config=JanusVQVAEConfig(
                **vq,
                projection_dim=head["image_token_embed"],
                image_token_embed_dim=head["n_embed"],
                num_hidden_layers=gen_align["depth"],
                num_patches=grid,
            ),
            tie_word_embeddings=False,  # transformers' default for Janus ties them, the official model does not
            **({} if special is None else {"image_token_id": special.placeholder}),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else one_line(error, 200)
        raise UserError(f"its config.json is not that of an official Janus model: {problem}") from None


def text_config(language: Mapping[str, Any], special: SpecialTokens | None) -> LlamaConfig:
    """Converts ``language``, the section of the language model. Raises `UserError` if that is not a Llama."""
    if language.get("model_type", "llama") != "llama":
        raise UserError(f"language_config.model_type is {language['model_type']}, the official code knows llama")
    return LlamaConfig(
        # keys with a leading underscore are internal to some version of transformers
        **{k: v for k, v in language.items() if k not in _NOT_SHAPE | _ROPE and not k.startswith("_")}
        | {"rope_parameters": _rope(language), "tie_word_embeddings": False}
        | ({} if special is None else dict(zip(TOKEN_IDS, _ids(special), strict=True)))
    )


TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _ids(special: SpecialTokens) -> tuple[int, int, int]:
    return special.bos, special.eos, special.pad


def _rope(language: Mapping[str, Any]) -> dict[str, Any]:
    scaling = language.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    other_values = {k: v for k, v in scaling.items() if k not in ("type", "rope_type")}
    return {"rope_type": kind, "rope_theta": float(language.get("rope_theta", 10000.0)), **other_values}


def _codebook(params: Mapping[str, Any]) -> dict[str, int]:
    return {"num_embeddings": params["image_token_size"], "embed_dim": params["n_embed"]}


def _vision(params: Mapping[str, Any], shapes: Shapes | None) -> dict[str, Any]:
    name = params["model_name"]
    siglip = SIGLIPS.get(name)
    if siglip is None and "heads" not in params:
        raise UserError(f"vision_config.params.model_name {name} is unknown; known are {', '.join(SIGLIPS)}")
    heads = siglip.heads if siglip is not None else int(params["heads"])
    image_size = int(params["image_size"])
    if shapes is None:
        if siglip is None:
            siglip = SiglipShape(*(params[k] for k in ("width", "layers", "heads", "patch_size", "mlp_ratio")))
        width, layers, patch, ratio = siglip.width, siglip.layers, siglip.patch_size, siglip.mlp_ratio
    else:
        width, _, patch, _ = _shape(shapes, f"{TOWER}.patch_embed.proj.weight")
        layers = _count(shapes, rf"{re.escape(TOWER)}\.blocks\.(\d+)\.")
        ratio = mlp_ratio(width, _shape(shapes, f"{TOWER}.blocks.0.mlp.fc1.weight")[0])
        positions = _shape(shapes, f"{TOWER}.pos_embed")[1]
        if positions != (image_size // patch) ** 2:
            raise UserError(f"its vision tower has {positions} positions, images of {image_size} by {patch} have more")
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": patch,
        "image_size": image_size,
        "mlp_ratio": ratio,
    }


def mlp_ratio(width: int, intermediate: int) -> float:
    """Returns a ratio with ``int(width * ratio) == intermediate``, which is how transformers' Janus uses it."""
    ratio = intermediate / width
    return ratio if int(width * ratio) == intermediate else (intermediate + 0.5) / width


def vq_shape(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """Reads a LlamaGen VQ tokenizer's shape from its tensors, in ``JanusVQVAEConfig``'s terms. `UserError` if one is missing."""
    base = _shape(shapes, f"{prefix}encoder.conv_in.weight")[0]
    levels = _count(shapes, rf"{re.escape(prefix)}decoder\.conv_blocks\.(\d+)\.")
    # the decoder's levels go from the coarsest to the finest, with one block more per level than the encoder's
    level_channels = [_shape(shapes, f"{prefix}decoder.conv_blocks.{i}.res.0.conv2.weight")[0] for i in range(levels)]
    blocks = _count(shapes, rf"{re.escape(prefix)}decoder\.conv_blocks\.0\.res\.(\d+)\.")
    codes, dim = _shape(shapes, f"{prefix}quantize.embedding.weight")
    return {
        "num_embeddings": codes,
        "embed_dim": dim,
        "base_channels": base,
        "channel_multiplier": [channels // base for channels in reversed(level_channels)],
        "num_res_blocks": blocks - 1,
        "latent_channels": _shape(shapes, f"{prefix}encoder.conv_out.weight")[0],
    }


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise UserError(f"it is not complete: {name} is missing")
    return shapes[name]


def _count(shapes: Shapes, pattern: str) -> int:
    """Returns one more than the largest number that the pattern's group matches."""
    numbers = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
    if not numbers:
        raise UserError(f"it is not complete: nothing is named {pattern.replace(chr(92), '')}")
    return max(numbers) + 1


_LANGUAGE = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "vocab_size",
    *TOKEN_IDS,
)


def to_official(config: JanusConfig, dtype: str) -> dict[str, Any]:
    """Converts to an official config.json; ``dtype`` is that of the weights, such as ``bfloat16``."""
    text, vision, vq = config.text_config, config.vision_config, config.vq_config
    rope = dict(text.rope_parameters)
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type", "default")
    siglip = siglip_of(config)
    name = next((k for k, v in SIGLIPS.items() if v == siglip and k.endswith(f"_{vision.image_size}")), None)
    name = name or next((k for k, v in SIGLIPS.items() if v == siglip), CUSTOM_SIGLIP)
    params: dict[str, Any] = {
        "image_size": vision.image_size,
        "model_name": name,
        "select_feature": "same",
        "select_layer": -1,
    }
    return {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": "multi_modality",
        "torch_dtype": dtype,
        "transformers_version": _TRANSFORMERS_VERSION,
        "vision_config": {
            "cls": "CLIPVisionTower",
            "model_type": "vision",
            "params": params | (vars(siglip) if name == CUSTOM_SIGLIP else {}),
        },
        "aligner_config": _projector("aligner", vision.depth, vision.hidden_size, vision.projection_dim),
        "gen_vision_config": {
            "cls": "VQ-16",
            "model_type": "gen_vision",
            "params": {"image_token_size": vq.num_embeddings, "n_embed": vq.embed_dim},
        },
        "gen_aligner_config": _projector("gen_aligner", vq.num_hidden_layers, vq.embed_dim, vq.projection_dim),
        "gen_head_config": {
            "cls": "vision_head",
            "model_type": "gen_head",
            "params": {
                "image_token_embed": vq.projection_dim,
                "image_token_size": vq.num_embeddings,
                "n_embed": vq.image_token_embed_dim,
            },
        },
        "language_config": {key: getattr(text, key) for key in _LANGUAGE}
        | {"model_type": "llama", "rope_theta": theta, "tie_word_embeddings": False, "torch_dtype": dtype}
        | ({} if kind == "default" else {"rope_scaling": {"type": kind, "rope_type": kind, **rope}}),
    }


def _projector(name: str, depth: int, width: int, target: int) -> dict[str, Any]:
    params = {"depth": depth, "input_dim": width, "n_embed": target, "projector_type": "mlp_gelu"}
    return {"cls": "MlpProjector", "model_type": name, "params": params}


def siglip_of(config: JanusConfig) -> SiglipShape:
    """The shape of its understanding encoder, one of `SIGLIPS` if it is the same."""
    vision = config.vision_config
    for siglip in SIGLIPS.values():
        shape = (siglip.width, siglip.layers, siglip.heads, siglip.patch_size)
        own_shape = (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads, vision.patch_size)
        if shape == own_shape and int(siglip.width * siglip.mlp_ratio) == int(vision.hidden_size * vision.mlp_ratio):
            return siglip
    return SiglipShape(*own_shape, float(vision.mlp_ratio))


def own_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """What an official config.json says under `OWN_KEY`; empty for one of the official code. Raises `UserError`."""
    settings = values.get(OWN_KEY, {})
    if not isinstance(settings, dict):
        raise UserError(f"{OWN_KEY} in its config.json is not an object")
    return settings
