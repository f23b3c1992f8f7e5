"""Published vision encoders and VQ tokenizers -> tensors and configuration in transformers' Janus names.

- SigLIP in transformers' layout (``SiglipModel`` or ``SiglipVisionModel``), any size and patch size; its attention pool
  becomes an extra of the official layout (`official.is_extra`), for an export.
- LlamaGen's VQ tokenizer, a file written by torch.save such as ``vq_ds16_t2i.pt``, with the names of the official layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import SiglipVisionConfig

from janus_train.errors import UserError
from janus_train.interop import official, official_config, tensors
from janus_train.interop.model_folder import read_config


@dataclass(frozen=True)
class BaseEncoder:
    """An encoder for Janus; ``config`` has the fields of its section in the configuration, ``extras`` have official names."""

    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    extras: dict[str, torch.Tensor]


def load_siglip(folder: Path) -> BaseEncoder:
    """Loads a SigLIP. Raises `UserError` if the folder does not contain one in transformers' layout."""
    values = read_config(folder)
    if values.get("model_type") not in ("siglip", "siglip_vision_model"):
        raise UserError(f"{folder}: model_type {values.get('model_type')!r} is not a SigLIP in transformers' layout")
    vision = SiglipVisionConfig(**values.get("vision_config", values))
    state = dict(_vision_tensors(folder))
    encoder = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    head = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    config = {
        "hidden_size": vision.hidden_size,
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "num_channels": vision.num_channels,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_act": vision.hidden_act,
        "layer_norm_eps": vision.layer_norm_eps,
        "mlp_ratio": official_config.mlp_ratio(vision.hidden_size, vision.intermediate_size),
    }
    janus_tensors = {
        f"{official.SIGLIP}.{name.replace('.out_proj.', '.projection_layer.')}": t for name, t in encoder.items()
    }
    return BaseEncoder(config, janus_tensors, dict(_attention_pool(head, vision.hidden_size)) if head else {})


def _vision_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the vision tower's tensors without the prefix ``vision_model.``, which transformers 5 omits if it is saved alone."""
    for name, tensor in tensors.read(tensors.weight_files(folder)):
        name = name.removeprefix("vision_model.")
        if name.startswith(("embeddings.", "encoder.", "post_layernorm.", "head.")) and not name.endswith(
            "position_ids"
        ):
            yield name, tensor


def _attention_pool(head: dict[str, torch.Tensor], width: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Converts transformers' pooling head to timm's names, with q in one tensor and k and v in another."""
    pool = f"{official.TOWER}.attn_pool."
    timm_prefixes = {"probe": "latent", "attention.out_proj": "proj", "layernorm": "norm", "mlp.fc1": "mlp.fc1"}
    timm_prefixes["mlp.fc2"] = "mlp.fc2"
    for name, tensor in head.items():
        name = name.removeprefix("head.")
        if name.startswith("attention.in_proj_"):
            kind = name.removeprefix("attention.in_proj_")
            yield f"{pool}q.{kind}", tensor[:width]
            yield f"{pool}kv.{kind}", tensor[width:]
            continue
        for prefix, timm_prefix in timm_prefixes.items():
            if name.startswith(prefix):
                yield pool + timm_prefix + name.removeprefix(prefix), tensor
                break


def load_vq(path: Path) -> BaseEncoder:
    """Loads a VQ tokenizer. Raises `UserError` if the file is not LlamaGen's, or contains more than tensors."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; a VQ tokenizer is one file, such as vq_ds16_t2i.pt")
    state = dict(tensors.read([path])) if path.suffix == ".safetensors" else tensors.load_pickle(path)
    for key in ("ema", "model", "state_dict"):  # averaged weights first, as in LlamaGen's own scripts
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} does not contain the tensors of a VQ tokenizer")
    names = tensors.unwrapped_names(state, path)
    official_tensors = {f"{official.VQ}{name}": state[own_name] for name, own_name in names.items()}
    try:
        shape = official_config.vq_shape({name: tuple(t.shape) for name, t in official_tensors.items()}, official.VQ)
        janus_tensors = dict(official.from_official(official_tensors.items()))
    except (UserError, ValueError) as error:
        raise UserError(f"{path} is not a VQ tokenizer in LlamaGen's layout: {error}") from None
    return BaseEncoder(
        shape, janus_tensors, {name: tensor for name, tensor in official_tensors.items() if official.is_extra(name)}
    )
